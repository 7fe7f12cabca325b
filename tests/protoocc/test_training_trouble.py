"""What is said and kept when a step fails, and the step that only half fails: an overflow in float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from protoocc import train_step
from protoocc.averaging import WeightAverage
from protoocc.batch import Batch
from protoocc.config import TrainConfig
from protoocc.data import ShardDataset, open_shards
from protoocc.data.dataset import collate
from protoocc.run_folder import read_metrics
from protoocc.trainer import train
from protoocc.training_trouble import memory_switches, read_batch
from schemas.errors import StageError
from schemas.settings import override

CPU = torch.device("cpu")


def fail_with(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Puts something between the losses and the step."""
    losses = train_step.compute_losses
    monkeypatch.setattr("protoocc.train_step.compute_losses", lambda *given: change(losses(*given), given[1]))


def test_broken_batch_is_kept_and_read_again(
    shards: Path, tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the part whose loss is not finite, as it went into the network."""
    dataset, seen = ShardDataset(open_shards(shards, "train")), list[list[str]]()

    def spoil(losses: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        seen.append(batch.tokens)
        return {name: value * float("nan") for name, value in losses.items()} if len(seen) == 6 else losses

    fail_with(monkeypatch, spoil)
    config = override(tiny_config, ["data.accumulate=2"])
    with pytest.raises(StageError, match=r"step 3: .* with samples token-\d\. Check") as error:
        train(config, shards, tmp_path / "run", device=CPU)
    path = tmp_path / "run/broken/step-000003.safetensors"
    assert f"kept in {path}" in str(error.value)
    kept = read_batch(path)
    assert kept.tokens == seen[5]
    assert f"with samples {seen[5][0]}." in str(error.value)
    expected = collate([dataset[int(seen[5][0].removeprefix("token-"))]])
    assert torch.equal(kept.images, expected.images)
    assert kept.semantics is not None and expected.semantics is not None
    assert torch.equal(kept.semantics, expected.semantics)
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2]


def test_gradient_that_is_not_finite_names_the_whole_batch(
    shards: Path, tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The square root of zero has an infinite slope and a finite value."""

    def bend(losses: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        return losses | {"total": losses["total"] + (losses["ce"] - losses["ce"]).sqrt()}

    fail_with(monkeypatch, bend)
    with pytest.raises(StageError, match=r"step 1: gradient_norm not finite with samples token-\d, token-\d\. Check"):
        train(tiny_config, shards, tmp_path / "run", device=CPU)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
)
def test_missing_memory_names_the_switches(
    shards: Path, tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(losses: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        raise error

    fail_with(monkeypatch, fail)
    with pytest.raises(StageError) as told:
        train(tiny_config, shards, tmp_path / "run", device=CPU)
    lines = str(told.value).splitlines()
    assert lines[0] == "step 1: no memory left for 2 samples at once. What helps, the mildest first:"
    assert [line.split("=")[0].strip() for line in lines[1:-1]] == [
        "--set model.recompute",
        "--set data.accumulate",
        "--set precision",
        "--set data.batch_size",
    ]
    for line in lines[1:-1]:  # each of them is a setting that there is
        override(tiny_config, [line.split()[1]])


def test_other_errors_stay_as_they_are(
    shards: Path, tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(losses: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        raise RuntimeError("shapes do not match")

    fail_with(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="^shapes do not match$"):
        train(tiny_config, shards, tmp_path / "run", device=CPU)


def test_switches_that_do_nothing_more_are_not_named(tiny_config: TrainConfig) -> None:
    settings = ["model.recompute=true", "precision=bfloat16", "data.batch_size=8", "loss.supervised_voxels=null"]
    config = override(tiny_config, settings)
    # 8 samples on 2 processes: 4 each, the next number of equal parts is 2, half of them are 2 x 2.
    assert [switch.split()[0] for switch in memory_switches(config, 2)] == [
        "data.accumulate=2",
        "loss.supervised_voxels=50000",
        "data.batch_size=4",
    ]
    single = override(config, ["data.batch_size=1", "loss.supervised_voxels=100"])
    assert memory_switches(single, 1) == ["a smaller network or grid: nothing else is left to switch"]


def test_overflow_in_float16_leaves_a_step_out(
    shards: Path, tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale of the loss halves, the run goes on, and its average does not take part in the step."""
    calls, averages = list[list[str]](), list[int]()

    def overflow(losses: dict[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        calls.append(batch.tokens)
        return losses | {"total": losses["total"] * (1e37 if len(calls) == 2 else 1.0)}  # times 65536: infinite

    fail_with(monkeypatch, overflow)
    monkeypatch.setattr(WeightAverage, "update", lambda self, model, step: averages.append(step))
    small = ["loss.lambda_ce=1e-3", "loss.lambda_lovasz=1e-4", "loss.lambda_cls=1e-5", "loss.lambda_cons=1e-4"]
    config = override(tiny_config, ["precision=float16", "schedule.steps=3", "optimizer.ema=0.5", *small])
    train(config, shards, tmp_path / "run", device=CPU)
    rows = read_metrics(tmp_path / "run")
    assert [row.get("skipped", 0) for row in rows] == [0, 1, 0]
    assert "gradient_norm" not in rows[1]
    assert rows[1]["loss_scale"] == rows[0]["loss_scale"] / 2 == rows[2]["loss_scale"]
    assert averages == [1, 3]
