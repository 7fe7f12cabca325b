"""Complete training settings: the paper's networks and those it compares with, and some for a laptop CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from protoocc import model
from protoocc.ablations import ABLATIONS
from protoocc.augment.config import AugmentConfig
from protoocc.config import DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig, WeightsConfig
from protoocc.losses.class_weights import SEMANTICKITTI_WEIGHTS, SHORT_WEIGHTS, VOXFORMER_WEIGHTS
from protoocc.losses.config import LossConfig
from protoocc.model.symphonies import presets as sym
from protoocc.model.voxformer import presets as vox
from protoocc.network import NetworkConfig
from schemas.classes import OCC3D, SEMANTICKITTI, ClassTable
from schemas.errors import ConfigError, did_you_mean
from schemas.settings import override

DEMO_FEATURES: Final = WeightsConfig(
    file=str(Path(__file__).parent / "shipped" / "demo.safetensors"),
    sha256="2e6be2d262900ecddebb9e792d88d762d1a2c3113ecdcabd0fe1d81ffca44ea8",
    format="protoocc",
)
"""Image features of the demo, pretrained on generated worlds of other seeds; `demo.json` beside it says how."""

_VOXFORMER_LOSS: Final = LossConfig(
    lambda_ce=1.0,
    lambda_lovasz=0.0,
    lambda_sem_scal=1.0,
    lambda_geo_scal=1.0,
    class_weights=VOXFORMER_WEIGHTS,
    ce_mean="voxels",
)


def demo() -> TrainConfig:
    """A small network on pretrained image features for the generated world: minutes on two CPU cores."""
    return TrainConfig(
        model=model.demo(),
        loss=LossConfig(
            lambda_lovasz=2.0,
            supervised_voxels=20_000,
            consistency_voxels=4_000,
        ),
        optimizer=OptimizerConfig(lr=2e-3, backbone_lr_factor=1.0),
        schedule=ScheduleConfig(steps=400, warmup_steps=15),
        data=DataConfig(batch_size=1, augment=AugmentConfig(flip_y=0.5)),
        weights=DEMO_FEATURES,
        checkpoint_every=100,
    )


def like_demo(network: NetworkConfig, loss: LossConfig | None = None) -> TrainConfig:
    """Another network on the image features of the demo, trained as the demo is, by its losses or by others."""
    settings = demo()
    return settings.model_copy(update={"model": network, "loss": settings.loss if loss is None else loss})


def protoocc_mini() -> TrainConfig:
    """The network of the reduced tables, with losses by which it finds rare classes within 400 samples."""
    loss = demo().loss.model_copy(update={"lambda_lovasz": 10.0, "class_weights": SHORT_WEIGHTS})
    return like_demo(model.protoocc_mini(), loss)


def _sampled(loss: LossConfig) -> LossConfig:
    """Losses of a part of the two million voxels of SemanticKITTI's grid."""
    return loss.model_copy(update={"supervised_voxels": 40_000, "consistency_voxels": 4_000})


def published(network: NetworkConfig) -> TrainConfig:
    """Settings of section 4.1 for one of the paper's networks: 12 epochs, 8 samples a step."""
    return TrainConfig(
        model=network,
        loss=LossConfig(),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(epochs=12),
        data=DataConfig(batch_size=8, workers=8),
    )


def voxformer(network: NetworkConfig) -> TrainConfig:
    """VoxFormer's published training: 20 epochs of 4 samples a step, one rate for all, three losses of weight 1."""
    return TrainConfig(
        model=network,
        loss=_VOXFORMER_LOSS,
        optimizer=OptimizerConfig(backbone_lr_factor=1.0),
        schedule=ScheduleConfig(epochs=20),
        data=DataConfig(batch_size=4, workers=4),
        classes=SEMANTICKITTI,
    )


def voxformer_demo(network: NetworkConfig) -> TrainConfig:
    """A small VoxFormer for generated sequences in SemanticKITTI's form: minutes on two CPU cores."""
    return like_demo(network, _sampled(_VOXFORMER_LOSS)).model_copy(update={"classes": SEMANTICKITTI})


def proposals(network: NetworkConfig) -> TrainConfig:
    """What proposes queries, trained from scratch by cross entropy alone: minutes on two CPU cores."""
    return TrainConfig(
        model=network,
        loss=LossConfig(lambda_ce=1.0, lambda_lovasz=0.0, supervised_voxels=100_000),
        optimizer=OptimizerConfig(lr=2e-3),
        schedule=ScheduleConfig(steps=400, warmup_steps=15),
        data=DataConfig(batch_size=2, augment=AugmentConfig(flip_y=0.5)),
        checkpoint_every=100,
        classes=SEMANTICKITTI,
    )


def monoscene(network: NetworkConfig, table: ClassTable) -> TrainConfig:
    """MonoScene's optimiser: one learning rate for all parts, 4 samples a step, 30 epochs."""
    return TrainConfig(
        model=network,
        loss=LossConfig(),
        optimizer=OptimizerConfig(lr=1e-4, backbone_lr_factor=1.0, weight_decay=1e-4),
        schedule=ScheduleConfig(epochs=30),
        data=DataConfig(batch_size=4, workers=4),
        classes=table,
    )


