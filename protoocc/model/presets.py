"""Complete network settings: the paper's three query sizes and one for a laptop CPU."""

from __future__ import annotations

from protoocc.model.config import ModelConfig, UpsampleStage


def protoocc_base() -> ModelConfig:
    """ProtoOcc-Base: 100 x 100 x 16 queries, images of 432 x 800."""
    return ModelConfig(
        query_shape=(100, 100, 16),
        upsample=(UpsampleStage(kernel=(4, 4, 1), stride=(2, 2, 1), channels=32),),
    )


def protoocc_small() -> ModelConfig:
    """ProtoOcc-Small: 50 x 50 x 16 queries, images of 432 x 800."""
    return ModelConfig(query_shape=(50, 50, 16))


def protoocc_tiny() -> ModelConfig:
    """ProtoOcc-Tiny: 50 x 50 x 4 queries, images of 432 x 800; z is upsampled as well."""
    return ModelConfig(
        query_shape=(50, 50, 4),
        upsample=(
            UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=128),
            UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=32),
        ),
    )


def demo() -> ModelConfig:
    """The smallest network with all parts, for images of about 216 x 400; trains in minutes on two CPU cores."""
    return ModelConfig(
        backbone="resnet18",
        backbone_width=32,
        strides=(8, 16),
        channels=64,
        query_shape=(40, 40, 4),
        encoder_layers=2,
        heads=4,
        points=2,
        ffn_channels=128,
        upsample=(UpsampleStage(kernel=(5, 5, 4), stride=(5, 5, 4), channels=32),),
        classifier_channels=32,
    )
