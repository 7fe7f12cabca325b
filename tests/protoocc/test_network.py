"""The protocol: a network that the product has never heard of does everything that ProtoOcc does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from protoocc.batch import Batch
from protoocc.checkpoint import OtherNetworkError, list_checkpoints, load_network, read_config
from protoocc.config import TrainConfig, WeightsConfig
from protoocc.data import open_shards
from protoocc.evaluate import score
from protoocc.hosts import HOSTS, build_network
from protoocc.inference import predict
from protoocc.network import Network, NetworkConfig, NetworkOutput
from protoocc.pictures import draw
from protoocc.run_folder import read_metrics
from protoocc.trainer import train
from protoocc.training_report import StepReport
from protoocc.weights import WeightsFile, check_weights
from schemas.errors import CheckpointError, ConfigError
from schemas.settings import override
from tests.protoocc.conftest import KITTI, make_config

STORED = Path(__file__).parent / "stored" / "config-format-1.json"


class ToyConfig(NetworkConfig):
    """One number per voxel and class, and how much the brightness of the images counts."""

    kind: Literal["toy"] = "toy"
    start: float = Field(0.0, ge=0, description="First value of every logit.")


class Toy(Network):
    """Learns the frequent class of each voxel."""

    Config: ClassVar[type[NetworkConfig]] = ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Parameter(torch.full((*config.grid.shape, config.num_classes), config.start))
        self.light = nn.Parameter(torch.zeros(config.num_classes))

    def forward(self, batch: Batch, voxels: Tensor | None = None) -> NetworkOutput:
        light = batch.images.float().mean((1, 2, 3, 4))[:, None, None, None, None] / 255.0
        logits = (self.table + light * self.light).flatten(0, 3)
        if voxels is None:
            voxels = torch.arange(len(logits))
        return NetworkOutput(logits[voxels][None], voxels)


@pytest.fixture
def toy_config(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Settings of a run of the toy network; its kind is one more line of the table."""
    monkeypatch.setitem(HOSTS, "toy", Toy)
    fields = make_config().model_dump(mode="json")
    fields["model"] = {"kind": "toy", "grid": fields["model"]["grid"], "start": 0.5}
    return TrainConfig.model_validate(
        {**fields, "optimizer": {"lr": 0.3}, "schedule": {"steps": 12, "warmup_steps": 1}}
    )


def test_another_network_trains_resumes_scores_and_draws(toy_config: TrainConfig, shards: Path, tmp_path: Path) -> None:
    def kill(report: StepReport) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(toy_config, shards, whole)
    with pytest.raises(KeyboardInterrupt):
        train(toy_config, shards, killed, on_step=kill)
    train(toy_config, shards, killed, resume=True)
    weights = [(run / "checkpoints/step-000012/model.safetensors").read_bytes() for run in (whole, killed)]
    assert weights[0] == weights[1]
    rows = read_metrics(whole)
    assert rows[-1]["ce"] < 0.5 * rows[0]["ce"]
    assert {row["cls"] for row in rows} == {row["cons"] for row in rows} == {0.0}
    network, config = load_network(whole)
    assert isinstance(network, Toy) and isinstance(config.model, ToyConfig)
    assert config.model.start == 0.5
    road = score(whole, shards, "val").row("model").classes["driveable_surface"]
    assert road is not None and road > 0.9
    assert len(list(predict(network, open_shards(shards, "val")))) == 2
    assert all(
        path.is_file() for path in draw(open_shards(shards, "val"), tmp_path / "pictures", checkpoint=whole, samples=1)
    )


