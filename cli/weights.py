"""Options of `train` that name published weights to start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import expected
from cli.say import say

if TYPE_CHECKING:
    from protoocc.config import TrainConfig

Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", help="Start from weights: a file of torchvision, PanoOcc, FCOS3D or `protoocc pretrain`."
    ),
]
WeightsFormat = Annotated[
    str | None,
    typer.Option(
        "--weights-format", help="torchvision, panoocc, fcos3d or protoocc; told by the names in the file by default."
    ),
]
WeightsShare = Annotated[
    float | None,
    typer.Option("--weights-share", min=0, max=1, help="Least share of each promised part that the file must fill."),
]


def with_weights(config: TrainConfig, file: Path | None, format: str | None, share: float | None) -> TrainConfig:
    """The configuration with a file of weights, after a look at what it fills, which is printed.

    Raises:
        ConfigError: no such format, or options without a file.
        CheckpointError: the file is unreadable or does not fit the network.
    """
    from typing import get_args

    from protoocc import config as settings
    from protoocc.weights import check_weights, read_weights
    from schemas.errors import ConfigError

    formats = {known: known for known in get_args(settings.WeightsFormat)}
    if format is not None and format not in formats:
        raise expected("--weights-format", format, formats)
    if file is None:
        if format is not None or share is not None:
            raise ConfigError("--weights-format and --weights-share need --weights FILE")
        return config
    weights = read_weights(file, formats[format] if format is not None else None, least_share=share)
    for line in check_weights(config.model, weights).lines():
        say(line)
    return config.model_copy(update={"weights": weights.record})


def with_stored_weights(config: TrainConfig, run: Path) -> TrainConfig:
    """The configuration with the weights that a run, if it is there, started from: --resume need not repeat them."""
    from protoocc.checkpoint import CONFIG, read_config

    path = run / CONFIG
    return config.model_copy(update={"weights": read_config(path).weights}) if path.is_file() else config
