"""Reads a file of published weights without running anything that is in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from protoocc.config import WeightsConfig, WeightsFormat
from schemas.errors import CheckpointError


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds.

    Attributes:
        record: its path, digest and format, as a run stores them.
        tensors: by published name.
        settings: text of the configuration it was trained with, which mmcv stores; empty elsewhere.
    """

    record: WeightsConfig
    tensors: dict[str, Tensor]
    settings: str


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
        loaded = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file fails in many ways: zip, pickle, encoding, memory
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is no readable file of weights: {reason}") from error
    tensors, settings = _unwrap(path, loaded)
    format = format or _detect(path, tensors)
    record = WeightsConfig(file=str(path), sha256=digest, format=format, least_share=least_share)
    return WeightsFile(record, tensors, settings)


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


def _load_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise
        raise CheckpointError(
            f"{path} holds a Python object ({found[1]}) beside its tensors; reading it could run any code, so it is "
            'refused. If you trust its source, copy the tensors once: python -c "import torch; data = '
            f"torch.load('{path}', weights_only=False); torch.save(data.get('state_dict', data), 'weights.pth')\""
        ) from error


def _unwrap(path: Path, loaded: Any) -> tuple[dict[str, Tensor], str]:
    inner = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        raise CheckpointError(
            f"{path} holds {_describe(inner)}; expected named tensors, at the top or under 'state_dict'"
        )
    meta = loaded.get("meta") if inner is not loaded else None
    settings = meta.get("config") if isinstance(meta, Mapping) else None
    return {str(name): value for name, value in inner.items()}, settings if isinstance(settings, str) else ""


def _describe(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"one {type(value).__name__}"
    entries = [f"'{name}' ({type(entry).__name__})" for name, entry in list(value.items())[:5]]
    return f"a dict of {len(value)}: {', '.join(entries)}" if entries else "an empty dict"


def _detect(path: Path, tensors: Mapping[str, Tensor]) -> WeightsFormat:
    if any(name.startswith("pts_bbox_head.transformer.cam_encoder.") for name in tensors):
        return "panoocc"
    is_caffe = any(name.endswith("conv2.conv_offset.weight") for name in tensors)
    if is_caffe and ("backbone.conv1.weight" in tensors or "img_backbone.conv1.weight" in tensors):
        return "fcos3d"
    if "conv1.weight" in tensors and "layer1.0.conv1.weight" in tensors:
        return "torchvision"
    raise CheckpointError(
        f"{path} has {len(tensors)} tensors ({', '.join(list(tensors)[:3])}, ...), whose names are neither those of "
        "torchvision's ResNet nor PanoOcc's nor FCOS3D's with deformable stages; --weights-format says which to expect"
    )
