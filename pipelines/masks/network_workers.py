"""Networks on workers: how many, on which device, with how much memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from pipelines.scheduler import Scheduler, worker_number
from schemas.errors import SetupError

COPIES: Final = 1.2
"""Memory of the weights in a worker, in sizes of the checkpoint's file; on a GPU they pass through the host."""
WORKING_MEMORY: Final = 6 << 30
"""Bytes beside the weights: torch with CUDA, activations of one image at 1024 x 1024, masks of 64 points."""


def network_scheduler(scheduler: Scheduler, device: str, checkpoint: Path) -> Scheduler:
    """The scheduler with what the user left open filled in for a network.

    Workers: one per GPU on cuda, else one; fewer where their memory would not fit the machine. Memory of a worker
    process: its share of the machine, and not less than the checkpoint needs. On cuda a task takes a GPU for itself,
    also on a cluster, whose workers say how many they have.

    Args:
        scheduler: as the user asked.
        device: cpu, cuda or cuda:N.
        checkpoint: file of the weights.
    """
    scheduler = replace(scheduler, needs_gpu=device.startswith("cuda"))
    if scheduler.is_remote:
        return scheduler
    machine = replace(scheduler, memory_limit=None).worker_memory(1)
    needed = int(COPIES * checkpoint.stat().st_size) + WORKING_MEMORY
    workers = scheduler.workers or max(1, min(_gpus(device), machine // needed))
    filled = replace(scheduler, workers=workers)
    if scheduler.kind != "processes" or scheduler.memory_limit is not None:
        return filled
    return replace(filled, memory_limit=str(max(filled.worker_memory(workers), min(needed, machine))))


def _gpus(device: str) -> int:
    """GPUs that the device's name covers: all for `cuda`, one for `cuda:1`; the CPU counts as one."""
    import torch

    return torch.cuda.device_count() if device == "cuda" else 1


def device_here(device: str) -> str:
    """The torch device of this process: the n-th local worker takes the n-th GPU where the user wrote `cuda`.

    Raises:
        SetupError: torch finds no CUDA device.
    """
    import torch

    if not device.startswith("cuda"):
        return device
    count = torch.cuda.device_count()
    if not count:
        raise SetupError(
            f"--device {device}: torch finds no CUDA device. Run with --device cpu or see `protoocc doctor`."
        )
    return device if ":" in device else f"cuda:{worker_number() % count}"
