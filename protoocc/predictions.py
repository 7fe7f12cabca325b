"""Predictions as files: submissions to benchmarks, arrays and pictures; killed and run again, the same bytes.

The folder holds `predictions.json` (what decides the bytes, and the names of all samples), written first, and a folder
for each kind of file. A file that is there is whole. Samples are predicted in fixed batches, so that a run that goes on
computes what an uninterrupted one does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from pydantic import Field

from protoocc.config import TrainConfig
from protoocc.data import Keyframe
from protoocc.data.decode import Views
from protoocc.metrics import Confusion
from protoocc.network import Network
from protoocc.predictions_folder import PredictionsPlan, claim_folder
from protoocc.predictions_source import Moment, Shot, Source, check_names, to_batch
from protoocc.submission import Benchmark, benchmark_numbers, submission_bytes, submission_file
from protoocc.view import PredictionView, SampleView, render_prediction, render_sample, sample_title, write_png
from schemas.files import write_bytes
from schemas.geometry import VoxelGrid, invert_rigid
from schemas.lock import folder_lock
from schemas.settings import Frozen
from schemas.voxels.visibility import View, see_voxels

Kind = Literal["occ3d", "semantickitti", "npz", "pictures"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""occ3d: `<token>.npz` with `arr_0`, classes numbered as in Occ3D, the form of submissions; semantickitti:
`sequences/NN/predictions/FFFFFF.label` with raw ids, the form of that benchmark's; npz: `<scene>-<frame>.npz`
with `semantics` and `seen`; pictures: PNG."""

RAYS_PER_VOXEL: Final = 1.5
"""Density of the rays by which `seen` is found, as for the labels' mask_camera."""


class PredictionOptions(Frozen):
    """What to write."""

    kinds: tuple[Kind, ...] = Field(min_length=1, description="Kinds of files, each in a folder of its name.")
    batch: int = Field(1, ge=1, description="Samples that are computed together.")
    single_frame: bool = Field(False, description="Leave out earlier keyframes, also where the network reads some.")

    @property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """Those of the kinds that are submissions."""
        return tuple(kind for kind in self.kinds if kind == "occ3d" or kind == "semantickitti")


@dataclass(frozen=True)
class PredictionSummary:
    """What a run did."""

    folder: Path
    samples: int
    """All samples of the folder."""
    computed: int
    """Those that this run predicted; the others were there."""


