"""Pictures of samples of a split, with the prediction of a checkpoint if there is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from protoocc.checkpoint import load_model
from protoocc.compatibility import check_grid
from protoocc.data import ShardDataset, ShardSet, collate, open_shards
from protoocc.data.decode import Keyframe
from protoocc.inference import default_device
from protoocc.metrics import Confusion
from protoocc.prototype_colors import prototype_colors
from protoocc.view import SampleView, render_sample, sample_title, write_png
from schemas.errors import ConfigError


def draw_split(
    shards: Path,
    split: str,
    out: Path,
    *,
    checkpoint: Path | None = None,
    count: int = 4,
    prototypes: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Writes one PNG per sample, spread evenly over the split.

    Args:
        shards: folder of `protoocc pack`.
        split: its split.
        out: folder of the pictures; `<scene>-<frame>.png`.
        checkpoint: checkpoint or run folder; without one only the ground truth is drawn.
        count: how many samples; all if the split has fewer.
        prototypes: also draw the nearest prototype of each feature cell; needs a checkpoint with prototype mapping.
        on_progress: called with finished and total pictures.

    Returns:
        The pictures' paths.

    Raises:
        CheckpointError: unreadable or inconsistent checkpoint.
        ConfigError: its grid or classes are not those of the shards, or it has no prototypes to draw.
        DataError: shards are missing or damaged, or the disk is full.
    """
    opened = open_shards(shards, split)
    if prototypes and checkpoint is None:
        raise ConfigError("prototypes belong to a trained network: pass --run as well")
    chosen = spread(len(opened.samples), count)
    paths = []
    for done, (index, view) in enumerate(_views(opened, chosen, checkpoint, prototypes=prototypes), start=1):
        path = out / f"{opened.samples[index][1].key}.png"
        write_png(path, render_sample(view))
        paths.append(path)
        on_progress(done, len(chosen))
    return paths


def spread(length: int, count: int) -> list[int]:
    """``count`` positions evenly over ``range(length)``, in the middle of equal shares; all positions if fewer.

    >>> spread(10, 2)
    [2, 7]
    """
    count = min(count, length)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def _views(
    opened: ShardSet, chosen: list[int], checkpoint: Path | None, *, prototypes: bool
) -> Iterator[tuple[int, SampleView]]:
    if checkpoint is None:
        dataset = ShardDataset(opened)
        for index in chosen:
            yield index, _sample_view(opened, index, dataset[index], None)
        return
    model, config = load_model(checkpoint)
    check_grid(config, opened)
    if prototypes and not config.model.prototype_mapping:
        raise ConfigError(f"{checkpoint} was trained without prototype mapping: there are no prototypes to draw")
    device = default_device()
    model = model.to(device)
    dataset = ShardDataset(opened, frames=config.model.frames, interval=config.model.frame_interval)
    for index in chosen:
        keyframe = dataset[index]
        batch = collate([keyframe]).to(device)
        view = _sample_view(opened, index, keyframe, model.predict(batch)[0].cpu().numpy())
        yield index, dataclasses.replace(view, prototypes=prototype_colors(model, batch) if prototypes else None)


def _sample_view(
    opened: ShardSet, index: int, keyframe: Keyframe, prediction: UInt8[np.ndarray, "X Y Z"] | None
) -> SampleView:
    sample, dataset = opened.samples[index][1], opened.dataset
    visible = keyframe.mask_camera != 0
    scores = {}
    if prediction is not None:
        confusion = Confusion()
        confusion.add(prediction, keyframe.semantics, visible)
        scores = {"mIoU": confusion.scores().miou, "IoU": confusion.scores().iou}
    return SampleView(
        images=keyframe.images,
        cameras=dataset.cameras,
        segment_id=keyframe.segment_id,
        semantics=keyframe.semantics,
        mask_camera=visible,
        prediction=prediction,
        grid=dataset.grid,
        title=sample_title(
            dataset=dataset.name, scene=sample.scene, frame=sample.frame, token=sample.token, scores=scores
        ),
    )
