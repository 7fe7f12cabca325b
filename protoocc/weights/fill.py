"""Fills a network from published weights: match by name and shape, refuse what does not fit, report the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from protoocc.config import WeightsFormat
from protoocc.hosts import build_network
from protoocc.model.backbone import BLOCKS
from protoocc.model.image_config import ImageConfig
from protoocc.network import Network, NetworkConfig
from protoocc.weights.files import WeightsFile
from protoocc.weights.names import RESNET, Place, backbone_prefix, place_backbone, place_pyramid
from protoocc.weights.own import place_own, settings_that_differ
from protoocc.weights.panoocc import check_extent, place_head
from protoocc.weights.report import Fate, Group, Part, PartShare, WeightsReport
from schemas.errors import CheckpointError

LEAST_SHARES: Final[dict[WeightsFormat, dict[Part, float]]] = {
    "torchvision": {"backbone": 0.95},
    "fcos3d": {"backbone": 0.95},
    "panoocc": {"backbone": 0.95, "pyramid": 0.95, "view transformation": 0.9},
    "protoocc": {"backbone": 0.95, "pyramid": 0.95},
}
"""Least share of the numbers of each part that a file must fill. ProtoOcc's own prototype mapping, 4 % of the view
transformation at query size Small, is in no published file."""

_PARTS: Final[tuple[tuple[Part, tuple[str, ...]], ...]] = (
    ("backbone", (RESNET,)),
    ("pyramid", ("image_features.",)),
    ("view transformation", ("voxel_queries.", "encoder.", "temporal_fusion.")),
    ("decoder", ("decoder.",)),
)
_ABSENT: Final[tuple[tuple[str, str], ...]] = (
    (r"image_features\.stride_64\.", "stride 64 is pooled; model.stride_64=convolution reads it"),
    (r"image_features\.resnet\.layer", "the network does not use this stage"),
    (r"encoder\.layers\.", "the network has fewer layers"),
    (r"temporal_fusion\.", "the network does not fuse frames; model.frames=4 does"),
    (r"decoder\.upsample\.", "the network's decoder has no such stage or norm"),
    (r"pixel_heads\.", "the network has no such head; model.pixel_classes and model.pixel_depth add them"),
)
"""Why a place of a published tensor may be absent from a network, by its start."""
_OWN = "ProtoOcc's own, in no published file"


def check_weights(config: NetworkConfig, weights: WeightsFile) -> WeightsReport:
    """What `fill` would do to the network of a configuration, found without building it.

    Raises:
        CheckpointError: as `fill`.
    """
    with torch.device("meta"):
        model = build_network(config)
    return _match(model, weights)[0]


def fill(model: Network, weights: WeightsFile) -> WeightsReport:
    """Copies all tensors that fit into a network; the others keep their values.

    Args:
        model: on any device.
        weights: the file.

    Raises:
        CheckpointError: the backbone is of another kind or not of `image_config`, too little fits, or the file was
            made for another space. The network is then as it was.
    """
    report, tensors = _match(model, weights)
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    return report


def _match(model: Network, weights: WeightsFile) -> tuple[WeightsReport, dict[str, Tensor]]:
    """The report, and the tensors that fit by our names."""
    config = model.config
    if not isinstance(config, ImageConfig):
        raise CheckpointError(
            f"a network of kind '{config.kind}' reads its images otherwise than published networks: it cannot start "
            f"from {weights.record.file}; train it without --weights"
        )
    if not any(name.startswith(RESNET) for name in model.state_dict()):
        raise CheckpointError(
            f"this network has no residual network, and {weights.record.file} fills nothing else: train it without "
            "--weights, or set model.image_encoder=resnet"
        )
    _check_backbone(config, weights)
    if weights.record.format == "panoocc":
        check_extent(weights.record.file, weights.settings, config.grid)
    own = model.state_dict()
    places = {name: _place(name, tensor, weights, config) for name, tensor in weights.tensors.items()}
    fitting = {place.name: place.tensor for place in places.values() if place.name and _misfit(place, own) is None}
    groups = _unused(places, own) + _missing(places, own)
    report = WeightsReport(
        record=weights.record, parts=_count_parts(own, fitting), groups=groups, is_half=weights.is_half
    )
    _check_shares(report)
    return report, fitting


def _place(name: str, tensor: Tensor, weights: WeightsFile, config: ImageConfig) -> Place:
    if weights.record.format == "protoocc":
        return place_own(name, tensor) or Place(None, tensor, "no part of image features")
    prefix = backbone_prefix(weights.tensors)
    place = place_backbone(name, tensor, prefix)
    if place is None and prefix:
        place = place_pyramid(name, tensor, weights.tensors, prefix=prefix, strides=config.strides)
    if place is None and weights.record.format == "panoocc":
        place = place_head(name, tensor, weights.tensors)
    return place or Place(None, tensor, f"no part of {weights.record.format}'s that the network has")


def _misfit(place: Place, own: Mapping[str, Tensor]) -> tuple[Fate, str] | None:
    """Why a published tensor cannot be used; None if it can."""
    if place.name is None:
        return "unexpected", place.reason
    if place.name not in own:
        reasons = (reason for start, reason in _ABSENT if re.match(start, place.name))
        return "unexpected", next(reasons, "the network has no such tensor")
    found, expected = tuple(place.tensor.shape), tuple(own[place.name].shape)
    if found != expected:
        return "wrong shape", f"{found} in the network's axes, {place.name} is {expected}"
    return None


def _unused(places: Mapping[str, Place], own: Mapping[str, Tensor]) -> tuple[Group, ...]:
    """Names of the file that the network cannot use, by reason."""
    names: dict[tuple[Fate, str], list[str]] = {}
    for name, place in places.items():
        misfit = _misfit(place, own)
        if misfit is not None:
            names.setdefault(misfit, []).append(name)
    return tuple(Group(fate=fate, reason=reason, names=tuple(found)) for (fate, reason), found in names.items())


def _missing(places: Mapping[str, Place], own: Mapping[str, Tensor]) -> tuple[Group, ...]:
    """Names of the network that the file does not have, by part and reason."""
    placed = {place.name for place in places.values()}
    names: dict[tuple[Part, str], list[str]] = {}
    for part, of_part in _names_by_part(own).items():
        for name in of_part:
            reason = _OWN if re.search(r"\.mapping\.|\.pixel_features\.", name) else "not in the file"
            if name not in placed:
                names.setdefault((part, reason), []).append(name)
    return tuple(
        Group(fate="missing", reason=reason, part=part, names=tuple(found)) for (part, reason), found in names.items()
    )


def _names_by_part(own: Mapping[str, Tensor]) -> dict[Part, list[str]]:
    """Names of all tensors of numbers; a name belongs to the first part whose start it has."""
    names: dict[Part, list[str]] = {part: [] for part, _ in _PARTS}
    names["rest"] = []
    for name, tensor in own.items():
        if tensor.is_floating_point():
            names[next((part for part, starts in _PARTS if name.startswith(starts)), "rest")].append(name)
    return {part: found for part, found in names.items() if found}


def _count_parts(own: Mapping[str, Tensor], fitting: Mapping[str, Tensor]) -> tuple[PartShare, ...]:
    parts = []
    for part, names in _names_by_part(own).items():
        matched = [name for name in names if name in fitting]
        values, filled = (sum(own[name].numel() for name in chosen) for chosen in (names, matched))
        parts.append(PartShare(part=part, names=len(names), matched=len(matched), values=values, filled=filled))
    return tuple(parts)


def _check_shares(report: WeightsReport) -> None:
    for part, least in LEAST_SHARES[report.record.format].items():
        least = least if report.record.least_share is None else report.record.least_share
        if report.share(part) < least:
            lines = "\n".join(f"  {group}" for group in report.groups if group.part in (None, part))
            raise CheckpointError(
                f"{report.record.file} fills {100 * report.share(part):.1f} % of the {part}, at least "
                f"{100 * least:.0f} % are needed. Choose a network that fits it, or lower --weights-share.\n{lines}"
            )


def _check_backbone(config: ImageConfig, weights: WeightsFile) -> None:
    """Same names and shapes can mean another network: compares depth, width, style, deformable stages and stride 64."""
    file, prefix = weights.record.file, backbone_prefix(weights.tensors)
    if weights.record.format == "protoocc":
        differing = settings_that_differ(file, weights.settings, config)
        _refuse_other_settings(file, config, differing, instead=" (or, to start without it, --set weights=null)")
        return
    stem = weights.tensors.get(f"{prefix}conv1.weight")
    if stem is None:
        raise CheckpointError(
            f"{file} holds no backbone for the format {weights.record.format}: its names are "
            f"{', '.join(list(weights.tensors)[:3])}, ..."
        )
    wanted: dict[str, object] = {
        "backbone": _depth(weights.tensors, prefix, file),
        "backbone_width": stem.shape[0],
        "backbone_style": "torchvision" if weights.record.format == "torchvision" else "caffe",
        "deformable_stages": _deformable(weights.tensors, prefix, config),
    }
    if weights.record.format == "panoocc" and config.strides[-1] == 64:
        wanted["stride_64"] = "convolution"
    _refuse_other_settings(
        file, config, {name: value for name, value in wanted.items() if getattr(config, name) != value}
    )


def _refuse_other_settings(file: str, config: ImageConfig, changes: Mapping[str, object], instead: str = "") -> None:
    if changes:
        present = ", ".join(f"{name} {getattr(config, name)}" for name in changes)
        remedy = " ".join(f"--set {_quoted(name, value)}" for name, value in changes.items())
        raise CheckpointError(f"{file} holds another image network than the one with {present}: use {remedy}{instead}")


def _quoted(name: str, value: object) -> str:
    return f"'model.{name}={list(value)}'" if isinstance(value, tuple) else f"model.{name}={value}"


def _depth(tensors: Mapping[str, Tensor], prefix: str, file: str) -> str:
    depths = []
    for stage in range(1, 5):
        blocks = {name[len(prefix) :].split(".")[1] for name in tensors if name.startswith(f"{prefix}layer{stage}.")}
        depths.append(len(blocks))
    kind: type[nn.Module] | None = None
    for name, (kind, expected) in BLOCKS.items():
        if expected == tuple(depths) and (kind is Bottleneck) == (f"{prefix}layer1.0.conv3.weight" in tensors):
            return name
    raise CheckpointError(f"{file} holds a backbone of {depths} blocks; expected one of {', '.join(BLOCKS)}")


def _deformable(tensors: Mapping[str, Tensor], prefix: str, config: ImageConfig) -> tuple[int, ...]:
    """Deformable stages of the file, as far as the network has these stages."""
    used = [stage for stage, stride in enumerate((4, 8, 16, 32), start=1) if stride <= config.strides[-1]]
    return tuple(stage for stage in used if f"{prefix}layer{stage}.0.conv2.conv_offset.weight" in tensors)