def test_what_it_does_not_offer_is_said(toy_config: TrainConfig, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(override(toy_config, ["schedule.steps=1"]), shards, run)
    with pytest.raises(ConfigError, match="there are no prototypes to draw"):
        draw(open_shards(shards, "val"), tmp_path / "pictures", checkpoint=run, prototypes=True)
    record = WeightsConfig(file="resnet.pth", sha256="0", format="torchvision")
    with pytest.raises(CheckpointError, match="kind 'toy' reads its images otherwise .* resnet.pth"):
        check_weights(toy_config.model, WeightsFile(record, {}, ""))


def test_settings_are_told_apart_by_kind(toy_config: TrainConfig, tiny_config: TrainConfig) -> None:
    assert TrainConfig.model_validate_json(toy_config.model_dump_json()) == toy_config
    with pytest.raises(ConfigError, match=r"field 'model.start' = -1: .*greater than or equal to 0"):
        override(toy_config, ["model.start=-1"])
    with pytest.raises(ConfigError, match=r"no network of kind 'vox'; known: protoocc, plain, .*toy"):
        override(toy_config, ["model.kind=vox"])
    with pytest.raises(ConfigError, match="unknown field 'model.channels'"):
        override(tiny_config, ["model.kind=toy"])
    with pytest.raises(ConfigError, match=r"free = 18 is none of the 18 classes 0..17"):
        override(tiny_config, ["model.free=18"])
    with pytest.raises(ConfigError, match="no network of kind 'vox'"):
        build_network(NetworkConfig(kind="vox"))


def test_network_of_an_older_release_is_refused(shards: Path, tmp_path: Path) -> None:
    """Its config.json has no version: the same weights would give other predictions without a word."""
    stored = json.loads(STORED.read_text())
    assert "version" not in stored["model"]
    run = tmp_path / "run"
    train(override(make_config(), ["schedule.steps=1", "schedule.warmup_steps=0"]), shards, run)
    for folder in (run, run / "checkpoints/step-000001"):
        shutil.copy(STORED, folder / "config.json")
    (run / "checkpoints/step-000001/SHA256SUMS").unlink()  # older releases wrote none
    for use in (lambda: load_network(run), lambda: train(make_config(), shards, run, resume=True)):
        with pytest.raises(CheckpointError, match=r"config.json describes a network of version 1, .* Train it again"):
            use()


def test_weights_of_another_release_are_refused_and_left_alone(shards: Path, tmp_path: Path) -> None:
    """No checkpoint of the run is offered in place of the last one or set aside as damaged: all are of that release."""
    run = tmp_path / "run"
    config = override(make_config(), ["schedule.steps=2", "schedule.warmup_steps=0", "checkpoint_every=1"])
    train(config, shards, run)
    checkpoints = list_checkpoints(run / "checkpoints")
    for folder in checkpoints:
        weights = load_file(folder / "model.safetensors")
        old = {name.replace(".mapping.project.", ".mapping.lift."): tensor for name, tensor in weights.items()}
        save_file(old, folder / "model.safetensors")
        (folder / "SHA256SUMS").unlink()
    for use in (lambda: load_network(run), lambda: train(config, shards, run, resume=True)):
        with pytest.raises(OtherNetworkError, match=r"unexpected: .*mapping.lift(.|\n)* of another release") as refused:
            use()
        assert "name it instead" not in str(refused.value)
    assert len(checkpoints) == 2
    assert list_checkpoints(run / "checkpoints") == checkpoints


def test_configuration_without_class_table_is_read(tmp_path: Path) -> None:
    """As older releases wrote it, with neither `kind` nor classes: Occ3D is meant."""
    stored = json.loads(STORED.read_text())
    assert "kind" not in stored["model"] and "classes" not in stored
    stored["model"]["version"] = 2
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert read_config(tmp_path / "config.json") == make_config()


@pytest.mark.slow
def test_another_class_table_trains_scores_and_draws(kitti_shards: Path, shards: Path, tmp_path: Path) -> None:
    """Free space first, 33 classes: nothing but two settings changes, and the checkpoint carries the table."""
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="--set model.num_classes=33 --set model.free=0"):
        train(make_config(), kitti_shards, run)
    changes = ["model.num_classes=33", "model.free=0", "schedule.steps=40", "schedule.warmup_steps=5"]
    config = override(make_config(), changes)
    assert build_network(config.model).state_dict()["decoder.classifier.2.bias"].argmax() == 0
    train(config, kitti_shards, run)
    network, stored = load_network(run)
    assert stored.classes == KITTI
    report = score(run, kitti_shards, "val")
    assert list(report.row("model").classes) == list(KITTI.occupied)
    road = report.row("model").classes["driveable_surface"]
    assert road is not None and road > 0.8
    # Of the scored classes the baseline knows the road alone: (1 + 0) / 2.
    assert report.row("frequent_class").miou == 0.5
    assert report.row("all_free").iou == 0.0
    for _, prediction in predict(network, open_shards(kitti_shards, "val")):
        assert KITTI.names[int(np.bincount(prediction.ravel()).argmax())] == "nothing"
    assert draw(open_shards(kitti_shards, "val"), tmp_path / "pictures", checkpoint=run, samples=1)[0].is_file()
    with pytest.raises(ConfigError, match="class 0 is nothing there and others here"):
        score(run, shards, "val")
    with pytest.raises(ConfigError, match="class 0 is nothing there and others here"):
        draw(open_shards(shards, "val"), tmp_path / "pictures", checkpoint=run)


def test_class_weights_are_compared_with_the_table(shards: Path, tmp_path: Path) -> None:
    config = override(make_config(), ["loss.class_weights=[1.0,2.0]"])
    with pytest.raises(ConfigError, match=r"loss.class_weights has 2 entries, .* has 18 classes"):
        train(config, shards, tmp_path / "run")
