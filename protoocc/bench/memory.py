"""Peak memory of one training step at full size, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import sys

import torch

from protoocc.batch import Batch
from protoocc.losses import choose_voxels, compute_losses
from protoocc.model import ModelConfig, ProtoOcc
from protoocc.optimizer import make_optimizer
from protoocc.presets import PRESETS
from schemas.errors import SetupError


def training_memory_gb(
    preset: str, calibration: tuple[torch.Tensor, torch.Tensor], image_size: tuple[int, int], *, recompute: bool = False
) -> float:
    """Peak memory of the second training step with one sample: weights, gradients, AdamW and activations.

    On a GPU it is what torch allocated there, on a CPU the largest resident size of the process.

    Args:
        preset: key of `protoocc.presets.PRESETS`.
        calibration: intrinsics (V, 3, 3) of images of ``image_size`` and camera poses (V, 4, 4).
        image_size: (H, W) pixels.
        recompute: with activation checkpointing.

    Raises:
        SetupError: the process died, most likely for lack of memory.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    arguments = (preset, *(part.tolist() for part in calibration), image_size, recompute, queue)
    process = context.Process(target=_measure, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0 or queue.empty():
        raise SetupError(
            f"a training step of {preset} ended with exit code {process.exitcode}: is there enough memory?"
        )
    return float(queue.get())


def _measure(
    preset: str,
    image_from_camera: list[list[list[float]]],
    camera_from_ego: list[list[list[float]]],
    image_size: tuple[int, int],
    recompute: bool,
    queue: multiprocessing.queues.SimpleQueue[float],
) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = PRESETS[preset]()
    network = config.model.model_copy(update={"recompute": recompute})
    model = ProtoOcc(network).to(device).train()
    optimizer = make_optimizer(model, config.optimizer)
    batch = _random_batch(network, torch.tensor(image_from_camera), torch.tensor(camera_from_ego), image_size).to(
        device
    )
    for _ in range(2):
        choice = choose_voxels(batch, config.loss)
        losses = compute_losses(model(batch, choice.all), batch, choice, config.loss)
        optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        optimizer.step()
    if device.type == "cuda":
        queue.put(torch.cuda.max_memory_allocated(device) / 1e9)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9)


def _random_batch(
    config: ModelConfig,
    image_from_camera: torch.Tensor,
    camera_from_ego: torch.Tensor,
    image_size: tuple[int, int],
) -> Batch:
    """One sample of noise with a third of its voxels observed, as in real labels."""
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
