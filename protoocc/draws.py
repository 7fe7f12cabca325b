"""Random numbers of training: each sample draws its own, so that no process, batch or kill changes them."""

from __future__ import annotations

import hashlib
from typing import Final

import torch

_SEED_BYTES: Final = 7
"""Seeds stay positive in 64 signed bits."""


def draw_seed(seed: int, number: int) -> int:
    """Seed of everything that one sample draws in one training step.

    Args:
        seed: of the run.
        number: global number of the sample in the endless stream of `EpochSampler`.
    """
    return _digest(f"{seed} {number}")


def draw_generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose of one sample.

    Args:
        seed: from `draw_seed`.
        purpose: any word; other words give independent numbers.
        device: where it draws.
    """
    return torch.Generator(device).manual_seed(_digest(f"{seed} {purpose}"))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:_SEED_BYTES], "big")
