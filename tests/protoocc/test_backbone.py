"""The image backbone: torchvision's numbers, caffe style, deformable convolutions, frozen parts, stride 64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from protoocc.model import ProtoOccConfig
from protoocc.model.backbone import ImageFeatures, ModulatedDeformConv2d, ResNet

CAFFE = {"backbone": "resnet50", "backbone_style": "caffe", "deformable_stages": (3, 4)}
SMALL = {"backbone_width": 8, "channels": 16, "heads": 2, "clustering_stride": 8}


def random_norms(model: nn.Module) -> None:
    """Statistics and scales as after training, so that a swapped or missing norm shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_are_torchvisions(name: str) -> None:
    """With torchvision's weights, all four stages give torchvision's features to 1e-5."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name).eval()
    random_norms(theirs)
    ours = ResNet(ProtoOccConfig.model_validate({"backbone": name})).eval()
    ours.load_state_dict({key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")})
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = ours(images)
        stage = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for number, stride in enumerate((4, 8, 16, 32), start=1):
            stage = theirs.get_submodule(f"layer{number}")(stage)
            torch.testing.assert_close(features[stride], stage, atol=1e-5 * float(stage.abs().max()), rtol=1e-5)


def literal_deformable(features: Tensor, weight: Tensor, predicted: Tensor, *, stride: int) -> Tensor:
    """Deformable ConvNets v2, tap by tap: y(p) = sum_k w_k x(p + p_k + shift_k) m_k, bilinear, zero outside."""
    count, channels, height, width = features.shape
    result = features.new_zeros(count, weight.shape[0], *predicted.shape[-2:])

    def pixel(sample: int, y: int, x: int) -> Tensor:
        inside = 0 <= y < height and 0 <= x < width
        return features[sample, :, y, x] if inside else features.new_zeros(channels)

    for sample, row, column in itertools.product(range(count), *map(range, predicted.shape[-2:])):
        for tap in range(9):
            shift_y, shift_x = predicted[sample, 2 * tap, row, column], predicted[sample, 2 * tap + 1, row, column]
            y = row * stride + tap // 3 - 1 + float(shift_y)
            x = column * stride + tap % 3 - 1 + float(shift_x)
            top, left = int(y // 1), int(x // 1)
            down, right = y - top, x - left
            value = (
                pixel(sample, top, left) * (1 - down) * (1 - right)
                + pixel(sample, top, left + 1) * (1 - down) * right
                + pixel(sample, top + 1, left) * down * (1 - right)
                + pixel(sample, top + 1, left + 1) * down * right
            )
            strength = 1 / (1 + torch.exp(-predicted[sample, 18 + tap, row, column]))
            result[sample, :, row, column] += weight[:, :, tap // 3, tap % 3] @ value * strength
    return result


@pytest.mark.parametrize("stride", [1, 2])
def test_deformable_convolution_is_the_formula(stride: int) -> None:
    """Against loops over samples, cells and taps, with shifts of about two cells and different ones along y and x."""
    torch.manual_seed(0)
    layer = ModulatedDeformConv2d(3, stride)
    assert layer.conv_offset.weight.shape == (27, 3, 3, 3)
    nn.init.normal_(layer.conv_offset.weight, std=0.5)
    nn.init.normal_(layer.conv_offset.bias, std=1.0)
    features = torch.randn(2, 3, 5, 6)
    with torch.no_grad():
        expected = literal_deformable(features, layer.weight, layer.conv_offset(features), stride=stride)
        torch.testing.assert_close(layer(features), expected, atol=1e-5, rtol=1e-5)


def test_untrained_deformable_convolution_is_a_convolution_of_half_strength() -> None:
    """No shift, and sigmoid(0) = 1/2 on each tap."""
    torch.manual_seed(0)
    layer = ModulatedDeformConv2d(4, 1)
    features = torch.randn(1, 4, 5, 5)
    expected = 0.5 * functional.conv2d(features, layer.weight, padding=1)
    torch.testing.assert_close(layer(features), expected, atol=1e-6, rtol=1e-5)


def test_deformable_convolution_trains() -> None:
    """Taps, places and strengths all get a gradient, in float32 and under bfloat16 autocast."""
    torch.manual_seed(0)
    layer = ModulatedDeformConv2d(4, 1)
    nn.init.normal_(layer.conv_offset.bias, std=0.3)
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            layer(torch.randn(1, 4, 5, 5)).float().square().sum().backward()
        assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in layer.parameters())
        assert bool(layer.conv_offset.bias.grad[:18].any()) and bool(layer.conv_offset.bias.grad[18:].any())


def test_caffe_block_has_its_stride_in_the_first_convolution() -> None:
    """A caffe block with stride 2 against the same steps written out; torchvision's place of the stride differs."""
    torch.manual_seed(0)
    config = {**SMALL, "strides": (4, 8), "backbone": "resnet50", "backbone_style": "caffe"}
    model = ResNet(ProtoOccConfig.model_validate(config)).eval()
    random_norms(model)
    block = model.get_submodule("layer2.0")
    features = torch.randn(1, 32, 6, 8)
    relu, conv = functional.relu, functional.conv2d
    with torch.no_grad():
        path = relu(block.bn1(conv(features, block.conv1.weight, stride=2)))
        path = relu(block.bn2(conv(path, block.conv2.weight, padding=1)))
        path = block.bn3(conv(path, block.conv3.weight))
        shortcut = block.downsample[1](conv(features, block.downsample[0].weight, stride=2))
        torch.testing.assert_close(block(features), relu(path + shortcut), atol=1e-5, rtol=1e-5)
        other = ResNet(ProtoOccConfig.model_validate({**config, "backbone_style": "torchvision"})).eval()
        other.load_state_dict(model.state_dict())
        assert not torch.allclose(other.get_submodule("layer2.0")(features), block(features), atol=0.1)


