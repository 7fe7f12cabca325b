"""One writer per folder: refused by name, taken over from the dead, fair when two start at the same moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas import lock
from schemas.errors import ConfigError
from schemas.lock import Holder, folder_lock, lock_path, process_start

ROOT = Path(__file__).parents[2]

HOLD = """
import sys, time
from pathlib import Path
from schemas.errors import ConfigError
from schemas.lock import folder_lock
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
try:
    with folder_lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(float(sys.argv[3]))
except ConfigError as error:
    print("refused", error, flush=True)
"""


def hold(folder: Path, at_s: float = 0.0, for_s: float = 60.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), str(at_s), str(for_s)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that says nothing belongs to a dead process after a moment already."""
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.1)


def test_second_writer_is_refused_with_host_process_and_start(tmp_path: Path) -> None:
    first = hold(tmp_path / "store")
    assert first_line(first) == "held\n"
    with (
        pytest.raises(ConfigError, match=rf"written by process {first.pid} on {os.uname().nodename}, started \d{{4}}-"),
        folder_lock(tmp_path / "store"),
    ):
        pass
    with folder_lock(tmp_path / "other"):
        pass
    stop(first)


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    dead = hold(tmp_path / "store")
    assert first_line(dead) == "held\n"
    stop(dead)
    assert lock_path(tmp_path / "store").is_file()
    with folder_lock(tmp_path / "store"):
        assert json.loads(lock_path(tmp_path / "store").read_bytes())["pid"] == os.getpid()
    assert not lock_path(tmp_path / "store").exists()


def test_a_number_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    reused = Holder.this()._replace(start="long ago")
    lock_path(tmp_path / "store").write_text(json.dumps(reused._asdict()))
    with folder_lock(tmp_path / "store"):
        pass


def test_lock_of_another_host_stays(tmp_path: Path) -> None:
    other = Holder.this()._replace(host="elsewhere", pid=1)
    lock_path(tmp_path / "store").write_text(json.dumps(other._asdict()))
    with (
        pytest.raises(ConfigError, match=r"process 1 on elsewhere.*remove .*store.lock"),
        folder_lock(tmp_path / "store"),
    ):
        pass


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("text", ["", "[]", "{", '{"pid": 3}'])
def test_lock_that_says_nothing_is_taken_over_after_a_while(text: str, tmp_path: Path) -> None:
    lock_path(tmp_path / "store").write_text(text)
    with folder_lock(tmp_path / "store"):
        pass


@pytest.mark.parametrize("stale", [False, True])
def test_one_of_many_that_start_at_the_same_moment_wins(stale: bool, tmp_path: Path) -> None:
    if stale:
        dead = Holder.this()._replace(start="long ago")
        lock_path(tmp_path / "store").write_text(json.dumps(dead._asdict()))
    start = time.time() + 1.5
    writers = [hold(tmp_path / "store", at_s=start, for_s=3.0) for _ in range(4)]
    words = sorted(first_line(writer).split()[0] for writer in writers)
    for writer in writers:
        stop(writer)
    assert words == ["held", "refused", "refused", "refused"]


def test_start_of_a_process() -> None:
    assert process_start(os.getpid()) == process_start(os.getpid()) != process_start(1)
    assert process_start(2**22 + 1) is None


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"pid": ' + "9" * 5000 + "}", " " * 100_000, "null", r'{"host": "\ud800"}']
)
def test_lock_that_says_nothing_sensible_is_taken_over(text: str, tmp_path: Path) -> None:
    """Deep JSON ended in a foreign exception."""
    (tmp_path / "store.lock").write_text(text)
    with folder_lock(tmp_path / "store"):
        assert json.loads((tmp_path / "store.lock").read_text())["pid"] == os.getpid()
