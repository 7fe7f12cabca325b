"""Reading files of published weights, torchvision's and FCOS3D's names, and what is refused."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from protoocc.config import WeightsConfig
from protoocc.model import ProtoOcc, ProtoOccConfig
from protoocc.model.backbone import ImageFeatures
from protoocc.weights import WeightsFile, check_weights, fill, read_weights, reread_weights
from schemas.errors import CheckpointError
from tests.protoocc import published_weights as published

SMALL = {"backbone_width": 8, "channels": 16, "heads": 2, "query_shape": (50, 50, 2), "encoder_layers": 1}
UPSAMPLE = ({"kernel": (4, 4, 8), "stride": (4, 4, 8), "channels": 8},)
CAFFE = {"backbone_style": "caffe", "deformable_stages": (3, 4)}


def small_config(**changes: object) -> ProtoOccConfig:
    """A ResNet-50 of width 8 and small parts behind it."""
    return ProtoOccConfig.model_validate({**SMALL, "upsample": UPSAMPLE, **changes})


def torchvision_shapes(width: int = 8) -> published.Shapes:
    return published.resnet("", width, (3, 4, 6, 3)) | published.linear("fc", 1000, 32 * width)


def write(path: Path, data: Any) -> Path:
    torch.save(data, path)
    return path


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision's, of width 8."""
    return write(tmp_path_factory.mktemp("weights") / "resnet50.pth", published.numbers(torchvision_shapes()))


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_test_checkpoints_have_torchvisions_names_and_shapes(name: str) -> None:
    """The names that these tests write are those of torchvision's own networks at full size."""
    depths = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}[name]
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name).state_dict()
    ours = published.resnet("", 64, depths) | published.linear("fc", 1000, 2048)
    assert {key: tuple(value.shape) for key, value in theirs.items()} == ours


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_full_size_torchvision_fills_the_backbone(name: str) -> None:
    """All parameters and norm statistics of the backbone, nothing else; fc has no place."""
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name).state_dict()
    file = WeightsFile(WeightsConfig(file=f"{name}.pth", sha256="0" * 64, format="torchvision"), theirs, "")
    report = check_weights(ProtoOccConfig.model_validate({"backbone": name}), file)
    backbone = report.parts[0]
    floats = [value.numel() for key, value in theirs.items() if value.is_floating_point() and not key.startswith("fc")]
    assert (backbone.part, backbone.share, backbone.filled) == ("backbone", 1.0, sum(floats))
    assert {part.part: part.filled for part in report.parts[1:]} == {
        "pyramid": 0,
        "view transformation": 0,
        "decoder": 0,
    }
    unused = [group for group in report.groups if group.part is None]
    assert [(group.fate, group.names) for group in unused] == [("unexpected", ("fc.weight", "fc.bias"))]


