"""Complete network settings: ProtoOcc and its baselines at the paper's query sizes, and some for a laptop CPU.

PanoOcc, BEVFormer and ProtoOcc read four frames of images of 432 x 800. They differ by the query size (section 4.1) and
the transposed convolutions from it to the 200 x 200 x 16 voxels of Occ3D.
"""

from __future__ import annotations

from typing import Any, Final

from protoocc.model.config import ProtoOccConfig, UpsampleStage
from protoocc.model.monoscene import MonoSceneConfig
from protoocc.model.plain import PlainConfig
from protoocc.model.tpvformer import TpvFormerConfig
from schemas.classes import SEMANTICKITTI
from schemas.geometry import SEMANTICKITTI_GRID

_FRAMES = 4
DEMO_FEATURES: Final[dict[str, Any]] = {
    "backbone": "resnet34",
    "backbone_width": 28,
    "strides": (4, 8, 16),
    "channels": 64,
}
"""Those of the weights that ship with the package (`protoocc.presets.DEMO_FEATURES`)."""
_TWICE_WIDE = UpsampleStage(kernel=(4, 4, 1), stride=(2, 2, 1), channels=256)
_TWICE = UpsampleStage(kernel=(4, 4, 1), stride=(2, 2, 1), channels=32)
_PILLAR_TO_VOXELS = UpsampleStage(kernel=(1, 1, 16), stride=(1, 1, 16), channels=32)


def protoocc_base() -> ProtoOccConfig:
    """ProtoOcc-Base: 100 x 100 x 16 queries."""
    return ProtoOccConfig(frames=_FRAMES, query_shape=(100, 100, 16), upsample=(_TWICE,))


def protoocc_small() -> ProtoOccConfig:
    """ProtoOcc-Small: 50 x 50 x 16 queries."""
    return ProtoOccConfig(frames=_FRAMES, query_shape=(50, 50, 16), upsample=(_TWICE_WIDE, _TWICE))


def protoocc_tiny() -> ProtoOccConfig:
    """ProtoOcc-Tiny: 50 x 50 x 4 queries; z is upsampled from 4 to 16 as well."""
    upsample = (
        UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=256),
        UpsampleStage(kernel=(4, 4, 4), stride=(2, 2, 2), channels=32),
    )
    return ProtoOccConfig(frames=_FRAMES, query_shape=(50, 50, 4), upsample=upsample)


def panoocc_base() -> ProtoOccConfig:
    """PanoOcc-Base: ProtoOcc-Base without the paper's parts."""
    return _without_prototypes(protoocc_base())


def panoocc_small() -> ProtoOccConfig:
    """PanoOcc-Small: ProtoOcc-Small without the paper's parts."""
    return _without_prototypes(protoocc_small())


def panoocc_tiny() -> ProtoOccConfig:
    """PanoOcc-Tiny: ProtoOcc-Tiny without the paper's parts."""
    return _without_prototypes(protoocc_tiny())


def panoocc_small_dfa3d() -> ProtoOccConfig:
    """PanoOcc-Small with DFA3D's depth-weighted attention."""
    return panoocc_small().model_copy(update={"depth_attention": True})


def bevformer_base() -> ProtoOccConfig:
    """BEVFormer-Base: 200 x 200 pillars."""
    return _bevformer((200, 200, 1), (_PILLAR_TO_VOXELS,))


def bevformer_small() -> ProtoOccConfig:
    """BEVFormer-Small: 100 x 100 pillars."""
    return _bevformer((100, 100, 1), (_TWICE_WIDE, _PILLAR_TO_VOXELS))


def bevformer_tiny() -> ProtoOccConfig:
    """BEVFormer-Tiny: 50 x 50 pillars."""
    return _bevformer((50, 50, 1), (_TWICE_WIDE, _TWICE_WIDE, _PILLAR_TO_VOXELS))


