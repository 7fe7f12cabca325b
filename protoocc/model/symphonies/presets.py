"""Complete settings of Symphonies: as published, at the paper's two sizes with and without its parts, and small."""

from __future__ import annotations

from typing import Any, Final

from protoocc.model.parts_config import UpsampleStage
from protoocc.model.symphonies.config import SymphoniesConfig

_TWICE = UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=32)
_TWICE_WIDE = UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=128)
_PARTS: Final[dict[str, Any]] = {
    "prototype_mapping": True,
    "prototype_optimisation": True,
    "head": "paper",
    "multi_perspective": True,
}


def symphonies() -> SymphoniesConfig:
    """The published network: 128 x 128 x 8 queries."""
    return SymphoniesConfig()


def symphonies_base() -> SymphoniesConfig:
    """The paper's Base: 128 x 128 x 16 queries."""
    return SymphoniesConfig(query_shape=(128, 128, 16))


def symphonies_small() -> SymphoniesConfig:
    """The paper's Small: 64 x 64 x 8 queries."""
    return SymphoniesConfig(query_shape=(64, 64, 8))


def symphonies_base_protoocc() -> SymphoniesConfig:
    """Base with prototypes and several perspectives."""
    return SymphoniesConfig(query_shape=(128, 128, 16), upsample=(_TWICE,), **_PARTS)


def symphonies_small_protoocc() -> SymphoniesConfig:
    """Small with prototypes and several perspectives."""
    return SymphoniesConfig(query_shape=(64, 64, 8), upsample=(_TWICE_WIDE, _TWICE), **_PARTS)


def symphonies_demo(features: dict[str, Any]) -> SymphoniesConfig:
    """The smallest one, on given image features, for images of about 144 x 480 and two CPU cores.

    It decodes as the paper does, in one view: its own head would upsample all two million voxels in every step.
    """
    return SymphoniesConfig(
        **features,
        pixel_decoder_layers=0,
        frozen_features=True,
        query_shape=(64, 64, 4),
        instances=32,
        layers=2,
        heads=4,
        points=2,
        ffn_channels=128,
        dilations=(1,),
        head="paper",
        upsample=(UpsampleStage(kernel=(4, 4, 8), stride=(4, 4, 8), channels=32),),
        classifier_channels=64,
        clustering_stride=8,
    )


def symphonies_demo_protoocc(features: dict[str, Any]) -> SymphoniesConfig:
    """The smallest one with prototypes and two perspectives."""
    return symphonies_demo(features).model_copy(update={**_PARTS, "augmentations": ("dropout",)})
