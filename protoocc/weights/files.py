"""Reads a file of published weights without running anything that is in it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from protoocc.checkpoint import load_torch, read_safetensors
from protoocc.config import WeightsConfig, WeightsFormat
from protoocc.weights.names import RESNET
from protoocc.weights.own import CARD_KEY
from schemas.errors import CheckpointError
from schemas.outside import shorten
from schemas.outside.weights import unwrap_state

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds.

    Attributes:
        record: its path, digest and format, as a run stores them.
        tensors: by published name.
        settings: text of the configuration it was trained with, which mmcv stores, or of our own card; empty elsewhere.
        is_half: whether numbers are stored in 16 bits.
    """

    record: WeightsConfig
    tensors: dict[str, Tensor]
    settings: str
    is_half: bool = False


def read_weights(path: Path, format: WeightsFormat | None = None, *, least_share: float | None = None) -> WeightsFile:
    """Reads a safetensors file, or a torch file of tensors and plain values, on the CPU.

    Args:
        path: of torchvision (a state dict), mmcv (a dict with ``state_dict`` and ``meta``) or safetensors.
        format: whose names it has; None to tell by the names.
        least_share: see `WeightsConfig`.

    Raises:
        CheckpointError: absent, unreadable, holding other objects than tensors, or of unknown names.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} is no readable file of weights: {error.strerror}") from error
    is_safe = path.suffix == ".safetensors"
    loaded = read_safetensors(path) if is_safe else load_torch(path)
    tensors, notes = unwrap_state(path, loaded, lambda value: isinstance(value, Tensor))
    for note in notes:
        logger.warning(note)
    check_tensors(path, tensors)
    settings = _card(path) if is_safe else _settings(loaded)
    format = format or _detect(path, tensors)
    record = WeightsConfig(file=str(path), sha256=digest, format=format, least_share=least_share)
    is_half = any(tensor.dtype == torch.float16 for tensor in tensors.values())
    return WeightsFile(record, tensors, settings, is_half)


def reread_weights(record: WeightsConfig) -> WeightsFile:
    """Reads the file of a run's configuration again.

    Raises:
        CheckpointError: as `read_weights`, or the file has changed.
    """
    weights = read_weights(Path(record.file), record.format, least_share=record.least_share)
    if weights.record != record:
        raise CheckpointError(
            f"{record.file} has sha256 {weights.record.sha256}, the run started from {record.sha256}; bring that file "
            "back or start another run"
        )
    return weights


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors whose values share memory: a file of some bytes can declare one of any size that way.

    Raises:
        CheckpointError: names the tensor.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: tensor {shorten(name)} {tuple(tensor.shape)} is no plain one of its own size"
            )


def _settings(loaded: Any) -> str:
    """Text of the configuration that mmcv stores beside the weights."""
    meta = loaded.get("meta") if isinstance(loaded, Mapping) else None
    settings = meta.get("config") if isinstance(meta, Mapping) else None
    return settings if isinstance(settings, str) else ""


def _card(path: Path) -> str:
    """Text of the card in the metadata of a safetensors file that was read before."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    card = metadata.get(CARD_KEY, "")
    return card if isinstance(card, str) else ""


def _detect(path: Path, tensors: Mapping[str, Tensor]) -> WeightsFormat:
    if any(name.startswith(RESNET) for name in tensors):
        return "protoocc"
    if any(name.startswith("pts_bbox_head.transformer.cam_encoder.") for name in tensors):
        return "panoocc"
    is_caffe = any(name.endswith("conv2.conv_offset.weight") for name in tensors)
    if is_caffe and ("backbone.conv1.weight" in tensors or "img_backbone.conv1.weight" in tensors):
        return "fcos3d"
    if "conv1.weight" in tensors and "layer1.0.conv1.weight" in tensors:
        return "torchvision"
    raise CheckpointError(
        f"{path} has {len(tensors)} tensors ({', '.join(list(tensors)[:3])}, ...), whose names are neither those of "
        "torchvision's ResNet nor PanoOcc's nor FCOS3D's with deformable stages nor ours; --weights-format says which "
        "to expect"
    )
