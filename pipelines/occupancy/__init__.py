"""Occupancy stage: imports published labels or makes them from sweeps, boxes and point labels."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipelines.label_counts import useless_counts
from pipelines.occupancy.config import LIDAR_PRESETS, PRESET_OF_FORMAT, ImageLabels, LidarConfig, Occ3dConfig
from pipelines.occupancy.importing import import_scene, scene_records
from pipelines.occupancy.inputs import SOURCE_OF_FORMAT, files_of_scene, source_options
from pipelines.occupancy.label_sets import ImportConfig, check_grid
from pipelines.occupancy.layouts import LAYOUTS
from pipelines.occupancy.occ3d import labels_from, labels_from_occ3d
from pipelines.occupancy.refine import class_folder
from pipelines.occupancy.scene import label_scene, read_scene
from pipelines.occupancy.voxel_files import VoxelsConfig, check_voxels
from pipelines.points import require_lidar
from pipelines.stage import (
    OnError,
    Origin,
    Runtime,
    Stage,
    StageSummary,
    Unit,
    UnitReport,
    read_manifest,
    run_stage,
    scene_units,
)
from pipelines.zarr_io import create_store, store_layout, write_record
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.records import read_index
from schemas.workfolder import WorkFolder

__all__ = [
    "LIDAR_PRESETS",
    "PRESET_OF_FORMAT",
    "SOURCE_OF_FORMAT",
    "ImageLabels",
    "ImportConfig",
    "LidarConfig",
    "Occ3dConfig",
    "OccupancyConfig",
    "VoxelsConfig",
    "make_occupancy",
    "occupancy_stage",
]

OccupancyConfig = Occ3dConfig | LidarConfig | ImportConfig | VoxelsConfig
"""Where labels come from."""

_TABLE = ("names", "free", "ground", "driveable", "stuff", "symmetric")
FIELDS = ("grid", "categories", *(f"classes.{name}" for name in _TABLE))
"""Fields of the dataset's entry that decide the labels."""


def make_occupancy(dataset: DatasetSpec, work: Path, source: OccupancyConfig, runtime: Runtime) -> StageSummary:
    """Writes `work/occupancy.zarr` (see `schemas.store.OCCUPANCY`) for every keyframe that a split names.

    Rows of keyframes without a split keep the fill values; with LiDAR labels their sweeps still serve their neighbours.

    Args:
        dataset: root, grid, class table.
        work: folder that holds the dataset's `records`.
        source: where labels come from.
        runtime: scheduler, overwrite, what happens to bad samples.

    Returns:
        Figures of the run; `counts` says what the classes of occupied voxels rest on: `voxels_lidarseg` (point labels
        and their neighbours; `voxels_panoptic` where they come from that set), `voxels_boxes`, `voxels_map` (ground
        inside the map mask), `voxels_ignored` (unknown); `freed_by_evidence` and `freed_by_images`: voxels that the
        keyframe's own rays or pixels refuted;
        `sweeps_missing`: sweeps that were left out because their files are missing or broken. Keyframes that teach
        nothing are counted as `pipelines.label_counts` says, holes as `pipelines.occupancy.importing` does.

    Raises:
        DataError: `prepare` has not finished.
        ConfigError: the folder was made with another configuration, the source does not fit the grid, or it needs a
            LiDAR and the dataset has none.
        StageError: samples are broken (names them), or all were dropped.
    """
    return run_stage(occupancy_stage(dataset, work, source, runtime.on_error), runtime)


def occupancy_stage(dataset: DatasetSpec, work: Path, source: OccupancyConfig, on_error: OnError) -> Stage:
    """The stage that writes `work/occupancy.zarr`; raises as `make_occupancy` does before its first unit."""
    if not isinstance(source, Occ3dConfig):
        require_lidar(dataset, f"--source {source.kind}")
    _check_source(dataset, source)
    folders = WorkFolder(work)
    entries = read_index(folders.records)
    x, y, z = dataset.grid.shape
    options = source_options(source, dataset.format)
    label_unit: Callable[[Path, Unit], UnitReport] = (
        partial(_make_scene, dataset, work, on_error, source)
        if isinstance(source, LidarConfig)
        else partial(import_scene, dataset, source, work, on_error)
    )
    return Stage(
        name="occupancy",
        folder=folders.occupancy,
        config={"source": source.model_dump(mode="json", exclude_none=True)},
        inputs={},
        units=scene_units(entries),
        work=label_unit,
        create=partial(create_store, kind="occupancy", sizes={"N": len(entries), "X": x, "Y": y, "Z": z}),
        layout=store_layout("occupancy"),
        origin=Origin(
            dataset,
            fields=FIELDS + (("labels",) if isinstance(source, Occ3dConfig) else ()),
            stores={"records": folders.records},
            command=f"protoocc occupancy {options} --dataset {shlex.quote(dataset.name)}",
        ),
    )


def _check_class_images(dataset: DatasetSpec, images: ImageLabels) -> None:
    folder = class_folder(dataset, images)
    if folder == WorkFolder(dataset.work).class_images:
        read_manifest(folder)
    elif not folder.is_dir():
        raise ConfigError(
            f"--image-labels {images.folder}: {folder} is no folder. It holds SCENE/SAMPLE_TOKEN/CAMERA.png with a "
            "class image of each camera; a relative one starts at the dataset's root. `protoocc masks --generator "
            "classes` makes `class-images` in the work folder."
        )


def _check_source(dataset: DatasetSpec, source: OccupancyConfig) -> None:
    if isinstance(source, ImportConfig):
        labels_from_occ3d(dataset)
        check_grid(dataset, source)
        return
    if isinstance(source, VoxelsConfig):
        check_voxels(dataset, source)
    elif isinstance(source, Occ3dConfig):
        labels_from(dataset, LAYOUTS[source.kind])
    elif source.image_labels is not None:
        _check_class_images(dataset, source.image_labels)
    if dataset.grid.frame != "ego":
        raise ConfigError(
            f"--source {source.kind} gives labels in the ego frame; the grid of '{dataset.name}' in datasets.yaml is "
            "in the LiDAR's. Remove `frame: lidar`, or import a label set that lives there."
        )


def _make_scene(
    dataset: DatasetSpec, work: Path, on_error: OnError, config: LidarConfig, store: Path, unit: Unit
) -> UnitReport:
    records, wanted = scene_records(work, unit)
    if not wanted:
        return UnitReport(done=0)
    accumulated = read_scene(dataset, config, records, WorkFolder(work).records, drop_broken=on_error == "drop")
    missing = float(sum(group.num_missing for group in accumulated.groups.values()))
    counts: dict[str, float] = {}
    done = 0
    for index, labels, sources in label_scene(accumulated, records, wanted):
        write_record(store, unit.entries[index].row, labels)
        useless = useless_counts(labels["semantics"], labels["mask_camera"], dataset.classes.ignored)
        for name, number in (*sources.items(), *useless.items()):
            counts[name] = counts.get(name, 0.0) + number
        done += 1
    files = tuple(files_of_scene(dataset, config, records))
    return UnitReport(
        done=done, dropped=dict(accumulated.broken), counts=counts | {"sweeps_missing": missing}, read=files
    )
