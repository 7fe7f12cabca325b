"""Pictures of samples of a split, with the prediction of a checkpoint if there is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from protoocc.checkpoint import load_network
from protoocc.compatibility import check_shards
from protoocc.data import Keyframe, ShardDataset, ShardSet, collate, open_shards, read_shard_manifest
from protoocc.inference import default_device, predict_keyframe, reader_for
from protoocc.metrics import Confusion
from protoocc.network import Network
from protoocc.prototype_colors import prototype_colors
from protoocc.view import SampleView, render_sample, sample_title, write_png
from schemas.errors import ConfigError, did_you_mean


def draw(
    shards: ShardSet,
    out: Path,
    *,
    checkpoint: Path | None = None,
    samples: int | Sequence[str] = 4,
    prototypes: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Writes one PNG per sample.

    Args:
        shards: the split, from `open_shards`.
        out: folder of the pictures; `<scene>-<frame>.png`.
        checkpoint: checkpoint or run folder; without one only the ground truth is drawn.
        samples: how many, spread evenly over the split, all if it has fewer; or which ones, by their keys or tokens.
        prototypes: also draw the nearest prototype of each feature cell; needs a network that has some.
        on_progress: called with finished and total pictures.

    Returns:
        The pictures' paths.

    Raises:
        CheckpointError: unreadable or inconsistent checkpoint.
        ConfigError: its grid or class table is not that of the shards, it has no prototypes to draw, or the split has
            no such sample.
        DataError: shards are missing or damaged, or the disk is full.
    """
    paths = []
    if isinstance(samples, int):
        chosen = spread(len(shards.samples), samples)
    else:
        chosen = [find_sample(shards, name) for name in samples]
    found = sheets(shards, checkpoint=checkpoint, chosen=chosen, prototypes=prototypes)
    for done, (key, sheet) in enumerate(found, start=1):
        path = out / f"{key}.png"
        write_png(path, sheet)
        paths.append(path)
        on_progress(done, len(chosen))
    return paths


def sheets(
    shards: ShardSet, *, chosen: Sequence[int], checkpoint: Path | None = None, prototypes: bool = False
) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
    """Key and picture of the samples of these numbers, as `draw` writes them; arguments and errors as there."""
    if prototypes and checkpoint is None:
        raise ConfigError("prototypes belong to a trained network: pass --run as well")
    for index, view in _views(shards, chosen, checkpoint, prototypes=prototypes):
        yield shards.samples[index][1].key, render_sample(view)


def find_split(folder: Path, name: str) -> str:
    """Split of a set of shards that holds the sample with this key or token.

    Raises:
        ConfigError: none does; names near ones.
        DataError: the shards are damaged.
    """
    splits = list(read_shard_manifest(folder).by_split)
    keys = []
    for split in splits:
        shards = open_shards(folder, split)
        if _number_of(shards, name) is not None:
            return split
        keys += [sample.key for _, sample in shards.samples]
    raise ConfigError(
        f"{folder} has no sample '{name}' in its splits {', '.join(splits)}; it has {len(keys)}, the first is "
        f"{keys[0]}.{did_you_mean(name, keys)}"
    )


def find_sample(shards: ShardSet, name: str) -> int:
    """Number of the sample with this key or token.

    Raises:
        ConfigError: the split has none; names near ones.
    """
    if (number := _number_of(shards, name)) is not None:
        return number
    keys = [sample.key for _, sample in shards.samples]
    raise ConfigError(
        f"split '{shards.split}' of {shards.manifest.name} has no sample '{name}'; it has {len(keys)}, the first is "
        f"{keys[0]}.{did_you_mean(name, keys)}"
    )


def _number_of(shards: ShardSet, name: str) -> int | None:
    found = (number for number, (_, sample) in enumerate(shards.samples) if name in (sample.key, sample.token))
    return next(found, None)


def spread(length: int, count: int) -> list[int]:
    """``count`` positions evenly over ``range(length)``, in the middle of equal shares; all positions if fewer.

    >>> spread(10, 2)
    [2, 7]
    """
    count = min(count, length)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def _views(
    shards: ShardSet, chosen: Sequence[int], checkpoint: Path | None, *, prototypes: bool
) -> Iterator[tuple[int, SampleView]]:
    if checkpoint is None:
        dataset = ShardDataset(shards)
        for index in dataset.arriving(chosen):
            yield index, _sample_view(shards, index, dataset[index], None)
        return
    network, config = load_network(checkpoint)
    check_shards(config, shards)
    network = network.to(default_device())
    dataset = reader_for(config.model, shards)
    for index in dataset.arriving(chosen):
        keyframe = dataset[index]
        colors = _prototype_colors(network, keyframe, checkpoint) if prototypes else None
        view = _sample_view(shards, index, keyframe, predict_keyframe(network, keyframe))
        yield index, dataclasses.replace(view, prototypes=colors)


def _prototype_colors(network: Network, keyframe: Keyframe, checkpoint: Path) -> UInt8[np.ndarray, "V h w 3"]:
    with torch.no_grad():
        found = network.image_prototypes(collate([keyframe]).to(next(network.parameters()).device))
    if found is None:
        raise ConfigError(f"{checkpoint} was trained without prototype mapping: there are no prototypes to draw")
    return prototype_colors(found)


def _sample_view(
    shards: ShardSet, index: int, keyframe: Keyframe, prediction: UInt8[np.ndarray, "X Y Z"] | None
) -> SampleView:
    sample, dataset = shards.samples[index][1], shards.dataset
    visible = keyframe.mask_camera != 0
    scores = {}
    if prediction is not None:
        confusion = Confusion(dataset.classes)
        confusion.add(prediction, keyframe.semantics, visible)
        found = confusion.scores()
        scores = {"mIoU": found.miou, "IoU": found.iou}
    return SampleView(
        images=keyframe.images,
        cameras=dataset.cameras,
        classes=dataset.classes,
        segment_id=keyframe.segment_id,
        semantics=keyframe.semantics,
        mask_camera=visible,
        prediction=prediction,
        grid=dataset.grid,
        title=sample_title(
            dataset=dataset.name, scene=sample.scene, frame=sample.frame, token=sample.token, scores=scores
        ),
    )