def demo() -> ProtoOccConfig:
    """The smallest network with all parts, for images of about 150 x 290; trains in minutes on two CPU cores."""
    return ProtoOccConfig(
        **DEMO_FEATURES,
        frozen_features=True,
        pixel_depth=True,
        pixel_classes=True,
        voxel_detail=True,
        query_shape=(25, 25, 4),
        lifted_cells=(4, 4, 1),
        refinement_channels=64,
        encoder_layers=1,
        heads=4,
        points=2,
        ffn_channels=128,
        augmentations=("dropout",),
        upsample=(UpsampleStage(kernel=(2, 2, 4), stride=(2, 2, 4), channels=32),),
        classifier_channels=64,
    )


def protoocc_mini() -> ProtoOccConfig:
    """ProtoOcc on the image features of `demo`, whose voxels see images through queries alone, as the paper's do.

    A query starts as what the images show at its centre, weighed by depth: prototypes are chosen by likeness, and what
    starts alike in every scene resembles none of them in particular. Cells of 3 x 3 on the map of stride 4 make 336
    prototypes of an image of 154 x 288, where the paper has 350: it wants about as many as there are pseudo masks
    (section 4.4). At stride 8, r = 4 would leave 45.
    """
    return ProtoOccConfig(
        **DEMO_FEATURES,
        frozen_features=True,
        pixel_depth=True,
        query_shape=(50, 50, 4),
        lifted_cells=(1, 1, 1),
        refinement_channels=64,
        encoder_layers=2,
        heads=4,
        points=4,
        ffn_channels=128,
        clustering_stride=4,
        prototype_cell=3,
        upsample=(
            UpsampleStage(kernel=(2, 2, 2), stride=(2, 2, 2), channels=64),
            UpsampleStage(kernel=(2, 2, 2), stride=(2, 2, 2), channels=32),
        ),
        classifier_channels=64,
    )


def plain() -> PlainConfig:
    """The yardstick of `demo`: the same image features, which go on learning here: frozen ones serve it worse."""
    return PlainConfig(**DEMO_FEATURES)


def monoscene() -> MonoSceneConfig:
    """MonoScene for SemanticKITTI, with EfficientNet-B7 as published."""
    return MonoSceneConfig(
        grid=SEMANTICKITTI_GRID,
        num_classes=SEMANTICKITTI.num_classes,
        free=SEMANTICKITTI.free,
        image_encoder="efficientnet_b7",
        strides=(4, 8, 16, 32),
        channels=64,
    )


def monoscene_nuscenes() -> MonoSceneConfig:
    """MonoScene for the six cameras of Occ3D-nuScenes, on the residual network of the others."""
    return MonoSceneConfig(strides=(4, 8, 16, 32), channels=64)


def monoscene_demo() -> MonoSceneConfig:
    """MonoScene on the image features of `demo`, narrow enough for two CPU cores."""
    return MonoSceneConfig(**DEMO_FEATURES, image_decoder="pyramid", width=16, context_relations=2)


def tpvformer_base() -> TpvFormerConfig:
    """TPVFormer for Occ3D-nuScenes: planes of 100 x 100, 100 x 8 and 100 x 8 cells."""
    return TpvFormerConfig(strides=(8, 16, 32, 64))


def tpvformer_demo() -> TpvFormerConfig:
    """TPVFormer on the image features of `demo`, with smaller planes and fewer points."""
    return TpvFormerConfig(
        **DEMO_FEATURES,
        plane_shape=(50, 50, 8),
        layers=2,
        heads=4,
        anchors=(4, 8, 8),
        points=(4, 8, 8),
        self_points=8,
        self_anchors=4,
        ffn_channels=128,
    )


def _without_prototypes(config: ProtoOccConfig) -> ProtoOccConfig:
    parts = {"prototype_mapping": False, "prototype_optimisation": False, "multi_perspective": False}
    return config.model_copy(update=parts)


def _bevformer(query_shape: tuple[int, int, int], upsample: tuple[UpsampleStage, ...]) -> ProtoOccConfig:
    """Four layers, four scales, eight heights a pillar; self attention reads the frame before."""
    pillars = ProtoOccConfig(
        query_shape=query_shape,
        upsample=upsample,
        strides=(8, 16, 32, 64),
        encoder_layers=4,
        pillar_heights=8,
        frames=_FRAMES,
        frame_interval=1,
        temporal="recurrence",
    )
    return _without_prototypes(pillars)
