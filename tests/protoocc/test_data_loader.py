"""What goes wrong in processes that read ahead: one clear error, no traceback of theirs, no waiting for ever."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from protoocc.config import TrainConfig
from protoocc.data import reader_deaths
from protoocc.data.loader import Loader
from protoocc.trainer import train
from schemas.errors import DataError, SetupError, StageError
from schemas.settings import override
from tests.small_memory import run_with


@dataclass(frozen=True)
class Row:
    """A batch of one tensor."""

    values: Tensor


class Calls(Dataset[Tensor]):
    """Sample n is n; sample 3 does something else instead."""

    def __init__(self, third: Callable[[], None]) -> None:
        self.third = third

    def __getitem__(self, number: int) -> Tensor:
        if number == 3:
            self.third()
        return torch.full((1,), number)


def collate(samples: list[Tensor]) -> Row:
    return Row(torch.cat(list(samples)))


def read(third: Callable[[], None], workers: int = 1) -> list[list[int]]:
    batches = [[0, 1], [2, 3], [4, 5]]
    loader = Loader(Calls(third), collate, batches, workers=workers, pin_memory=False, setting="data.workers")
    with reader_deaths("data.workers"):
        return [row.values.tolist() for row in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order(workers: int) -> None:
    assert read(lambda: None, workers) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_sample_is_the_message_of_its_reader(workers: int) -> None:
    """It came with the traceback of the process that read it."""

    def refuse() -> NoReturn:
        raise DataError("train-0.tar, sample 3 is damaged")

    with pytest.raises(DataError) as caught:
        read(refuse, workers)
    assert str(caught.value) == "train-0.tar, sample 3 is damaged"


def test_killed_reader_is_named_with_the_ways_out() -> None:
    with pytest.raises(StageError) as caught:
        read(lambda: os.kill(os.getpid(), signal.SIGKILL))
    for words in ("killed by signal: Killed", "memory ran out", "--set data.workers=0"):
        assert words in str(caught.value)


def test_bus_error_names_shared_memory_and_cut_files(tmp_path: Path) -> None:
    """A file that shrinks while it is mapped into memory."""

    def shrink() -> None:
        with (tmp_path / "file").open("wb+") as file:
            file.write(bytes(8192))
            file.flush()
            with mmap.mmap(file.fileno(), 8192) as view:
                os.truncate(file.fileno(), 0)
                view[5000]

    with pytest.raises(StageError) as caught:
        read(shrink)
    for words in ("Bus error", "shared memory is full", "a file was cut", "--set data.workers=0"):
        assert words in str(caught.value)


def test_connection_may_break_before_the_signal_of_the_death() -> None:
    """What a dead process was sending is found out first now and then; other broken connections stay what they are."""

    def die(signum: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. Advice.")

    before = signal.signal(signal.SIGALRM, die)
    try:
        with pytest.raises(StageError, match="killed by signal: Bus error"), reader_deaths("data.workers"):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            raise ConnectionResetError(104, "Connection reset by peer")
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ConnectionResetError), reader_deaths("data.workers"):
        raise ConnectionResetError(104, "Connection reset by peer")


def test_death_interrupts_whatever_runs(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    """The signal of a dead process arrives in the middle of a step as well."""
    with pytest.raises(StageError, match=r"a process that reads ahead died \(killed by signal: Killed"):
        train(
            override(tiny_config, ["data.workers=1"]), shards, tmp_path / "run", on_step=lambda step: _kill_the_reader()
        )


def _kill_the_reader() -> None:
    for child in multiprocessing.active_children():  # not the servers that other tests leave running
        child.kill()
    time.sleep(0.5)  # until the system has told torch, which raises in the main thread


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="a matrix is singular"), reader_deaths("data.workers"):
        raise RuntimeError("a matrix is singular")


def test_batch_that_does_not_fit_into_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training waited for it for ever."""

    def refuse(self: Tensor) -> NoReturn:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", refuse)
    with pytest.raises(SetupError) as caught:
        read(lambda: None)
    for words in ("No space left", "--shm-size=8g", "--set data.workers=0"):
        assert words in str(caught.value)


class Unsendable(Row):
    """A batch that fails while it is sent."""

    def __reduce__(self) -> NoReturn:
        raise OSError(28, "No space left on device")


def test_batch_that_cannot_be_sent_ends_its_reader() -> None:
    def make(samples: list[Tensor]) -> Unsendable:
        return Unsendable(torch.cat(list(samples)))

    dataset = Calls(lambda: None)
    loader = Loader(dataset, make, [[0]], workers=1, pin_memory=False, setting="data.workers")
    with pytest.raises(StageError, match="a process that reads ahead died"), reader_deaths("data.workers"):
        list(loader)


TRAIN = """
import subprocess, sys
from pathlib import Path
from cli.failures import failure_of
from protoocc.config import TrainConfig
from protoocc.trainer import train
for size in sys.argv[2:]:
    subprocess.run(["mount", "-o", f"remount,size={size}", "/dev/shm"], check=True)
    try:
        train(TrainConfig.model_validate_json(Path("config.json").read_bytes()), Path(sys.argv[1]), Path(size))
    except Exception as error:
        print(failure_of(error).code, flush=True)
        failure_of(error).print()
"""


@pytest.mark.slow
def test_small_shared_memory_is_one_message(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    """None at all, and too little for a batch, one after the other in one process."""
    (tmp_path / "config.json").write_text(override(tiny_config, ["data.workers=2"]).model_dump_json())
    done = run_with("4k", tmp_path, TRAIN, str(shards), "4k", "160k")
    assert (done.returncode, done.stdout) == (0, "2\n2\n"), done.stderr
    assert "Traceback" not in done.stderr
    said = " ".join(done.stderr.split()).split("error:")
    assert len(said) == 3
    for word in ("worker processes need shared memory", "/dev/shm has 0.0 MiB", "--set data.workers=0"):
        assert word in said[1]
    for word in ("does not fit into shared memory", "/dev/shm has 0.2 MiB", "--set data.workers=0"):
        assert word in said[2]
