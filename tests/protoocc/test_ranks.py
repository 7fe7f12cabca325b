"""Two real processes with gloo: what they compute together is what one computes alone."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from protoocc.config import TrainConfig
from protoocc.data import ShardDataset, open_shards
from protoocc.data.dataset import collate
from protoocc.hosts import build_network
from protoocc.joint_norm import JointBatchNorm2d, join_norms
from protoocc.ranks import LostRankError, Ranks
from protoocc.run_checks import make_sampler
from protoocc.train_step import Stepper
from schemas.errors import ConfigError
from schemas.settings import override

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["protoocc.launch"])


def together(action: Callable[..., Any], *arguments: Any, size: int = 2) -> list[Any]:
    """What each of some processes returns; None for one that ended without a word."""
    parts = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    meeting = arguments[0] / f"meeting-{time.monotonic_ns()}"
    processes = [
        CONTEXT.Process(target=join, args=(rank, size, meeting, own, action, arguments))
        for rank, (_, own) in enumerate(parts)
    ]
    for process, (_, own) in zip(processes, parts, strict=True):
        process.start()
        own.close()
    results = []
    for process, (words, _) in zip(processes, parts, strict=True):
        try:
            results.append(words.recv())
        except EOFError:
            results.append(None)
        process.join()
    return results


def join(
    rank: int, size: int, meeting: Path, words: Connection, action: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """One process."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    words.send(action(*arguments))
    words.close()
    os._exit(0)


Numbers = dict[str, Any]


def one_step(folder: Path, shards: Path, config: TrainConfig) -> tuple[Numbers, Numbers, Numbers]:
    """Losses, gradients and running statistics of the first step, in float64.

    In float32 rounding alone moves single gradients by 1e-5, and a ReLU at zero by more.
    """
    torch.manual_seed(0)
    ranks, split = Ranks.current(), open_shards(shards, "train")
    model = build_network(config.model).double()
    if ranks.size > 1:
        join_norms(model)
    stepper = Stepper(model.train(), config, ranks, torch.device("cpu"))
    sampler, dataset = make_sampler(config, len(split.samples), ranks), ShardDataset(split)
    parts = [collate([dataset[index] for index in part]) for part, _ in zip(sampler, sampler.numbers(), strict=False)]
    parts = [
        dataclasses.replace(
            part, image_from_camera=part.image_from_camera.double(), camera_from_ego=part.camera_from_ego.double()
        )
        for part in parts
    ]
    losses = stepper.step(parts, sampler.numbers(), 1, lr=1e-3, out=folder)
    gradients = {name: value.grad.numpy() for name, value in model.named_parameters() if value.grad is not None}
    return losses, gradients, {name: value.numpy() for name, value in model.named_buffers() if "running" in name}


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_processes_give_the_gradients_of_the_joint_batch(
    tmp_path: Path, shards: Path, tiny_config: TrainConfig, accumulate: int
) -> None:
    """With joint norms, losses of samples of unlike size, random voxels and random views."""
    settings = ["data.batch_size=4", f"data.accumulate={accumulate}", "optimizer.clip_norm=1e9"]
    config = override(tiny_config, settings)
    alone = one_step(tmp_path, shards, config)
    for rank, found in enumerate(together(one_step, tmp_path, shards, config)):
        assert found is not None, f"process {rank} failed"
        assert found[0] == pytest.approx(alone[0], rel=1e-5)
        assert found[1].keys() == alone[1].keys()
        for name, own in alone[1].items():
            assert abs(found[1][name] - own).max() <= 1e-8 * max(abs(own).max(), 1e-2), name
        for name, own in alone[2].items():
            assert found[2][name] == pytest.approx(own, rel=1e-5, abs=1e-6), name


