"""The clock of benchmarks."""

from __future__ import annotations

import time

import torch


def now(device: torch.device) -> float:
    """Seconds, after the GPU has finished what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