def test_caffe_reads_bgr_less_its_mean() -> None:
    """An RGB pixel (10, 20, 30) enters as (30 - 103.53, 20 - 116.28, 10 - 123.675), torchvision's as shares."""
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    seen = []
    for style in ("caffe", "torchvision"):
        config = ProtoOccConfig.model_validate({**SMALL, "backbone": "resnet50", "backbone_style": style})
        model = ImageFeatures(config).eval()
        model.resnet.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0, :, 0, 0]))
        model(images)
    torch.testing.assert_close(seen[0], torch.tensor([-73.53, -96.28, -113.675]))
    # (10/255 - 0.485) / 0.229 = -1.9467, (20/255 - 0.456) / 0.224 = -1.6856, (30/255 - 0.406) / 0.225 = -1.2816
    torch.testing.assert_close(seen[1], torch.tensor([-1.9467, -1.6856, -1.2816]), atol=1e-4, rtol=0)


def test_panoocc_backbone_has_the_published_names() -> None:
    """R101 in caffe style with deformable stages 3 and 4: 23 + 3 blocks with 27 offset channels, all else as R101."""
    config = ProtoOccConfig.model_validate({**CAFFE, "backbone": "resnet101"})
    with torch.device("meta"):
        ours, plain = ResNet(config).state_dict(), torchvision.models.resnet101().state_dict()
    shapes = {key: tuple(value.shape) for key, value in plain.items() if not key.startswith("fc.")}
    for stage, depth, planes in ((3, 23, 256), (4, 3, 512)):
        for number in range(depth):
            shapes[f"layer{stage}.{number}.conv2.conv_offset.weight"] = (27, planes, 3, 3)
            shapes[f"layer{stage}.{number}.conv2.conv_offset.bias"] = (27,)
    assert {key: tuple(value.shape) for key, value in ours.items()} == shapes


def test_frozen_parts_keep_their_values_and_statistics() -> None:
    """frozen_stages=1 leaves stem and stage 1; frozen_norms leaves all norms; the other convolutions train."""
    torch.manual_seed(0)
    config = ProtoOccConfig.model_validate({**SMALL, "backbone": "resnet18", "frozen_stages": 1, "frozen_norms": True})
    model = ResNet(config).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(2, 3, 64, 64))[32].square().mean().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    convolutions = {key for key in before if before[key].ndim == 4}
    assert changed == {key for key in convolutions if not key.startswith(("conv1", "layer1"))}
    assert model.layer2.training and not model.layer2[0].bn1.training
    assert not any(module.training for module in model.eval().modules())


def test_frozen_stage_keeps_norm_statistics_without_frozen_norms() -> None:
    """The norms of a frozen stage stand still, those of the next one follow the images."""
    torch.manual_seed(0)
    config = ProtoOccConfig.model_validate({**SMALL, "backbone": "resnet18", "frozen_stages": 2})
    model = ResNet(config).train()
    before = {key: value.clone() for key, value in model.state_dict().items() if key.endswith("running_mean")}
    model(torch.randn(2, 3, 64, 64))
    changed = {key.split(".")[0] for key, value in before.items() if not torch.equal(value, model.state_dict()[key])}
    assert changed == {"layer3", "layer4"}


def test_stride_64_by_convolution() -> None:
    """The fifth scale is the 3 x 3 convolution of stride 2 on the fourth, without ReLU between them."""
    torch.manual_seed(0)
    config = {**SMALL, "backbone": "resnet18", "strides": (8, 16, 32, 64), "stride_64": "convolution"}
    model = ImageFeatures(ProtoOccConfig.model_validate(config)).eval()
    features = model(torch.randint(0, 256, (1, 3, 96, 160), dtype=torch.uint8))
    assert isinstance(model.stride_64, nn.Conv2d)
    expected = functional.conv2d(features[2], model.stride_64.weight, model.stride_64.bias, stride=2, padding=1)
    assert features[3].shape == (1, 16, 2, 3)
    assert bool((features[2] < 0).any())
    torch.testing.assert_close(features[3], expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet18", "backbone_style": "caffe"}, "resnet18 has no style 'caffe'"),
        ({"backbone": "resnet34", "deformable_stages": (4,)}, "use resnet50 or resnet101"),
        ({"strides": (4, 8), "deformable_stages": (3,)}, "must lie within the 2 stages"),
        ({"deformable_stages": (0,)}, r"deformable_stages \(0,\)"),
        ({"strides": (8,), "frozen_stages": 3}, "frozen_stages 3"),
    ],
)
def test_wrong_backbone_settings(changes: dict[str, object], message: str) -> None:
    """Settings that no network could follow are refused when the configuration is made."""
    with pytest.raises(ValidationError, match=message):
        ProtoOccConfig.model_validate(changes)
