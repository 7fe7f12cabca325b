"""A run that was killed at any moment, moved and continued ends in the bits of one that was not."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from protoocc import checkpoint
from protoocc.checkpoint import find_checkpoint, list_checkpoints, load_state
from protoocc.config import TrainConfig
from protoocc.optimizer import lr_factor
from protoocc.run_folder import prolong, read_metrics
from protoocc.trainer import train
from protoocc.training_report import TIMES, StepReport
from schemas.errors import ConfigError
from schemas.settings import override
from tests.protoocc.test_ranks import CONTEXT

CPU = torch.device("cpu")


class KilledError(Exception):
    """Stands for a kill signal between two steps."""


def kill_at(step: int) -> Callable[[StepReport], None]:
    def kill(report: StepReport) -> None:
        if report.step == step:
            raise KilledError

    return kill


def losses_of(run: Path) -> list[dict[str, int | float]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in read_metrics(run)]


def same(one: Any, other: Any) -> bool:
    """Whether nested values are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def check_same_run(run: Path, whole: Path) -> None:
    """Rows, names of checkpoints, weights and everything that continues the run."""
    assert losses_of(run) == losses_of(whole)
    found, expected = (list_checkpoints(path / "checkpoints") for path in (run, whole))
    assert [path.name for path in found] == [path.name for path in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
        assert same(load_state(one / "state.pt"), load_state(other / "state.pt"))


@pytest.fixture(scope="module")
def full_config(request: pytest.FixtureRequest) -> TrainConfig:
    """All that has a state: an average, a loss scale, parts of a batch, the best score."""
    settings = ["schedule.steps=6", "checkpoint_every=2", "keep_last=1", "optimizer.ema=0.9", "precision=float16"]
    settings += ["data.accumulate=2", "validation.every=2", "validation.samples=2"]
    # Small losses, whose gradients do not overflow: a loss scale that falls first would move no weight in six steps.
    settings += ["loss.lambda_ce=1e-3", "loss.lambda_lovasz=1e-4", "loss.lambda_cls=1e-5", "loss.lambda_cons=1e-4"]
    return override(request.getfixturevalue("make_tiny_config")(), settings)


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory, full_config: TrainConfig) -> Path:
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(full_config, shards, run, device=CPU)
    return run


def test_state_holds_average_scale_and_best(whole: Path) -> None:
    """Weights and average differ; the loss scale has its growth counter; scores stand in the rows of their steps."""
    state = load_state(find_checkpoint(whole) / "state.pt")
    assert {"optimizer", "scaler", "trained", "sampler", "best_step", "best_miou", "shards", "step"} == set(state)
    assert state["scaler"]["scale"] > 0 and state["scaler"]["_growth_tracker"] == 6
    assert state["optimizer"]["state"][0]["step"] == 6
    stored = checkpoint.read_safetensors(find_checkpoint(whole) / "model.safetensors")
    assert not same(stored, state["trained"])
    assert [row["step"] for row in read_metrics(whole) if "val_miou" in row] == [2, 4, 6]
    scores = {int(row["step"]): row["val_miou"] for row in read_metrics(whole) if "val_miou" in row}
    assert state["best_miou"] == max(scores.values()) == scores[state["best_step"]]
    assert find_checkpoint(whole / "checkpoints/best").name == f"step-{state['best_step']:06d}"


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_killed_moved_and_read_by_other_processes(
    shards: Path, tmp_path: Path, whole: Path, full_config: TrainConfig, step: int
) -> None:
    with pytest.raises(KilledError):
        train(full_config, shards, tmp_path / "cut", on_step=kill_at(step), device=CPU)
    moved = Path(shutil.move(tmp_path / "cut", tmp_path / "elsewhere"))
    torch.manual_seed(99)
    train(override(full_config, ["data.workers=1"]), shards, moved, resume=True, device=CPU)
    check_same_run(moved, whole)


def die_while_writing(config: TrainConfig, shards: Path, run: Path, count: int, threads: int) -> None:
    """A run that kills itself when the disk confirms a file for the count-th time."""
    torch.set_num_threads(threads)  # sums of other threads have other bits
    flush, calls = checkpoint._flush, list[Path]()

    def deadly(path: Path) -> None:
        calls.append(path)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(path)

    checkpoint._flush = deadly
    train(config, shards, run, device=CPU)


