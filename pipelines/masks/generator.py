"""What a mask generator offers, and how a stage knows one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8

from pipelines.scheduler import Scheduler
from schemas.settings import Frozen

Size = tuple[int, int] | None
"""(width, height) in pixels of the network's image before its crop; None is that of the camera's file."""


@runtime_checkable
class MaskGenerator(Protocol):
    """Makes class-free segments of images."""

    def generate(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Sequence[Int32[np.ndarray, "_ _"]]:
        """One label map per image.

        Args:
            images: BGR, of any sizes; those of one keyframe, so that the same ones always come together.

        Returns:
            Labels 0..S-1, all of which occur, and -1 where the generator found nothing; of its own size. Both a single
            segment and none at all are legal; the stage covers what is left (`label_map.cover_gaps`).
        """


@dataclass(frozen=True)
class GeneratorKind:
    """One entry of the table of generators; the functions take settings of the type ``config``."""

    config: type[Frozen]
    unit_size: int
    """Keyframes per task: a few seconds without a network, some minutes with one on a GPU."""
    needs: Callable[[Any], Mapping[str, str]]
    """Checks what it needs before anything is written; returns fingerprints of the files that it reads."""
    build: Callable[[Any, Size], MaskGenerator]
    """Makes a generator for images that become that size; processes call it for every unit."""
    schedule: Callable[[Scheduler, Any], Scheduler] = lambda scheduler, config: scheduler
    """Fills in workers and memory that the user left open."""
