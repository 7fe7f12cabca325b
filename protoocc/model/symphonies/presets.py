"""Complete settings of Symphonies: as published, at the paper's two sizes with and without its parts, and small."""

from __future__ import annotations

from protoocc.model.parts_config import UpsampleStage
from protoocc.model.presets import DEMO_FEATURES
from protoocc.model.symphonies.config import SymphoniesConfig

_TWICE = UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=32)
_TWICE_WIDE = UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=128)


def symphonies() -> SymphoniesConfig:
    """The published network: 128 x 128 x 8 queries."""
    return SymphoniesConfig(frozen_norms=True)


def symphonies_base() -> SymphoniesConfig:
    """The paper's Base: 128 x 128 x 16 queries."""
    return SymphoniesConfig(frozen_norms=True, query_shape=(128, 128, 16), upsample=(_TWICE,))


def symphonies_small() -> SymphoniesConfig:
    """The paper's Small: 64 x 64 x 8 queries."""
    return SymphoniesConfig(frozen_norms=True, query_shape=(64, 64, 8), upsample=(_TWICE_WIDE, _TWICE))


def symphonies_demo() -> SymphoniesConfig:
    """A narrow one on the image features of `demo`, which stay as they are, for two CPU cores.

    It decodes as the paper does, in one view: its own head would upsample all two million voxels in every step.
    """
    return SymphoniesConfig(
        **DEMO_FEATURES,
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
        augmentations=("dropout",),
    )


def with_parts(config: SymphoniesConfig) -> SymphoniesConfig:
    """The same network with the paper's parts."""
    parts = {"prototype_mapping": True, "prototype_optimisation": True, "multi_perspective": True, "head": "paper"}
    return SymphoniesConfig.model_validate({**dict(config), **parts})