@pytest.mark.parametrize(
    ("count", "left"),
    [
        pytest.param(1, ["step-000002.partial"], marks=pytest.mark.slow),  # weights of the first checkpoint
        (9, ["best", "step-000002", "step-000004.partial"]),  # state of the second one
        pytest.param(11, ["best", "step-000002", "step-000004.partial"], marks=pytest.mark.slow),  # its folder
        pytest.param(12, ["best", "step-000002", "step-000004"], marks=pytest.mark.slow),  # before the old one went
    ],
)
def test_killed_while_a_checkpoint_is_written(
    shards: Path, tmp_path: Path, whole: Path, full_config: TrainConfig, count: int, left: list[str]
) -> None:
    """A checkpoint is four files, its folder and the folder above: six confirmations each."""
    run = tmp_path / "run"
    job = (full_config, shards, run, count, torch.get_num_threads())
    process = CONTEXT.Process(target=die_while_writing, args=job)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == left
    train(full_config, shards, run, resume=True, device=CPU)
    check_same_run(run, whole)
    assert not list((run / "checkpoints").glob("*.partial"))


def test_prolonged_run(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    """4 steps and 3 more: recorded, the same also after a kill; each part has the learning rates of its own length."""
    config = override(tiny_config, ["schedule.steps=4"])
    train(config, shards, tmp_path / "a", device=CPU)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    longer = prolong(tmp_path / "a", 3, shards)
    assert (longer.schedule.steps, longer.schedule.extended) == (7, (4,))
    train(longer, shards, tmp_path / "a", resume=True, device=CPU)
    shares = [lr_factor(step, 4 if step < 4 else 7, config.schedule) for step in range(7)]
    assert [row["lr"] for row in read_metrics(tmp_path / "a")] == [config.optimizer.lr * share for share in shares]
    with pytest.raises(KilledError):
        train(prolong(tmp_path / "b", 3, shards), shards, tmp_path / "b", resume=True, on_step=kill_at(5), device=CPU)
    with pytest.raises(ConfigError, match="has 4 of its 7 steps; finish it with --resume"):
        prolong(tmp_path / "b", 3, shards)
    train(checkpoint.read_config(tmp_path / "b/config.json"), shards, tmp_path / "b", resume=True, device=CPU)
    check_same_run(tmp_path / "b", tmp_path / "a")
    assert prolong(tmp_path / "a", 1, shards).schedule.extended == (4, 7)


def test_only_a_finished_run_is_prolonged(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="holds no run that could be prolonged"):
        prolong(tmp_path, 3, shards)
    epochs = override(tiny_config, ["schedule.steps=null", "schedule.epochs=1", "checkpoint_every=1"])
    with pytest.raises(KilledError):
        train(epochs, shards, tmp_path / "run", on_step=kill_at(2), device=CPU)
    with pytest.raises(ConfigError, match="has 1 of its 3 steps"):  # 5 samples in batches of 2
        prolong(tmp_path / "run", 3, shards)
    train(epochs, shards, tmp_path / "run", resume=True, device=CPU)
    longer = prolong(tmp_path / "run", 2, shards).schedule
    assert (longer.steps, longer.epochs, longer.extended) == (5, None, (3,))
    with pytest.raises(ConfigError, match=r"schedule.steps: was null, now 9"):
        other = epochs.schedule.model_copy(update={"steps": 9, "epochs": None})
        train(epochs.model_copy(update={"schedule": other}), shards, tmp_path / "run", resume=True, device=CPU)


def test_reports_know_time_memory_and_scores(shards: Path, tmp_path: Path, full_config: TrainConfig) -> None:
    reports: list[StepReport] = []
    config = override(full_config, ["schedule.steps=2"])
    train(config, shards, tmp_path / "run", on_step=reports.append, device=CPU)
    assert all(0 <= report.data_seconds <= report.seconds and report.memory_gb > 0.05 for report in reports)
    assert not reports[0].scores and {"miou", "iou"} <= set(reports[1].scores)
    assert set(TIMES) < {field.name for field in dataclasses.fields(StepReport)} & set(reports[0].row())