def moments(folder: Path) -> Numbers:
    """A norm over unlike shares of a batch, its gradients and statistics."""
    ranks = Ranks.current()
    norm = nn.Sequential(nn.BatchNorm2d(2, momentum=0.5))
    if ranks.size > 1:
        join_norms(norm)
    norm.train()
    values = (torch.arange(24.0).view(3, 2, 2, 2) ** 2).requires_grad_()
    mine = values if ranks.size == 1 else values[:1] if ranks.is_first else values[1:]
    weights = torch.linspace(-1, 1, 24).view(3, 2, 2, 2)
    own = weights if ranks.size == 1 else weights[:1] if ranks.is_first else weights[1:]
    (norm(mine) * own).sum().backward()
    found = {"input": values.grad, "weight": norm[0].weight.grad, "bias": norm[0].bias.grad}
    sums = {name: ranks.sum(value).numpy() for name, value in found.items() if value is not None}
    return sums | {name: value.numpy() for name, value in norm.named_buffers()}


def test_joint_norm_is_a_norm_over_all_processes(tmp_path: Path) -> None:
    alone = moments(tmp_path)
    for found in together(moments, tmp_path):
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_norm_that_processes_cannot_share_is_named() -> None:
    model = nn.Sequential(nn.Sequential(nn.BatchNorm2d(2)), nn.BatchNorm2d(3, affine=False))
    with pytest.raises(ConfigError, match=r"^1 is BatchNorm2d\(3, .*affine=False"):
        join_norms(model)
    kept = nn.Sequential(nn.BatchNorm2d(2)).eval()
    join_norms(kept)
    assert isinstance(kept[0], JointBatchNorm2d) and isinstance(kept[0], nn.BatchNorm2d)
    assert not kept[0].training and list(kept.state_dict()) == list(nn.Sequential(nn.BatchNorm2d(2)).state_dict())


def exchange(folder: Path) -> list[Any]:
    """Everything that processes tell each other, with parameters that only some of them used."""
    ranks = Ranks.current()
    used, half, unused, frozen = (nn.Parameter(torch.zeros(2)) for _ in range(4))
    frozen.requires_grad_(False)
    used.grad = torch.tensor([1.0, 3.0]) * (ranks.rank + 1)
    half.grad = torch.tensor([5.0, 7.0]) if ranks.is_first else None
    ranks.mean_gradients([used, half, unused, frozen])
    gradients = [None if value.grad is None else value.grad.tolist() for value in (used, half, unused, frozen)]
    acted = ranks.first(lambda: ranks.rank)
    return [gradients, acted, ranks.gather(f"from {ranks.rank}"), ranks.mean(torch.tensor([float(ranks.rank)])).item()]


def test_exchange(tmp_path: Path) -> None:
    # (1 + 2) / 2 = 1.5 times [1, 3]; a gradient that one process lacks counts as zero there.
    gradients = [[1.5, 4.5], [2.5, 3.5], None, None]
    words = ["from 0", "from 1"]
    assert together(exchange, tmp_path) == [[gradients, 0, words, 0.5], [gradients, None, words, 0.5]]


def fail_in_first(folder: Path) -> str:
    def act() -> None:
        raise ConfigError("no such thing")

    try:
        Ranks.current().first(act)
    except (ConfigError, LostRankError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_failure_of_the_first_process_stops_the_others(tmp_path: Path) -> None:
    first, second = together(fail_in_first, tmp_path)
    assert first == "ConfigError: no such thing"
    assert second == "LostRankError: process 0 of 2 failed, process 1 stops"


def outlive(folder: Path) -> tuple[str, float]:
    ranks = Ranks.current()
    ranks.gather(None)
    if not ranks.is_first:
        os._exit(1)
    started = time.monotonic()
    try:
        ranks.sum(torch.zeros(10))
    except LostRankError as error:
        return str(error), time.monotonic() - started
    return "nothing", 0.0


def test_process_that_dies_is_noticed_at_once(tmp_path: Path) -> None:
    first, second = together(outlive, tmp_path)
    assert second is None
    assert "another process of this run ended" in first[0] and "--resume" in first[0]
    assert first[1] < 10
