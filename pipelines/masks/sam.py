"""Segment Anything as a generator: its weights, loaded once per process, and what the stage asks of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from pipelines.masks.config import SamConfig
from pipelines.masks.generator import GeneratorKind, Size
from pipelines.masks.network_workers import device_here, network_scheduler
from pipelines.masks.prompted_generator import PromptedGenerator
from pipelines.masks.sam_checkpoint import PUBLISHED, find_checkpoint, load_sam
from pipelines.masks.sam_network import SamNetwork
from pipelines.masks.weights_file import weights_fingerprint

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

_LOADING: Final = Lock()
"""Threads of one process wait for each other's model instead of loading one each."""


def sam_generator(config: SamConfig, size: Size) -> PromptedGenerator:
    """Takes the process's model, loading it first, for images that become (width, height) ``size``.

    Raises:
        CheckpointError: there is no checkpoint, or it is no Sam of the wanted size.
        SetupError: the device is not available.
    """
    with _LOADING:
        model = _load_once(find_checkpoint(config), config.model_type, device_here(config.device))
    return PromptedGenerator(SamNetwork(model, config), config, size)


@cache
def _load_once(path: Path, model_type: str | None, device: str) -> Sam:
    import torch

    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    return load_sam(path, model_type).to(device)


SAM: Final = GeneratorKind(
    config=SamConfig,
    unit_size=4,
    needs=lambda config: weights_fingerprint(
        find_checkpoint(config), config.sha256, {name: sha256 for name, _, sha256 in PUBLISHED.values()}
    ),
    build=sam_generator,
    schedule=lambda scheduler, config: network_scheduler(scheduler, config.device, find_checkpoint(config)),
)
"""Entry of the table of generators."""
