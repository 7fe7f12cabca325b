"""Complete settings of VoxFormer at the paper's query sizes, with and without its parts, and for a laptop CPU."""

from __future__ import annotations

from typing import Any, Final

from protoocc.model.parts_config import UpsampleStage
from protoocc.model.presets import DEMO_FEATURES
from protoocc.model.voxformer.config import VoxFormerConfig
from protoocc.model.voxformer.proposer import ProposalsConfig

_TWICE = UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=32)
_TWICE_WIDE = UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=128)
_FOUR_TIMES = UpsampleStage(kernel=(4, 4, 4), stride=(4, 4, 4), channels=32)
_BACKBONE: Final[dict[str, Any]] = {"frozen_stages": 1, "frozen_norms": True}


def voxformer_base() -> VoxFormerConfig:
    """128 x 128 x 16 queries, folded to 512 x 512: the published single-frame network."""
    return VoxFormerConfig(**_BACKBONE)


def voxformer_small() -> VoxFormerConfig:
    """64 x 64 x 8 queries, folded to 128 x 256, upsampled four times."""
    return VoxFormerConfig(**_BACKBONE, query_shape=(64, 64, 8), upsample=(_TWICE_WIDE, _TWICE))


def voxformer_demo() -> VoxFormerConfig:
    """A narrow one on the image features of `demo`, which stay as they are; half a second a step on two CPU cores."""
    return VoxFormerConfig(
        **DEMO_FEATURES,
        frozen_features=True,
        query_shape=(64, 64, 8),
        cross_layers=2,
        self_layers=2,
        heads=4,
        points=4,
        ffn_channels=128,
        layer_dropout=0.0,
        placed_queries=True,
        upsample=(_FOUR_TIMES,),
        augmentations=("dropout",),
    )


def proposals() -> ProposalsConfig:
    """What proposes the queries of a VoxFormer, of any query size."""
    return ProposalsConfig()


def proposals_as_is() -> ProposalsConfig:
    """Measured depth taken for occupancy: what a network that proposes has to beat."""
    return ProposalsConfig(learned=False)


def with_parts(config: VoxFormerConfig) -> VoxFormerConfig:
    """The same network with the paper's parts."""
    parts = {"prototype_mapping": True, "prototype_optimisation": True, "multi_perspective": True}
    return VoxFormerConfig.model_validate({**dict(config), **parts})
