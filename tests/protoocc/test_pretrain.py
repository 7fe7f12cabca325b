"""Pretraining of image features: it learns, goes on after a kill, leaves a file that training starts from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from protoocc.config import TrainConfig
from protoocc.data import open_shards
from protoocc.hosts import build_network
from protoocc.pretrain import PretrainConfig, PretrainStep, pretrain_images, pretrain_preset
from protoocc.pretrain.scores import at_pixels
from protoocc.pretrain.targets import PixelDataset, mirrored, recoloured
from protoocc.pretrain.trainer import changed, class_weights
from protoocc.trainer import train
from protoocc.weights import check_weights, fill, read_weights
from schemas.classes import OCC3D
from schemas.errors import CheckpointError, ConfigError, DataError

CAR, ROAD = OCC3D.index("car"), OCC3D.index("driveable_surface")


@pytest.fixture
def config(tiny_config: TrainConfig) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "model": tiny_config.model,
            "schedule": {"steps": 12, "warmup_steps": 2},
            "optimizer": {"lr": 1e-2, "backbone_lr_factor": 1.0},
            "batch_size": 2,
            "checkpoint_every": 5,
        }
    )


def test_it_learns_and_says_how_well(config: PretrainConfig, pixel_shards: Path, tmp_path: Path) -> None:
    steps: list[PretrainStep] = []
    summary = pretrain_images(config, pixel_shards, tmp_path / "run", command="make it", on_step=steps.append)
    assert [step.step for step in steps] == list(range(1, 13))
    assert steps[-1].losses["classes"] < 0.7 * steps[0].losses["classes"]
    assert steps[-1].losses["depth"] < steps[0].losses["depth"]
    assert summary.scores.images == 4 and summary.scores.pixel_accuracy is not None
    assert summary.scores.pixel_accuracy > 0.3
    with safe_open(summary.weights, "pt") as file:
        card = json.loads(file.metadata()["card"])
        assert file.get_tensor("image_features.resnet.conv1.weight").dtype == torch.float16
    assert card == json.loads((tmp_path / "run/image_features.json").read_text())
    assert card["command"] == "make it" and card["classes"] == list(OCC3D.names)
    assert card["scores"]["miou"] == summary.scores.miou and card["steps"] == 12
    assert card["data"]["keyframes"] == {"train": 5, "val": 2}


def test_a_killed_run_goes_on_to_the_same_bytes(config: PretrainConfig, pixel_shards: Path, tmp_path: Path) -> None:
    whole = pretrain_images(config, pixel_shards, tmp_path / "whole").weights.read_bytes()

    def die(step: PretrainStep) -> None:
        if step.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_images(config, pixel_shards, tmp_path / "killed", on_step=die)
    with pytest.raises(ConfigError, match="--resume"):
        pretrain_images(config, pixel_shards, tmp_path / "killed")
    steps: list[int] = []
    other_workers = config.model_copy(update={"checkpoint_every": 3})
    again = pretrain_images(
        other_workers, pixel_shards, tmp_path / "killed", resume=True, on_step=lambda step: steps.append(step.step)
    )
    assert steps == list(range(6, 13))
    with safe_open(again.weights, "pt") as file, safe_open(tmp_path / "whole/image_features.safetensors", "pt") as one:
        assert all(torch.equal(file.get_tensor(name), one.get_tensor(name)) for name in one.keys())  # noqa: SIM118
    rows = [json.loads(line) for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13)) and whole


def test_other_settings_and_targets_are_refused(
    config: PretrainConfig, pixel_shards: Path, shards: Path, tmp_path: Path
) -> None:
    short = config.model_copy(update={"schedule": config.schedule.model_copy(update={"steps": 2})})
    pretrain_images(short, pixel_shards, tmp_path / "run")
    with pytest.raises(ConfigError, match="seed: was 0, now 1"):
        pretrain_images(short.model_copy(update={"seed": 1}), pixel_shards, tmp_path / "run", resume=True)
    (tmp_path / "run/state.pt").write_bytes(b"no state")
    with pytest.raises(CheckpointError):
        pretrain_images(short, pixel_shards, tmp_path / "run", resume=True)
    with pytest.raises(DataError, match="holds occupancy shards"):
        pretrain_images(short, shards, tmp_path / "other")
    with pytest.raises(DataError, match="holds image targets"):
        open_shards(pixel_shards, "train")
    fewer = short.model_copy(update={"model": short.model.model_copy(update={"num_classes": 5})})
    with pytest.raises(ConfigError, match=r"--set model.num_classes=18"):
        pretrain_images(fewer, pixel_shards, tmp_path / "other")
    with pytest.raises(ConfigError, match="no preset"):
        pretrain_preset("nothing")


def test_training_starts_from_the_file(
    config: PretrainConfig, tiny_config: TrainConfig, pixel_shards: Path, shards: Path, tmp_path: Path
) -> None:
    short = config.model_copy(update={"schedule": config.schedule.model_copy(update={"steps": 2})})
    file = pretrain_images(short, pixel_shards, tmp_path / "pretrained").weights
    weights = read_weights(file)
    assert weights.record.format == "protoocc" and weights.is_half
    report = check_weights(tiny_config.model, weights)
    assert report.share("backbone") == report.share("pyramid") == 1.0
    assert "stored in 16 bits" in report.lines()[0] and "model.pixel_classes" in "\n".join(report.lines())
    headed = tiny_config.model.model_copy(update={"pixel_classes": True, "pixel_depth": True})
    network = build_network(headed)
    assert not [group for group in fill(network, weights).groups if group.fate == "unexpected"]
    for name in ("image_features.pyramid.layer_blocks.0.0.weight", "pixel_heads.classes.2.weight"):
        assert torch.equal(network.state_dict()[name], weights.tensors[name].float())
    started = tiny_config.model_copy(update={"weights": weights.record})
    train(
        started.model_copy(update={"schedule": started.schedule.model_copy(update={"steps": 2})}),
        shards,
        tmp_path / "r",
    )
    with pytest.raises(CheckpointError, match=r"--set model.channels=16"):
        check_weights(tiny_config.model.model_copy(update={"channels": 32}), weights)
    with pytest.raises(CheckpointError, match="--set 'model.strides="):
        check_weights(tiny_config.model.model_copy(update={"strides": (8, 16, 32)}), weights)


def test_full_precision_and_files_without_a_card(
    config: PretrainConfig, tiny_config: TrainConfig, pixel_shards: Path, tmp_path: Path
) -> None:
    schedule = config.schedule.model_copy(update={"steps": 1, "warmup_steps": 0})
    file = pretrain_images(
        config.model_copy(update={"half": False, "schedule": schedule}), pixel_shards, tmp_path / "run"
    ).weights
    weights = read_weights(file)
    assert not weights.is_half and "16 bits" not in check_weights(tiny_config.model, weights).lines()[0]
    from safetensors.torch import save_file

    save_file(weights.tensors, tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="no card"):
        check_weights(tiny_config.model, read_weights(tmp_path / "bare.safetensors"))
    save_file(weights.tensors, tmp_path / "odd.safetensors", metadata={"card": '{"settings": {"model": {}}}'})
    with pytest.raises(CheckpointError, match="names no image network"):
        check_weights(tiny_config.model, read_weights(tmp_path / "odd.safetensors"))


def test_rare_classes_weigh_more(config: PretrainConfig, pixel_shards: Path) -> None:
    dataset = PixelDataset(open_shards(pixel_shards, "train", pixels=True))
    even = class_weights(dataset, config.model_copy(update={"class_balance": 0.0}))
    assert even == pytest.approx([1.0] * 18)
    weights = class_weights(dataset, config)
    labels = torch.cat([dataset.classes(index) for index in range(len(dataset))])
    counts = torch.bincount(labels[labels < 18].long(), minlength=18)
    mean = sum(count * weight for count, weight in zip(counts.tolist(), weights, strict=True)) / counts.sum()
    assert float(mean) == pytest.approx(1.0)
    ratio = (counts[ROAD] / counts[OCC3D.free]) ** 0.5
    assert weights[OCC3D.free] / weights[ROAD] == pytest.approx(float(ratio))


def test_images_and_targets_are_mirrored_together(config: PretrainConfig, pixel_shards: Path) -> None:
    batch = PixelDataset(open_shards(pixel_shards, "train", pixels=True))[0]
    turned = mirrored(batch, torch.tensor([True, False]))
    assert torch.equal(turned.images[0], batch.images[0].flip(-1)) and torch.equal(turned.images[1], batch.images[1])
    assert torch.equal(turned.classes[0], batch.classes[0].flip(-1))
    assert torch.equal(turned.depth_m[0], batch.depth_m[0].flip(-1))
    bright = recoloured(batch, torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 1.0]]))
    assert torch.equal(bright.images[0, 0], (batch.images[0, 0].float() * 2).clamp_max(255).to(torch.uint8))
    assert torch.equal(bright.images[1], batch.images[1])
    assert torch.equal(changed(batch, config, 3).images, changed(batch, config, 3).images)
    assert not torch.equal(changed(batch, config, 3).images, changed(batch, config, 4).images)


def test_cells_are_read_at_the_pixels() -> None:
    """Two cells of 32 pixels, images of 40 x 60: padded to 64 x 64, cut to the image."""
    cells = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    at = at_pixels(cells, torch.zeros(1, 3, 40, 60))
    assert at.shape == (1, 1, 40, 60)
    assert at[0, 0, 0, 16] == pytest.approx((16.5 - 16) / 32) and at[0, 0, 0, 5] == 0.0
