"""Pictures of samples of a split, with the prediction of a checkpoint if there is one."""

from __future__ import annotations

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
from protoocc.view import SampleView, render_sample, sample_title, write_png


def draw_split(
    shards: Path,
    split: str,
    out: Path,
    *,
    checkpoint: Path | None = None,
    count: int = 4,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Writes one PNG per sample, spread evenly over the split.

    Args:
        shards: folder of `protoocc pack`.
        split: its split.
        out: folder of the pictures; `<scene>-<frame>.png`.
        checkpoint: checkpoint or run folder; without one only the ground truth is drawn.
        count: how many samples; all if the split has fewer.
        on_progress: called with finished and total pictures.

    Returns:
        The pictures' paths.

    Raises:
        CheckpointError: unreadable or inconsistent checkpoint.
        ConfigError: its grid or classes are not those of the shards.
        DataError: shards are missing or damaged, or the disk is full.
    """
    opened = open_shards(shards, split)
    chosen = spread(len(opened.samples), count)
    paths = []
    for done, (index, keyframe, prediction) in enumerate(_predictions(opened, chosen, checkpoint), start=1):
        sample = opened.samples[index][1]
        path = out / f"{sample.key}.png"
        write_png(path, render_sample(_sample_view(opened, index, keyframe, prediction)))
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


def _predictions(
    opened: ShardSet, chosen: list[int], checkpoint: Path | None
) -> Iterator[tuple[int, Keyframe, UInt8[np.ndarray, "X Y Z"] | None]]:
    dataset = ShardDataset(opened)
    model = None
    if checkpoint is not None:
        model, config = load_model(checkpoint)
        check_grid(config, opened)
        model = model.to(default_device())
        dataset = ShardDataset(opened, frames=config.model.frames, interval=config.model.frame_interval)
    for index in chosen:
        keyframe = dataset[index]
        prediction = None
        if model is not None:
            prediction = model.predict(collate([keyframe]).to(default_device()))[0].cpu().numpy()
        yield index, keyframe, prediction


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
