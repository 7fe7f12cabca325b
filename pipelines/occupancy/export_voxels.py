"""Stage `voxels`: a finished occupancy store as voxel files in SemanticKITTI's form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from pipelines.occupancy.occ3d import Labels
from pipelines.occupancy.stored_files import FileForm, write_files
from pipelines.occupancy.voxel_files import VOXELS, class_numbers, scan_voxels, voxel_name
from pipelines.stage import Runtime, StageSummary
from schemas.classes import SEMANTICKITTI, ClassTable
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.records import RecordEntry, SampleRecord
from schemas.semantickitti import SEQUENCES, UNKNOWN, raw_of_class, write_bits, write_voxel_labels

SUFFIXES: Final = (".bin", ".label", ".invalid", ".occluded")


def write_voxel_files(dataset: DatasetSpec, work: Path, out: Path, runtime: Runtime) -> StageSummary:
    """Writes `<out>/sequences/<sequence>/voxels/<scan>` with four suffixes for every keyframe that the store holds.

    Args:
        dataset: whose grid and class table the store has.
        work: folder with finished `records` and `occupancy.zarr`.
        out: a folder of its own; plan, markers and manifest of this stage lie beside `sequences`.
        runtime: scheduler and overwrite.

    Raises:
        DataError: the labels are not finished.
        ConfigError: the dataset is not SemanticKITTI's, or ``out`` holds something else or files of other labels.
    """
    if dataset.format != "semantickitti":
        raise ConfigError(
            f"--write-voxels names files by sequence and scan, as format semantickitti has them; '{dataset.name}' has "
            f"format {dataset.format}. Use --write-npz."
        )
    class_numbers(dataset)
    return write_files(dataset, work, out, runtime, FORM)


def _paths(entry: RecordEntry) -> tuple[str, ...]:
    return tuple(f"{SEQUENCES}/{voxel_name(entry, suffix)}" for suffix in SUFFIXES)


def _encode(dataset: DatasetSpec, record: SampleRecord, labels: Labels) -> Mapping[str, bytes]:
    files = encode_voxels(labels, dataset.classes)
    files[".bin"] = write_bits(scan_voxels(dataset, record))
    return {f"{SEQUENCES}/{voxel_name(record, suffix)}": data for suffix, data in files.items()}


FORM: Final = FileForm("voxels", tuple(f"{SEQUENCES}/*/{VOXELS}/*{suffix}" for suffix in SUFFIXES), _paths, _encode)
"""SemanticKITTI's voxel files."""


def encode_voxels(labels: Labels, table: ClassTable) -> dict[str, bytes]:
    """`.label`, `.invalid` and `.occluded` of one keyframe in the official packing.

    Classes get their raw ids of `INVERSE_MAP`, matter of unknown class gets 1 (outlier), which reads as unknown again.

    Args:
        labels: of one keyframe.
        table: their classes, whose names SemanticKITTI's table has too.
    """
    numbers = np.full(256, UNKNOWN, dtype=np.uint8)
    numbers[table.free] = SEMANTICKITTI.free
    names = [name for name in table.occupied if name in SEMANTICKITTI.occupied]
    numbers[table.labels_of(tuple(names))] = SEMANTICKITTI.labels_of(tuple(names))
    return {
        ".label": write_voxel_labels(raw_of_class(numbers[labels["semantics"]])),
        ".invalid": write_bits(labels["mask_camera"] == 0),
        ".occluded": write_bits(labels["mask_lidar"] == 0),
    }
