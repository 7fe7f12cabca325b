"""Files of `protoocc pretrain images`: our own names, and a card that says which image network they belong to."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor

from protoocc.model.image_config import ImageConfig
from protoocc.weights.names import Place
from schemas.errors import CheckpointError, DataError
from schemas.outside import Source, parse_json, shorten

CARD_KEY: Final = "card"
"""Entry of a file's metadata that holds its card in JSON."""
_FIELDS: Final = (
    "backbone",
    "backbone_width",
    "backbone_style",
    "deformable_stages",
    "strides",
    "stride_64",
    "channels",
)
"""Settings that two image networks must share for weights of one to mean the same in the other."""


def place_own(name: str, tensor: Tensor) -> Place | None:
    """Place of a tensor: its own name, for image features and the heads on them; None for other tensors."""
    return Place(name, tensor) if name.startswith(("image_features.", "pixel_heads.")) else None


def settings_that_differ(file: str, card: str, config: ImageConfig) -> dict[str, object]:
    """What a network would have to be set to, by field, so that a file fits it; empty where it fits.

    Args:
        file: for messages.
        card: text of its card.
        config: of the network.

    Raises:
        CheckpointError: no card, or none that says which image network the file holds.
    """
    source = Source(f"{file}: its card", "Make it again with `protoocc pretrain images`.")
    if not card:
        raise CheckpointError(f"{file} has our names and no card: expected a file of `protoocc pretrain images`")
    try:
        settings = parse_json(source, card.encode()).get("settings")
    except DataError as error:
        raise CheckpointError(str(error)) from error
    model: Any = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(model, dict) or not set(_FIELDS) <= set(model):
        raise CheckpointError(
            f"{source.where} names no image network: expected `settings.model` with {', '.join(_FIELDS)}"
        )
    found = {name: tuple(model[name]) if isinstance(model[name], list) else model[name] for name in _FIELDS}
    for name, value in found.items():
        if not isinstance(value, type(getattr(config, name))):
            raise CheckpointError(f"{source.where} has {name} {shorten(value)}, which no image network has")
    return {name: value for name, value in found.items() if getattr(config, name) != value}
