"""Labels of others into the store: one scene at a time, each keyframe checked before it is stored.

A keyframe without a label file is a hole in the set: it is left out and counted, and costs nothing else. A file that
is there and broken, or whose labels cannot be right, is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from pipelines.label_counts import useless_counts
from pipelines.occupancy.config import Occ3dConfig
from pipelines.occupancy.label_sets import ImportConfig, imported_file, read_imported
from pipelines.occupancy.occ3d import Labels, label_file, read_labels
from pipelines.occupancy.plausible import check_plausible
from pipelines.occupancy.voxel_files import VoxelsConfig, placed, read_voxels, voxel_file
from pipelines.units import Unit, UnitReport
from pipelines.zarr_io import write_record
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.outside import Source
from schemas.records import SampleRecord, read_records

Imported = Occ3dConfig | ImportConfig | VoxelsConfig
"""Labels that others made."""
MISSING: Final = "keyframes_without_labels"
"""Count of keyframes that a split names and the label set has no file for."""
RELEASES: Final = "keyframes_of_"
"""Start of the counts of keyframes whose voxel files are of a release."""
UNTESTED: Final = "keyframes_untested"
"""Count of keyframes whose axes nothing could test: no LiDAR file, and fewer boxes than it takes."""


def scene_records(work: Path, unit: Unit) -> tuple[Sequence[SampleRecord], list[int]]:
    """Keyframes of a unit and positions of those that a split names."""
    records = read_records(work / "records", unit.entries)
    return records, [index for index, record in enumerate(records) if record.splits]


def import_scene(
    dataset: DatasetSpec,
    source: Imported,
    work: Path,
    on_error: Literal["fail", "drop"],
    store: Path,
    unit: Unit,
) -> UnitReport:
    """Reads, checks and stores the labels of a scene.

    Raises:
        DataError: a file is broken or its labels cannot be right, and ``on_error`` is fail.
    """
    records, wanted = scene_records(work, unit)
    dropped: dict[str, str] = {}
    counts: Counter[str] = Counter()
    paths = {index: _label_path(dataset, source, records[index]) for index in wanted}
    for index, path in paths.items():
        record = records[index]
        if not path.exists():
            dropped[record.token] = f"{path} not found. Check `labels` and `root` in datasets.yaml, or --labels."
            counts[MISSING] += 1
            continue
        try:
            labels, figures = _read(dataset, source, record, path)
        except DataError as error:
            if on_error == "fail":
                raise
            dropped[record.token] = str(error)
            continue
        counts.update(figures)
        write_record(store, unit.entries[index].row, labels)
    done = len(wanted) - len(dropped)
    figures = {name: float(count) for name, count in counts.items()}
    return UnitReport(done=done, dropped=dropped, counts=figures, read=tuple(paths.values()))


def _label_path(dataset: DatasetSpec, source: Imported, record: SampleRecord) -> Path:
    if isinstance(source, VoxelsConfig):
        return voxel_file(dataset, source, record)
    if isinstance(source, ImportConfig):
        return imported_file(dataset, source, record)
    return label_file(dataset.root / dataset.labels, record)


def _read(dataset: DatasetSpec, source: Imported, record: SampleRecord, path: Path) -> tuple[Labels, dict[str, float]]:
    """Labels of a keyframe and its counts."""
    if isinstance(source, VoxelsConfig):
        return _read_voxel_files(dataset, source, record, path)
    where = Source(f"{path} (sample {record.token})")
    if isinstance(source, ImportConfig):
        labels, layout = read_imported(dataset, source, record), None
    else:
        layout = source.kind
        labels = read_labels(path, record.token, dataset, layout)
    shares = check_plausible(dataset, record, labels, where, layout)
    useless = useless_counts(labels["semantics"], labels["mask_camera"], dataset.classes.ignored)
    return labels, {**useless, UNTESTED: float(not shares.is_measured)}


def _read_voxel_files(
    dataset: DatasetSpec, source: VoxelsConfig, record: SampleRecord, path: Path
) -> tuple[Labels, dict[str, float]]:
    """As `_read`. Where the release is known, labels in their place are what the scan is compared with.

    `.occluded` marks the voxels of the scan themselves too, so that only what `.invalid` leaves is looked at.
    """
    labels, release = read_voxels(dataset, source, record)
    counts = {UNTESTED: float(release is None)}
    if release is not None or source.repair:
        right = placed(labels, release, path)
        observed = {**right, "mask_lidar": right["mask_camera"]}
        check_plausible(dataset, record, observed, Source(f"{path} (sample {record.token})"))
        labels = right if source.repair else labels
        counts[f"{RELEASES}{release}"] = 1.0
    return labels, {**useless_counts(labels["semantics"], labels["mask_camera"], dataset.classes.ignored), **counts}