def test_torchvision_file_fills_the_backbone(resnet50: Path) -> None:
    """Values of the file are in the network, counters too; all else is as it was."""
    torch.manual_seed(0)
    model = ProtoOcc(small_config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = read_weights(resnet50)
    assert weights.record.format == "torchvision"
    assert weights.record.sha256 == hashlib.sha256(resnet50.read_bytes()).hexdigest()
    report = fill(model, weights)
    for name, value in model.state_dict().items():
        inner = name.removeprefix("image_features.resnet.")
        torch.testing.assert_close(value, before[name] if inner == name else weights.tensors[inner], rtol=0, atol=0)
    lines = report.lines()
    assert lines[1] == "  backbone: 265 of 265 names, 100.0 % of its values"
    assert lines[5:] == ["  unexpected: fc.weight, fc.bias: the network has no ImageNet classifier"]


def test_safetensors_and_half_precision(tmp_path: Path, resnet50: Path) -> None:
    """The same tensors in another container and precision fill the same network."""
    tensors = {name: value.contiguous() for name, value in read_weights(resnet50).tensors.items()}
    halves = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    save_file(halves, tmp_path / "model.safetensors")
    model = ProtoOcc(small_config())
    assert fill(model, read_weights(tmp_path / "model.safetensors")).share("backbone") == 1.0
    assert model.image_features.resnet.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(
        model.image_features.resnet.conv1.weight.detach(), tensors["conv1.weight"], atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("prefix", ["", "img_"])
def test_fcos3d_fills_backbone_and_the_pyramid_by_stride(tmp_path: Path, prefix: str) -> None:
    """Its pyramid starts at stride 8: level i goes to stride 8 * 2^i, stride 4 stays, stride 128 has no place."""
    tensors = published.numbers(published.fcos3d(8, (3, 4, 6, 3), 16, prefix))
    data = {"meta": {"epoch": 12, "CLASSES": ("car",), "config": "model = dict()"}, "state_dict": tensors}
    weights = read_weights(write(tmp_path / "fcos3d.pth", data))
    assert weights.record.format == "fcos3d"
    config = small_config(**CAFFE, stride_64="convolution")
    torch.manual_seed(0)
    model = ProtoOcc(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = fill(model, weights)
    assert report.share("backbone") == 1.0
    own = model.state_dict()
    expected = {
        "pyramid.inner_blocks.1.0": "lateral_convs.0.conv",  # stride 8
        "pyramid.inner_blocks.3.0": "lateral_convs.2.conv",  # stride 32
        "pyramid.layer_blocks.1.0": "fpn_convs.0.conv",
        "pyramid.layer_blocks.3.0": "fpn_convs.2.conv",
        "stride_64": "fpn_convs.3.conv",
    }
    for ours, theirs in expected.items():
        for kind in ("weight", "bias"):
            assert torch.equal(own[f"image_features.{ours}.{kind}"], tensors[f"{prefix}neck.{theirs}.{kind}"])
    fine = "image_features.pyramid.layer_blocks.0.0.weight"
    assert torch.equal(own[fine], before[fine])
    reasons = {name: group.reason for group in report.groups for name in group.names}
    assert reasons[f"{prefix}neck.fpn_convs.4.conv.weight"] == "the network has no scale of stride 128"
    assert reasons["bbox_head.conv_centerness.weight"] == "no part of fcos3d's that the network has"
    assert reasons[fine] == "not in the file"


def test_colour_order_matters_to_loaded_weights(tmp_path: Path) -> None:
    """The wrong style would see red where blue was: a caffe file is refused by the other style."""
    tensors = published.numbers(published.fcos3d(8, (3, 4, 6, 3), 16))
    weights = read_weights(write(tmp_path / "fcos3d.pth", {"state_dict": tensors}))
    model = ProtoOcc(small_config(**CAFFE)).eval()
    fill(model, weights)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    other = ImageFeatures(small_config(deformable_stages=(3, 4))).eval()
    other.load_state_dict(model.image_features.state_dict())
    with torch.no_grad():
        right, swapped, wrong = model.image_features(images), model.image_features(images.flip(1)), other(images)
    assert (right[0] - swapped[0]).abs().mean() > 0.1 * right[0].abs().mean()
    assert (right[0] - wrong[0]).abs().mean() > 0.1 * right[0].abs().mean()
    with pytest.raises(CheckpointError, match="use --set model.backbone_style=caffe$"):
        check_weights(small_config(deformable_stages=(3, 4)), weights)


def test_other_backbone_is_refused_with_the_settings_that_fit(resnet50: Path, tmp_path: Path) -> None:
    """Depth, width, style and deformable stages; a network without stage 4 needs stage 3 alone."""
    with pytest.raises(CheckpointError, match="use --set model.backbone=resnet50 --set model.backbone_width=8$"):
        check_weights(ProtoOccConfig.model_validate({"backbone": "resnet101"}), read_weights(resnet50))
    tensors = published.numbers(published.fcos3d(8, (3, 4, 6, 3), 16))
    weights = read_weights(write(tmp_path / "fcos3d.pth", {"state_dict": tensors}))
    with pytest.raises(CheckpointError, match=r"model.backbone_style=caffe --set 'model.deformable_stages=\[3\]'$"):
        check_weights(small_config(strides=(8, 16)), weights)
    tensors["backbone.layer3.6.conv1.weight"] = torch.zeros(16, 128, 1, 1)
    odd = WeightsFile(weights.record, tensors, "")
    with pytest.raises(CheckpointError, match=r"backbone of \[3, 4, 7, 3\] blocks; expected one of resnet18"):
        check_weights(small_config(**CAFFE), odd)


def test_too_small_a_share_is_refused_and_changes_nothing(resnet50: Path) -> None:
    """Without the convolutions of stage 4 more than half is missing; the first names are listed."""
    weights = read_weights(resnet50)
    kept = {name: value for name, value in weights.tensors.items() if ".conv" not in name or "layer4." not in name}
    torch.manual_seed(0)
    model = ProtoOcc(small_config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="% of the backbone, at least 95 % are needed") as caught:
        fill(model, WeightsFile(weights.record, kept, ""))
    first = "missing: image_features.resnet.layer4.0.conv1.weight, image_features.resnet.layer4.0.conv2.weight"
    assert first in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    lower = weights.record.model_copy(update={"least_share": 0.3})
    report = fill(model, WeightsFile(lower, kept, ""))
    assert 0.3 < report.share("backbone") < 0.95


def test_wrong_shape_is_named(resnet50: Path) -> None:
    """One tensor of another shape: reported with both shapes, the rest is filled."""
    weights = read_weights(resnet50)
    tensors = {**weights.tensors, "bn1.weight": torch.ones(9)}
    report = check_weights(small_config(), WeightsFile(weights.record, tensors, ""))
    shape = next(group for group in report.groups if group.fate == "wrong shape")
    assert shape.names == ("bn1.weight",)
    assert shape.reason == "(9,) in the network's axes, image_features.resnet.bn1.weight is (8,)"
    assert not any("bn1.weight" in name and group.fate == "missing" for group in report.groups for name in group.names)


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_malicious_file_is_not_run(tmp_path: Path, is_zip: bool) -> None:
    """Neither torch's container nor a plain pickle may run code, and the error says what was refused."""
    target, path = tmp_path / "ran", tmp_path / "evil.pth"
    if is_zip:
        torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "meta": Bomb(target)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(CheckpointError, match="evil.pth"):
        read_weights(path)
    assert not target.exists()
    torch.load(path, weights_only=False) if is_zip else pickle.loads(path.read_bytes())
    assert target.exists()  # the bomb is a live one


def test_python_objects_in_meta_have_a_remedy(tmp_path: Path, resnet50: Path) -> None:
    """mmcv files may hold numpy arrays; the printed command makes a file that loads."""
    tensors = read_weights(resnet50).tensors
    path = write(tmp_path / "mmcv.pth", {"state_dict": tensors, "meta": {"PALETTE": np.zeros(3)}})
    with pytest.raises(CheckpointError, match="holds Python objects .*numpy.*copy the tensors once") as caught:
        read_weights(path)
    command = str(caught.value).split('python -c "')[1].removesuffix('"')
    assert "weights_only=False" in command
    exec(command.replace("'weights.pth'", f"'{tmp_path / 'weights.pth'}'"))
    assert read_weights(tmp_path / "weights.pth").tensors.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"epoch": 3, "optimizer": {}}, r"a dict of 2: 'epoch' \(int\), 'optimizer' \(dict\); expected named tensors"),
        ({"state_dict": {}}, r"a dict of 1: 'state_dict' \(dict\)"),
        ({}, "an empty dict"),
        ([1, 2], "one list"),
        ({"encoder.weight": torch.zeros(2)}, r"1 tensors \(encoder.weight, ...\), whose names are neither"),
    ],
)
def test_files_of_something_else(tmp_path: Path, data: Any, message: str) -> None:
    """The error says what the file holds."""
    with pytest.raises(CheckpointError, match=message):
        read_weights(write(tmp_path / "other.pth", data))


def test_unreadable_files(tmp_path: Path, resnet50: Path) -> None:
    """Absent, text, cut off, and safetensors that are none."""
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    (tmp_path / "cut.pth").write_bytes(resnet50.read_bytes()[:5000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    for name in ("absent.pth", "text.pth", "cut.pth", "cut.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name} is no readable file of weights: "):
            read_weights(tmp_path / name)


def test_forced_format_without_its_backbone(tmp_path: Path) -> None:
    """--weights-format reads unknown names, and says so when they hold no backbone."""
    path = write(tmp_path / "other.pth", {"encoder.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="no backbone for the format panoocc: its names are encoder.weight"):
        check_weights(small_config(), read_weights(path, "panoocc"))


def test_changed_file_is_refused(tmp_path: Path, resnet50: Path) -> None:
    """A run goes on with the bytes that it started from."""
    path = tmp_path / "copy.pth"
    path.write_bytes(resnet50.read_bytes())
    record = read_weights(path).record
    assert reread_weights(record).record == record
    write(path, published.numbers(torchvision_shapes(16)))
    with pytest.raises(CheckpointError, match=f"the run started from {record.sha256}; bring that file back"):
        reread_weights(record)
