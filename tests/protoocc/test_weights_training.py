"""Training from published weights: what is filled, what the run records, and how it resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cli.main import main
from protoocc.checkpoint import list_checkpoints
from protoocc.config import TrainConfig
from protoocc.trainer import train
from protoocc.training_report import StepReport
from protoocc.weights import read_weights
from schemas.errors import CheckpointError, ConfigError
from schemas.settings import override
from tests.protoocc import published_weights as published

SETTINGS = ["model.backbone=resnet50", "model.frozen_stages=1", "model.frozen_norms=true", "schedule.steps=2"]
PARTS = [*SETTINGS, "model.strides=[8,16]", "schedule.epochs=null"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-50 of width 8 with torchvision's names."""
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(published.numbers(published.resnet("", 8, (3, 4, 6, 3))), path)
    return path


@pytest.fixture
def config(tiny_config: TrainConfig, weights: Path) -> TrainConfig:
    settings = override(tiny_config, PARTS)
    return settings.model_copy(update={"weights": read_weights(weights).record})


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(run / "checkpoints")[-1] / "model.safetensors")


def test_run_starts_from_the_file_and_records_it(
    shards: Path, tmp_path: Path, config: TrainConfig, weights: Path
) -> None:
    """After two steps frozen tensors are the file's, trained ones are near them; config.json names file and digest."""
    train(config, shards, tmp_path / "run")
    trained, tensors = last_weights(tmp_path / "run"), read_weights(weights).tensors
    for name in ("conv1.weight", "layer1.2.conv3.weight", "layer3.5.bn2.running_var", "layer3.5.bn2.weight"):
        assert torch.equal(trained[f"image_features.resnet.{name}"], tensors[name])
    moved = trained["image_features.resnet.layer3.5.conv2.weight"] - tensors["layer3.5.conv2.weight"]
    assert 0 < moved.abs().max() < 0.05
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["weights"]
    assert config.weights is not None
    assert stored == {
        "file": str(weights),
        "sha256": config.weights.sha256,
        "format": "torchvision",
        "least_share": None,
    }


def test_resume_does_not_fill_again(shards: Path, tmp_path: Path, config: TrainConfig, weights: Path) -> None:
    """A run killed after its first checkpoint goes on without the file; killed before it, it needs the file again."""
    config = config.model_copy(update={"checkpoint_every": 1})
    gone = tmp_path / "gone.pth"
    gone.write_bytes(weights.read_bytes())
    moved = config.model_copy(update={"weights": read_weights(gone).record})
    train(config, shards, tmp_path / "whole")

    def kill(report: StepReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(moved, shards, tmp_path / "run", on_step=kill)
    gone.rename(tmp_path / "moved.pth")
    with pytest.raises(CheckpointError, match="gone.pth is no readable file"):
        train(moved, shards, tmp_path / "run", resume=True)
    back = config.model_copy(update={"weights": read_weights(tmp_path / "moved.pth").record})

    def kill_later(report: StepReport) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(back, shards, tmp_path / "run", resume=True, on_step=kill_later)
    (tmp_path / "moved.pth").unlink()
    train(back, shards, tmp_path / "run", resume=True)
    resumed = last_weights(tmp_path / "run")
    assert all(torch.equal(value, resumed[name]) for name, value in last_weights(tmp_path / "whole").items())


def test_deformable_backbone_trains_the_same_twice(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    """FCOS3D's names, caffe style, deformable stage 3, all in a run whose CPU arithmetic must be deterministic."""
    path = tmp_path / "fcos3d.pth"
    torch.save({"state_dict": published.numbers(published.fcos3d(8, (3, 4, 6, 3), 16)), "meta": {"epoch": 12}}, path)
    config = override(tiny_config, [*PARTS, "model.backbone_style=caffe", "model.deformable_stages=[3]"])
    config = config.model_copy(update={"weights": read_weights(path).record})
    for name in ("one", "two"):
        train(config, shards, tmp_path / name)
    one, two = last_weights(tmp_path / "one"), last_weights(tmp_path / "two")
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    moved = one["image_features.resnet.layer3.0.conv2.conv_offset.weight"]
    assert not torch.equal(moved, read_weights(path).tensors["backbone.layer3.0.conv2.conv_offset.weight"])


def test_frozen_stages_need_weights(shards: Path, tmp_path: Path, config: TrainConfig) -> None:
    """Keeping a random stem is a mistake; it is refused before the run folder is made."""
    with pytest.raises(ConfigError, match="model.frozen_stages=1 keeps random weights: start from trained ones"):
        train(config.model_copy(update={"weights": None}), shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the `protoocc` command."""
    monkeypatch.setattr("sys.argv", ["protoocc", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.mark.slow
def test_command_line(
    shards: Path,
    tmp_path: Path,
    config: TrainConfig,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """`--weights` prints what it filled and is stored; `--resume` need not repeat it; a misfit leaves no run folder."""
    monkeypatch.setattr("protoocc.presets.PRESETS", {"demo": lambda: config.model_copy(update={"weights": None})})
    base = ("train", "--shards", shards, "--run", tmp_path / "run")
    wide = ("--set", "model.backbone_width=16", "--weights", weights)
    assert command(monkeypatch, *base, *wide) == 2
    assert "holds another image network" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
    assert command(monkeypatch, *base, "--weights", weights) == 0
    printed = capfd.readouterr()
    # stem 1 + 4; 13 blocks of 3 convolutions and 3 norms of 4; 3 shortcuts of 1 + 4
    assert "backbone: 215 of 215 names, 100.0 % of its values" in printed.out + printed.err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["weights"]["format"] == "torchvision"
    assert command(monkeypatch, *base, "--resume") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--weights-share", "0.5"), "--weights-format and --weights-share need --weights FILE"),
        (("--weights-format", "detr"), "--weights-format detr: expected torchvision, panoocc, fcos3d or protoocc"),
        (("--weights", "absent.pth"), "absent.pth is no readable file of weights"),
    ],
)
def test_wrong_options(
    shards: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2 and one message."""
    assert command(monkeypatch, "train", "--shards", shards, "--run", tmp_path / "run", *options) == 2
    assert message in capfd.readouterr().err