def within_minutes(network: NetworkConfig, steps: int) -> TrainConfig:
    """As the demo, with as many steps as two CPU cores take in ten minutes."""
    schedule = ScheduleConfig(steps=steps, warmup_steps=steps // 25)
    return like_demo(network).model_copy(update={"schedule": schedule})


def tpvformer(network: NetworkConfig) -> TrainConfig:
    """TPVFormer's schedule: 24 epochs, 8 samples a step."""
    return published(network).model_copy(update={"schedule": ScheduleConfig(epochs=24)})


SYMPHONIES_LOSS: Final = LossConfig(
    lambda_ce=1.0,
    lambda_lovasz=0.0,
    lambda_sem_scal=1.0,
    lambda_geo_scal=1.0,
    lambda_frustum=1.0,
    class_weights=SEMANTICKITTI_WEIGHTS,
)
"""Four losses of voxels with weight 1 each, as published; earlier layers count half."""


def symphonies(network: NetworkConfig) -> TrainConfig:
    """Symphonies' own training: 30 epochs, 4 samples a step, a tenth of the rate after epoch 25."""
    return TrainConfig(
        model=network,
        loss=SYMPHONIES_LOSS,
        optimizer=OptimizerConfig(eps=1e-3, weight_decay=1e-4),
        schedule=ScheduleConfig(epochs=30, warmup_steps=0, drops=(25 / 30,)),
        data=DataConfig(batch_size=4, workers=4),
        classes=SEMANTICKITTI,
    )


def symphonies_demo(network: NetworkConfig) -> TrainConfig:
    """A small Symphonies on the image features of the demo."""
    return like_demo(network, _sampled(SYMPHONIES_LOSS)).model_copy(update={"classes": SEMANTICKITTI})


PRESETS: Final[dict[str, Callable[[], TrainConfig]]] = {
    "demo": demo,
    "plain": lambda: like_demo(model.plain()),
    "protoocc-base": lambda: published(model.protoocc_base()),
    "protoocc-small": lambda: published(model.protoocc_small()),
    "protoocc-tiny": lambda: published(model.protoocc_tiny()),
    "protoocc-mini": protoocc_mini,
    "panoocc-base": lambda: published(model.panoocc_base()),
    "panoocc-small": lambda: published(model.panoocc_small()),
    "panoocc-small-dfa3d": lambda: published(model.panoocc_small_dfa3d()),
    "panoocc-tiny": lambda: published(model.panoocc_tiny()),
    "bevformer-base": lambda: published(model.bevformer_base()),
    "bevformer-small": lambda: published(model.bevformer_small()),
    "bevformer-tiny": lambda: published(model.bevformer_tiny()),
    "voxformer-base": lambda: voxformer(vox.voxformer_base()),
    "voxformer-base-protoocc": lambda: voxformer(vox.with_parts(vox.voxformer_base())),
    "voxformer-small": lambda: voxformer(vox.voxformer_small()),
    "voxformer-small-protoocc": lambda: voxformer(vox.with_parts(vox.voxformer_small())),
    "voxformer-demo": lambda: voxformer_demo(vox.voxformer_demo()),
    "voxformer-demo-protoocc": lambda: voxformer_demo(vox.with_parts(vox.voxformer_demo())),
    "proposals": lambda: proposals(vox.proposals()),
    "proposals-as-is": lambda: proposals(vox.proposals_as_is()),
    "symphonies": lambda: symphonies(sym.symphonies()),
    "symphonies-base": lambda: symphonies(sym.symphonies_base()),
    "symphonies-base-protoocc": lambda: symphonies(sym.with_parts(sym.symphonies_base())),
    "symphonies-small": lambda: symphonies(sym.symphonies_small()),
    "symphonies-small-protoocc": lambda: symphonies(sym.with_parts(sym.symphonies_small())),
    "symphonies-demo": lambda: symphonies_demo(sym.symphonies_demo()),
    "symphonies-demo-protoocc": lambda: symphonies_demo(sym.with_parts(sym.symphonies_demo())),
    "monoscene": lambda: monoscene(model.monoscene(), SEMANTICKITTI),
    "monoscene-nuscenes": lambda: monoscene(model.monoscene_nuscenes(), OCC3D),
    "monoscene-demo": lambda: within_minutes(model.monoscene_demo(), 180),
    "tpvformer-base": lambda: tpvformer(model.tpvformer_base()),
    "tpvformer-demo": lambda: within_minutes(model.tpvformer_demo(), 250),
}
"""Presets by the name that the command line takes."""


def read_preset(name: str, changes: Sequence[str] = (), *, ablation: str | None = None) -> TrainConfig:
    """Complete settings of a preset with some fields changed.

    Args:
        name: key of `PRESETS`.
        changes: `path=value`, such as `optimizer.lr=1e-3`; they come after those of the ablation. With fewer steps the
            preset's warm-up shrinks in proportion, unless it is changed as well.
        ablation: key of `protoocc.ablations.ABLATIONS`.

    Raises:
        ConfigError: no such preset, ablation or field (names the known ones), or a value that a field does not take.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset '{name}': expected one of {', '.join(PRESETS)}.{did_you_mean(name, PRESETS)}")
    if ablation is not None and ablation not in ABLATIONS:
        near = did_you_mean(ablation, ABLATIONS)
        raise ConfigError(f"no ablation '{ablation}': expected one of {', '.join(ABLATIONS)}.{near}")
    row = ABLATIONS[ablation].changes_of(name) if ablation is not None else ()
    preset = PRESETS[name]()
    return override(preset, [*_shorter_warm_up(preset.schedule, changes), *row, *changes])


def _shorter_warm_up(schedule: ScheduleConfig, changes: Sequence[str]) -> list[str]:
    """The change that keeps a preset's share of warm-up when its steps alone are made fewer."""
    steps = next((change.partition("=")[2] for change in changes if change.startswith("schedule.steps=")), "")
    if schedule.steps is None or not steps.isdecimal() or int(steps) >= schedule.steps:
        return []
    return [f"schedule.warmup_steps={schedule.warmup_steps * int(steps) // schedule.steps}"]
