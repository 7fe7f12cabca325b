"""Stages `records` and `geometry`: a raw dataset becomes portable records and camera matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from pipelines.prepare.geometry import geometry_stage
from pipelines.prepare.nuscenes import NuScenesSource
from pipelines.prepare.scene_records import records_stage
from pipelines.prepare.semantickitti import SemanticKittiSource
from pipelines.prepare.source import Source
from pipelines.stage import Runtime, StageSummary, run_stage
from schemas.datasets import DatasetSpec
from schemas.errors import disk_errors
from schemas.workfolder import WorkFolder

__all__ = ["SOURCES", "prepare"]

SOURCES: Final[Mapping[str, Callable[[DatasetSpec], Source]]] = {
    "nuscenes": NuScenesSource,
    "semantickitti": SemanticKittiSource,
}
"""`format` of an entry in `datasets.yaml` and what reads it."""


def prepare(dataset: DatasetSpec, out: Path, runtime: Runtime, source: Source | None = None) -> StageSummary:
    """Writes ``out/records`` and ``out/geometry.zarr``.

    The driver reads the source once and leaves drafts scene by scene; the tasks (one per scene) check the sensor files
    and keep the good keyframes. Scenes that no split names are left out; keyframes that `every` or `limit` exclude are
    kept as neighbours in time, with empty `splits`.

    Args:
        dataset: the entry of `datasets.yaml`.
        out: work folder of the dataset.
        runtime: where to run and what to do with bad samples.
        source: the raw data; None takes what `SOURCES` has for the entry's format.

    Returns:
        Summary of the records, with the geometry's seconds and bytes added; `counts` also says how many keyframes are
        `without_lidar` and `without_map`.

    Raises:
        ConfigError: a split names a scene that is not there, an image does not fit the entry's resize and crop, or the
            folder was made with another configuration.
        DataError: the root, the version or a table is missing or broken.
        StageError: keyframes are bad (names file, sample and remedy of each), or all were dropped.
    """
    raw = SOURCES[dataset.format](dataset) if source is None else source
    stage = records_stage(dataset, WorkFolder(out).records, raw, on_error=runtime.on_error, overwrite=runtime.overwrite)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    records = run_stage(stage, runtime)
    quiet = replace(runtime, on_progress=lambda done, total: None)
    geometry = run_stage(geometry_stage(dataset, out), quiet)
    return replace(
        records,
        seconds=records.seconds + geometry.seconds,
        num_bytes=records.num_bytes + geometry.num_bytes,
        skipped=records.skipped and geometry.skipped,
    )
