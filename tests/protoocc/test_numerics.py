"""Low precision, compilation and anomaly detection of the whole network."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines.masks import SeedsConfig, make_masks
from pipelines.occupancy import LidarConfig, make_occupancy
from pipelines.pack import PackConfig, pack
from pipelines.prepare import prepare
from pipelines.stage import Runtime
from protoocc.batch import Batch
from protoocc.losses import LossConfig, choose_voxels, compute_losses
from protoocc.model import ProtoOcc
from protoocc.presets import PRESETS
from protoocc.run_folder import read_metrics
from protoocc.trainer import train
from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.images import ImageSpec
from schemas.settings import override
from tests.protoocc.test_model import make_batch, tiny_model
from tests.protoocc.test_model_temporal import pose, with_past


def step(model: ProtoOcc, batch: Batch) -> torch.Tensor:
    """Loss of one training step, after its backward pass."""
    choice = choose_voxels(batch, LossConfig(), OCC3D)
    loss = compute_losses(model(batch, choice.all), batch, choice, LossConfig())["total"]
    loss.backward()
    return loss.detach()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"frames": 3}, {"frames": 3, "temporal": "recurrence"}, {"recompute": True}])
def test_no_operation_is_anomalous(changes: dict[str, object]) -> None:
    """torch's anomaly detection finds neither NaN gradients nor values changed in place."""
    torch.manual_seed(0)
    model = ProtoOcc(tiny_model(**changes)).train()
    batch = with_past(make_batch(), 3, pose(x_m=1.0)) if "frames" in changes else make_batch()
    with torch.autograd.set_detect_anomaly(True):
        assert torch.isfinite(step(model, batch))


def test_training_is_deterministic() -> None:
    """Two runs of three steps from one seed give the same bits."""
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        model = ProtoOcc(tiny_model()).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            step(model, make_batch())
            optimizer.step()
        runs.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(runs[0], runs[1])


COMPILED = """
import torch
from protoocc.model import ProtoOcc
from tests.protoocc.test_model import make_batch, tiny_model
from schemas.settings import override

torch.manual_seed(0)
model, batch = ProtoOcc(tiny_model()).eval(), make_batch()
features = [f.detach() for f in model.image_features(batch.images.flatten(0, 1))]
hits = model.find_hits((40, 70), batch.image_from_camera, batch.camera_from_ego)
answers = []
for transform in (model.transform_view, torch.compile(model.transform_view)):
    model.zero_grad()
    queries, _ = transform(features, hits, 1)
    queries.square().sum().backward()
    answers.append([queries.detach()] + [p.grad.clone() for p in model.encoder.parameters() if p.grad is not None])
for eager, compiled in zip(*answers, strict=True):
    torch.testing.assert_close(compiled, eager, atol=1e-4, rtol=1e-4)
print(len(answers[1]), torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""
"""Runs by itself: shape checks at run time are Python that cannot be compiled."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_view_transformation_gives_the_same() -> None:
    """torch.compile of the view transformation changes neither the queries nor their gradients."""
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", COMPILED], cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    gradients, graphs = map(int, run.stdout.split())
    assert gradients > 40
    assert graphs > 0


@pytest.mark.slow
def test_bfloat16_stays_finite_on_real_images(tmp_path: Path, real_nuscenes: Path, sync_runtime: Runtime) -> None:
    """200 steps in bfloat16 on two real keyframes: every loss and gradient norm is finite, and the losses fall."""
    dataset = DatasetSpec(
        name="real",
        format="nuscenes",
        root=real_nuscenes,
        version="v1.0-mini",
        work=tmp_path,
        image=ImageSpec(resize=(200, 112), crop=(0, 8, 200, 104)),
        splits={"train": SplitSpec(scenes=("scene-0916",), every=20, limit=2)},
    )
    prepare(dataset, tmp_path, sync_runtime)
    make_occupancy(dataset, tmp_path, LidarConfig(), sync_runtime)
    make_masks(dataset, tmp_path, SeedsConfig(segments=91), sync_runtime)
    pack(dataset, tmp_path, PackConfig(), sync_runtime)
    changes = ["precision=bfloat16", "schedule.steps=200", "schedule.warmup_steps=10", "loss.supervised_voxels=4000"]
    # Narrow: a CPU without instructions for bfloat16 takes 10 s for a step of the demo's widths.
    narrow = ["model.backbone_width=16", "model.channels=32", "model.refinement_channels=16"]
    narrow += ["weights=null", "model.frozen_features=false"]
    config = override(PRESETS["demo"](), [*changes, *narrow, "loss.consistency_voxels=2000"])
    train(config, tmp_path / "shards", tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    assert len(rows) == 200
    assert all(math.isfinite(value) for row in rows for value in row.values())
    first, last = (sum(row["total"] for row in part) for part in (rows[:20], rows[-20:]))
    assert last < 0.9 * first
