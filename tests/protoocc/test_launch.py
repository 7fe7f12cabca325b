"""A training that several processes of this machine share: same numbers, one message, nobody left behind."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from protoocc.config import TrainConfig
from protoocc.launch import launch
from protoocc.run_folder import read_metrics
from protoocc.trainer import train
from protoocc.training_report import TIMES, StepReport
from schemas.errors import ConfigError, DataError, StageError
from schemas.settings import override
from tests.protoocc.test_ranks import CONTEXT


@pytest.fixture(autouse=True)
def started_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that has imported torch already forks the processes, which saves seconds; none of them outlives a test.

    `test_processes_that_import_everything_themselves` and the tests of the command line start them as users do.
    """
    monkeypatch.setattr("protoocc.launch.get_context", lambda kind: CONTEXT)
    yield
    assert not multiprocessing.active_children()


def losses_of(run: Path) -> list[dict[str, int | float]]:
    return [
        {name: value for name, value in row.items() if name not in TIMES and not name.startswith("val_")}
        for row in read_metrics(run)
    ]


@pytest.mark.slow
def test_processes_do_not_change_the_run(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    """Order, schedule, losses and scores; what two processes began, one ends."""
    settings = ["schedule.steps=4", "validation.every=2", "data.batch_size=4", "seed=4", "checkpoint_every=1"]
    config, cpu = override(tiny_config, settings), torch.device("cpu")
    alone = train(config, shards, tmp_path / "alone", device=cpu)

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(2, config, shards, tmp_path / "shared", on_step=stop)
    assert not multiprocessing.active_children()
    summary = train(config, shards, tmp_path / "shared", resume=True, device=cpu)
    assert (summary.steps, summary.samples, summary.best_miou) == (4, 5, pytest.approx(alone.best_miou, abs=0.02))
    own, joint = losses_of(tmp_path / "alone"), losses_of(tmp_path / "shared")
    assert [row["lr"] for row in joint] == [row["lr"] for row in own]
    # Before the first step both have the same weights; afterwards AdamW makes whole steps of the rounding of gradients
    # that are nearly zero.
    assert joint[0] == pytest.approx(own[0], rel=1e-4)
    for one, other in zip(own, joint, strict=True):
        assert other == pytest.approx(one, rel=2e-2)


def test_process_that_is_killed_stops_the_others(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    """One message that says which one and how; the checkpoint is whole and the run goes on."""
    config, killed = override(tiny_config, ["schedule.steps=500", "checkpoint_every=1"]), list[float]()

    def kill(report: StepReport) -> None:
        if report.step == 2:
            victim = next(child for child in multiprocessing.active_children() if child.name.endswith(" 1"))
            os.kill(victim.pid or 0, signal.SIGKILL)
            killed.append(time.monotonic())

    with pytest.raises(StageError, match=r"^training process 1 of 2 was ended by SIGKILL .*continue with --resume$"):
        launch(2, config, shards, tmp_path / "run", on_step=kill)
    assert time.monotonic() - killed[0] < 15
    done = len(read_metrics(tmp_path / "run"))
    steps = list[int]()

    def stop(report: StepReport) -> None:
        steps.append(report.step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, shards, tmp_path / "run", resume=True, on_step=stop, device=torch.device("cpu"))
    assert steps[0] in (done, done + 1)


def test_error_of_one_process_is_the_error_of_the_run(
    own_shards: Path, tmp_path: Path, tiny_config: TrainConfig
) -> None:
    """A damaged image that only one of them reads: its message and no other."""
    path = next(own_shards.glob("train-00000.tar"))
    data = path.read_bytes()
    place = data.index(b"\xff\xd8\xff")
    path.write_bytes(data[:place] + bytes(200) + data[place + 200 :])
    with pytest.raises(DataError, match=r"train-00000.tar.*scene-train-00000-0000"):
        launch(2, tiny_config, own_shards, tmp_path / "run")


def test_settings_are_refused_once_and_nothing_is_written(
    shards: Path, tmp_path: Path, tiny_config: TrainConfig
) -> None:
    with pytest.raises(ConfigError, match=r"a data.batch_size that is a multiple of 3"):
        launch(3, tiny_config, shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_log_lines_of_the_first_process_arrive(
    shards: Path, tmp_path: Path, tiny_config: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = override(tiny_config, ["schedule.steps=1", "schedule.warmup_steps=1"])
    with caplog.at_level(logging.INFO):
        launch(2, config, shards, tmp_path / "run")
    lines = [record.getMessage() for record in caplog.records if record.name == "protoocc.trainer"]
    assert len(lines) == 1 and lines[0].startswith("trained 1 steps on 5 samples")


def test_broken_loss_names_the_samples_of_all_processes(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    """A class weight of infinity makes every loss infinite: both processes keep their sample."""
    weights = (1e38,) * 18
    loss = tiny_config.loss.model_copy(update={"class_weights": weights, "lambda_ce": 1e38})
    config = tiny_config.model_copy(update={"loss": loss})
    with pytest.raises(StageError, match=r"step 1: .*not finite with samples token-\d, token-\d\. Check") as error:
        launch(2, config, shards, tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run/broken").iterdir())
    assert kept == ["step-000001-process-1.safetensors", "step-000001.safetensors"]
    assert all(name in str(error.value) for name in kept)


@pytest.mark.slow
def test_processes_that_import_everything_themselves(
    shards: Path, tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    config = override(tiny_config, ["schedule.steps=1", "schedule.warmup_steps=1"])
    assert launch(2, config, shards, tmp_path / "run").steps == 1