def write_predictions(
    network: Network,
    config: TrainConfig,
    source: Source,
    out: Path,
    options: PredictionOptions,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PredictionSummary:
    """Writes the predictions of all moments of a source.

    Args:
        network: in evaluation mode, on the device that shall compute.
        config: what it was trained with; names its classes.
        source: what to predict.
        out: folder of the files; continued where it holds a part of the same predictions.
        options: kinds of files and batches.
        on_progress: called with finished and total samples.

    Raises:
        ConfigError: the folder holds other predictions or foreign files, or a benchmark has no such class.
        DataError: a sample is missing or damaged, a benchmark has no such sample, or the disk is full.
    """
    check_names(source)
    moments, computed = source.moments, 0
    for benchmark in options.benchmarks:
        benchmark_numbers(benchmark, config.classes)
        for moment in moments:
            submission_file(benchmark, moment.token)
    plan = PredictionsPlan.of(network, config, source, options.model_dump(mode="json"))
    with folder_lock(out):
        claim_folder(out, plan)
        for start in range(0, len(moments), options.batch):
            numbers = range(start, min(start + options.batch, len(moments)))
            missing = [n for n in numbers if not all(path.is_file() for path in _paths(out, moments[n], options))]
            if missing:
                shots = [source.read(number) for number in numbers]
                predicted = _predict([moments[n] for n in numbers], shots, network)
                for number in missing:
                    shot, volume = shots[number - start], predicted[number - start]
                    _write(out, _Result(moments[number], shot, volume, config, source), options)
                computed += len(missing)
            on_progress(numbers.stop, len(moments))
    return PredictionSummary(out, len(moments), computed)


@dataclass(frozen=True)
class _Result:
    moment: Moment
    shot: Shot
    volume: UInt8[np.ndarray, "X Y Z"]
    config: TrainConfig
    source: Source


def _predict(moments: Sequence[Moment], shots: Sequence[Shot], network: Network) -> UInt8[np.ndarray, "n X Y Z"]:
    device = next(network.parameters()).device
    batch = to_batch(moments, shots, network.config.frames).to(device)
    volumes: UInt8[torch.Tensor, "n X Y Z"] = network.predict(batch)
    return volumes.cpu().numpy()


def _paths(out: Path, moment: Moment, options: PredictionOptions) -> list[Path]:
    names = {"npz": f"{moment.key}.npz", "pictures": f"{moment.key}.png"}
    names |= {benchmark: str(submission_file(benchmark, moment.token)) for benchmark in options.benchmarks}
    return [out / kind / names[kind] for kind in options.kinds]


def _write(out: Path, result: _Result, options: PredictionOptions) -> None:
    classes, grid = result.config.classes, result.config.model.grid
    seen = None
    if set(options.kinds) & {"npz", "pictures"}:
        seen = seen_from(result.shot.views, result.volume != classes.free, grid)
    for kind, path in zip(options.kinds, _paths(out, result.moment, options), strict=True):
        if kind == "occ3d" or kind == "semantickitti":
            write_bytes(path, submission_bytes(kind, benchmark_numbers(kind, classes)[result.volume]))
        elif seen is not None and kind == "npz":
            write_bytes(path, _npz(semantics=result.volume, seen=seen.astype(np.uint8)))
        elif seen is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, _sheet(result, seen))


def _npz(**named: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, **named)
    return data.getvalue()


def seen_from(views: Views, occupied: Bool[np.ndarray, "X Y Z"], grid: VoxelGrid) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels that the images see past what is predicted: where a network is trained and its answer can be trusted.

    Args:
        views: images and calibration.
        occupied: what stops a ray.
        grid: of ``occupied``, ego frame.
    """
    height, width = views.images.shape[1:3]
    cameras = [
        View(matrix.astype(np.float64), width, height, invert_rigid(pose.astype(np.float64)))
        for matrix, pose in zip(views.image_from_camera, views.camera_from_ego, strict=True)
    ]
    return see_voxels(grid, occupied, cameras, RAYS_PER_VOXEL)


def _sheet(result: _Result, seen: Bool[np.ndarray, "X Y Z"]) -> UInt8[np.ndarray, "h w 3"]:
    """Beside the ground truth where there is one, else alone."""
    moment, source = result.moment, result.source
    if result.shot.truth is not None:
        return render_sample(_beside_truth(result, result.shot.truth))
    return render_prediction(
        PredictionView(
            images=result.shot.views.images,
            cameras=source.cameras,
            classes=result.config.classes,
            prediction=result.volume,
            seen=seen,
            grid=result.config.model.grid,
            title=(_heading(moment), f"{source.name}  ·  {moment.token}"),
        )
    )


def _heading(moment: Moment) -> str:
    return moment.scene if moment.frame is None else f"{moment.scene}  ·  frame {moment.frame}"


def _beside_truth(result: _Result, truth: Keyframe) -> SampleView:
    moment, classes, visible = result.moment, result.config.classes, truth.mask_camera != 0
    confusion = Confusion(classes)
    confusion.add(result.volume, truth.semantics, visible)
    scores = confusion.scores()
    return SampleView(
        images=truth.images,
        cameras=result.source.cameras,
        classes=classes,
        segment_id=truth.segment_id,
        semantics=truth.semantics,
        mask_camera=visible,
        prediction=result.volume,
        grid=result.config.model.grid,
        title=sample_title(
            dataset=result.source.name,
            scene=moment.scene,
            frame=moment.frame or 0,
            token=moment.token,
            scores={"mIoU": scores.miou, "IoU": scores.iou},
        ),
    )
