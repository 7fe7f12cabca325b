"""The file of weights that pretraining leaves, and the card that says what it is and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import Field
from safetensors.torch import save as serialize
from torch import Tensor

from protoocc.pretrain.scores import PixelScores
from protoocc.weights.own import CARD_KEY
from schemas.files import write_bytes
from schemas.settings import Frozen

WEIGHTS: Final = "image_features.safetensors"
CARD: Final = "image_features.json"


class WeightsCard(Frozen):
    """What a file of pretrained image features is."""

    format: str = Field("protoocc", description="Whose names the tensors have.")
    version: str = Field(description="Release and commit of the code.")
    command: str = Field(description="Command line that made it.")
    settings: dict[str, Any] = Field(description="Settings of the run, the network's among them.")
    data: dict[str, Any] = Field(description="Image targets: dataset, source, scenes of both splits, their checksum.")
    classes: tuple[str, ...] = Field(description="Classes that the head tells, by index.")
    scores: PixelScores = Field(description="On the held-out images.")
    stored_as: str = Field(description="Type of most numbers: float32 or float16.")
    steps: int = Field(description="Optimiser steps.")


def write_weights(folder: Path, tensors: Mapping[str, Tensor], card: WeightsCard, *, half: bool) -> Path:
    """Writes `image_features.safetensors`, the card in its metadata, and the card beside it.

    Args:
        folder: where to.
        tensors: state dict of the pretrained network.
        card: of it.
        half: store numbers in 16 bits; a tensor with numbers beyond their range stays as it is.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    stored = {name: _stored(tensor.detach().cpu().contiguous(), half=half) for name, tensor in tensors.items()}
    text = json.dumps(card.model_dump(mode="json"), indent=1, sort_keys=True)
    write_bytes(folder / WEIGHTS, serialize(stored, metadata={"format": "pt", CARD_KEY: text}))
    write_bytes(folder / CARD, f"{text}\n".encode())
    return folder / WEIGHTS


def _stored(tensor: Tensor, *, half: bool) -> Tensor:
    if not half or tensor.dtype != torch.float32:
        return tensor
    small = tensor.half()
    return small if bool(torch.isfinite(small).all()) else tensor
