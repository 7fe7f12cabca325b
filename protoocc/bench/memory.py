"""Peak memory of one training step at full size, measured in a process of its own."""

from __future__ import annotations

import math
import multiprocessing
import resource
import signal
import sys
from pathlib import Path

import torch

from protoocc.batch import Batch
from protoocc.config import TrainConfig
from protoocc.hosts import build_network
from protoocc.losses import choose_voxels, compute_losses
from protoocc.network import NetworkConfig
from protoocc.optimizer import make_optimizer
from protoocc.presets import PRESETS
from schemas.errors import SetupError
from schemas.settings import override

Matrices = list[list[list[float]]]
"""Calibration as plain numbers, which cross to another process without shared memory."""


def training_memory_gb(
    preset: str, calibration: tuple[torch.Tensor, torch.Tensor], image_size: tuple[int, int], *, recompute: bool = False
) -> float | None:
    """Peak memory of a training step with one sample: weights, gradients, AdamW and activations.

    On a GPU it is what torch allocated there, on a CPU the largest resident size of the process.

    Args:
        preset: key of `protoocc.presets.PRESETS`.
        calibration: intrinsics (V, 3, 3) of images of ``image_size`` and camera poses (V, 4, 4).
        image_size: (H, W) pixels.
        recompute: with activation checkpointing.

    Returns:
        Gigabytes; None where the machine has too little memory for the step.

    Raises:
        SetupError: the process failed for another reason.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    arguments = (preset, calibration[0].tolist(), calibration[1].tolist(), image_size, recompute, queue)
    process = context.Process(target=_measure, args=arguments)
    process.start()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return None
    if process.exitcode != 0 or queue.empty():
        raise SetupError(f"a training step of {preset} ended with exit code {process.exitcode}; see its messages above")
    peak = queue.get()
    return None if math.isnan(peak) else float(peak)


def _measure(
    preset: str,
    image_from_camera: Matrices,
    camera_from_ego: Matrices,
    image_size: tuple[int, int],
    recompute: bool,
    queue: multiprocessing.queues.SimpleQueue[float],
) -> None:
    """The other process: puts the peak into the queue, NaN where torch ran out of memory."""
    _die_first()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = PRESETS[preset]()
    config = override(config, ["model.recompute=true"] if recompute else [])
    cameras = (torch.tensor(image_from_camera), torch.tensor(camera_from_ego))
    batch = _random_batch(config.model, cameras, image_size).to(device)
    try:
        _step(config, batch, device)
    except (torch.OutOfMemoryError, MemoryError):
        queue.put(math.nan)
        return
    if device.type == "cuda":
        queue.put(torch.cuda.max_memory_allocated(device) / 1e9)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9)


def _step(config: TrainConfig, batch: Batch, device: torch.device) -> None:
    """One training step behind an empty one, after which AdamW holds its moments."""
    model = build_network(config.model).to(device).train()
    optimizer = make_optimizer(model, config.optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    choice = choose_voxels(batch, config.loss, config.classes)
    losses = compute_losses(model(batch, choice.all), batch, choice, config.loss, config.model)
    torch.autograd.backward(losses["total"])
    optimizer.step()


def _die_first() -> None:
    """Asks Linux to stop this process before any other when memory runs out."""
    setting = Path("/proc/self/oom_score_adj")
    if setting.exists():
        setting.write_text("1000")


def _random_batch(
    config: NetworkConfig, calibration: tuple[torch.Tensor, torch.Tensor], image_size: tuple[int, int]
) -> Batch:
    """One sample of noise with a third of its voxels observed, as in real labels."""
    image_from_camera, camera_from_ego = calibration
    cameras, past = len(image_from_camera), config.frames - 1
    images = torch.randint(0, 256, (1, 1 + past, cameras, 3, *image_size), dtype=torch.uint8)
    semantics = torch.randint(0, config.num_classes, (1, *config.grid.shape))
    return Batch(
        images=images[:, 0],
        image_from_camera=image_from_camera[None],
        camera_from_ego=camera_from_ego[None],
        tokens=["random"],
        segment_id=torch.arange(image_size[0] * image_size[1]).view(image_size).expand(1, cameras, -1, -1) // 1156,
        semantics=semantics,
        mask_camera=torch.rand(semantics.shape) < 0.33,
        mask_lidar=torch.ones(semantics.shape, dtype=torch.bool),
        past_images=images[:, 1:],
        past_image_from_camera=image_from_camera.expand(1, past, -1, -1, -1),
        past_camera_from_ego=camera_from_ego.expand(1, past, -1, -1, -1),
        past_from_ego=torch.eye(4).expand(1, past, -1, -1),
    )
