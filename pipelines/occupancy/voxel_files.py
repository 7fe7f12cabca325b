"""Import of SemanticKITTI's voxels: `.label`, `.invalid` and `.occluded` of a keyframe, and which release they are of.

Release v1.0 (early 2020) has every voxel one place too far in flat order, which is one voxel too high (issue 49 of
semantic-kitti-api); v1.1 put that right. No file says of which release it is, so the input `.bin` is compared with the
scan that it was made of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, UInt8
from pydantic import Field

from pipelines.occupancy.occ3d import Labels
from pipelines.points import NOT_MATTER, class_of_index, read_point_labels, read_points
from schemas.classes import SEMANTICKITTI
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.geometry import VoxelGrid
from schemas.outside import Source, read_bytes
from schemas.records import RecordEntry, SampleRecord
from schemas.semantickitti import CLASS_OF_RAW, NO_ID, SEQUENCES, UNKNOWN, read_bits, read_voxel_labels, scan_name
from schemas.settings import Frozen

Release = Literal["v1_0", "v1_1"]
MIN_AGREEMENT: Final = 0.6
"""IoU with the scan that a `.bin` file reaches in the right place; in the other one it has 0.1 to 0.3."""
VOXELS: Final = "voxels"
_REMEDY: Final = "Unpack data_odometry_voxels.zip of SemanticKITTI again."


class VoxelsConfig(Frozen):
    """Import of SemanticKITTI's voxels."""

    kind: Literal["voxels"] = Field("voxels", description="Source: the voxel files of the dataset.")
    labels: Path | None = Field(
        None,
        description="Folder with <sequence>/voxels, with `sequences`, or a root like the dataset's; null for the "
        "`sequences` of the dataset itself.",
    )
    repair: bool = Field(
        True, description="Whether voxels of release v1.0 are moved down into their place; otherwise kept as they are."
    )


def check_voxels(dataset: DatasetSpec, config: VoxelsConfig) -> None:
    """Refuses a dataset that has no such files.

    Raises:
        ConfigError: another format, a class table without one of SemanticKITTI's classes, or no such folder.
    """
    if dataset.format != "semantickitti":
        raise ConfigError(f"--source voxels reads SemanticKITTI's files; '{dataset.name}' has format {dataset.format}")
    class_numbers(dataset)
    folder = voxels_folder(dataset, config)
    if not folder.is_dir():
        raise ConfigError(f"--labels {folder}: no such folder; expected SEQUENCE/voxels/000000.label below it")


def class_numbers(dataset: DatasetSpec) -> UInt8[np.ndarray, " 65536"]:
    """Class of the dataset's table for each raw id, `NO_ID` where there is none.

    Raises:
        ConfigError: a class has no counterpart in the table.
    """
    table = dataset.classes
    missing = [name for name in SEMANTICKITTI.occupied if name not in table.occupied]
    if missing:
        raise ConfigError(
            f"'{dataset.name}' in datasets.yaml: the voxel files have a class '{missing[0]}', its class table has not. "
            "Write `classes: semantickitti`."
        )
    numbers = np.full(256, NO_ID, dtype=np.uint8)
    numbers[: SEMANTICKITTI.num_classes] = [
        table.free if name == SEMANTICKITTI.names[SEMANTICKITTI.free] else table.index(name)
        for name in SEMANTICKITTI.names
    ]
    numbers[UNKNOWN] = table.ignored
    return numbers[CLASS_OF_RAW]


def voxels_folder(dataset: DatasetSpec, config: VoxelsConfig) -> Path:
    """The folder of the sequences: the dataset's, or where they lie in a folder of others."""
    if config.labels is None:
        return dataset.root / dataset.version / SEQUENCES
    inside = (config.labels / dataset.version / SEQUENCES, config.labels / SEQUENCES)
    return next((folder for folder in inside if folder.is_dir()), config.labels)


def voxel_name(keyframe: RecordEntry | SampleRecord, suffix: str) -> str:
    """Name of a voxel file below the folder of the sequences, such as `08/voxels/000005.label`."""
    return f"{keyframe.scene}/{VOXELS}/{scan_name(keyframe.token)}{suffix}"


def voxel_file(dataset: DatasetSpec, config: VoxelsConfig, record: SampleRecord, suffix: str = ".label") -> Path:
    """A voxel file of a keyframe."""
    return voxels_folder(dataset, config) / voxel_name(record, suffix)


def read_voxels(dataset: DatasetSpec, config: VoxelsConfig, record: SampleRecord) -> tuple[Labels, Release | None]:
    """Labels of one keyframe as the files have them, and their release; None where no `.bin` or scan tells it.

    Returns:
        `semantics` with classes of the dataset's table, the ignored label for matter of no scored class; `mask_camera`
        is what `.invalid` leaves, which the benchmark scores, `mask_lidar` what `.occluded` leaves.

    Raises:
        DataError: a file is missing, has another length or an id that is no raw id.
    """
    path = voxel_file(dataset, config, record)
    source = Source(f"{path} (sample {record.token})", _REMEDY)
    shape = dataset.grid.shape
    try:
        raw = read_voxel_labels(read_bytes(source, path, 2 * dataset_voxels(dataset.grid)), shape)
    except ValueError as error:
        raise source.error(str(error)) from error
    semantics = class_numbers(dataset)[raw]
    if (semantics == NO_ID).any():
        raise source.error(f"holds {int(raw[semantics == NO_ID][0])}, which is no raw id of SemanticKITTI")
    labels = {"semantics": semantics}
    for mask, suffix in (("mask_lidar", ".occluded"), ("mask_camera", ".invalid")):
        bits = read_bit_file(dataset, config, record, suffix)
        labels[mask] = (~bits).astype(np.uint8)
    return labels, find_release(dataset, config, record)


def dataset_voxels(grid: VoxelGrid) -> int:
    """Number of voxels of a grid."""
    return grid.shape[0] * grid.shape[1] * grid.shape[2]


def read_bit_file(
    dataset: DatasetSpec, config: VoxelsConfig, record: SampleRecord, suffix: str
) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels of the `.bin`, `.invalid` or `.occluded` file of a keyframe, as they are.

    Raises:
        DataError: it is missing or has another length.
    """
    path = voxel_file(dataset, config, record, suffix)
    source = Source(f"{path} (sample {record.token})", _REMEDY)
    try:
        return read_bits(read_bytes(source, path, dataset_voxels(dataset.grid)), dataset.grid.shape)
    except ValueError as error:
        raise source.error(str(error)) from error


def find_release(dataset: DatasetSpec, config: VoxelsConfig, record: SampleRecord) -> Release | None:
    """Release of the voxels of a keyframe; None without a `.bin` file or a scan, or where neither place fits.

    Raises:
        DataError: the `.bin` file or the scan is broken.
    """
    path = voxel_file(dataset, config, record, ".bin")
    if not path.is_file() or record.lidar is None or not (dataset.root / record.lidar.path).is_file():
        return None
    return release_of(read_bit_file(dataset, config, record, ".bin"), scan_voxels(dataset, record))


def release_of(given: Bool[np.ndarray, "X Y Z"], scan: Bool[np.ndarray, "X Y Z"]) -> Release | None:
    """Where the voxels of a `.bin` file are, beside those of its scan.

    Args:
        given: the file.
        scan: from `scan_voxels`.
    """
    places: dict[Release, np.ndarray] = {"v1_1": scan, "v1_0": np.roll(scan.ravel(), 1).reshape(scan.shape)}
    fits = {release: _iou(given, place) for release, place in places.items()}
    best = max(fits, key=lambda release: fits[release])
    return best if fits[best] >= MIN_AGREEMENT else None


def _iou(a: Bool[np.ndarray, "X Y Z"], b: Bool[np.ndarray, "X Y Z"]) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def scan_voxels(dataset: DatasetSpec, record: SampleRecord) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels with points of the keyframe's scan, noise left out: what `.bin` files of release v1.1 hold.

    The division is one of float32, as in the official files.

    Raises:
        DataError: the scan or its point labels are broken.
    """
    lidar = record.keyframe_sweep
    points = read_points(dataset, lidar, record.token)
    labels = read_point_labels(dataset, lidar, record.token, class_of_index(dataset), len(points))
    grid = dataset.grid
    corner = np.array(grid.minimum_m, dtype=np.float32)
    scaled = (points[labels != NOT_MATTER].astype(np.float32) - corner) / np.float32(grid.voxel_size_m)
    index = np.floor(scaled).astype(np.int64)
    voxels = np.zeros(grid.shape, dtype=bool)
    voxels[tuple(index[grid.contains(index)].T)] = True
    return voxels


def moved_down(labels: Labels) -> Labels:
    """Labels of release v1.0 in their place: every voxel is the next one in flat order, which undoes its fault."""
    return {name: np.roll(values.ravel(), -1).reshape(values.shape) for name, values in labels.items()}


def placed(labels: Labels, release: Release | None, where: Path) -> Labels:
    """Labels where the vehicle is, whatever their release.

    Raises:
        DataError: nothing tells the release.
    """
    if release is None:
        raise DataError(
            f"{where}: neither of the releases v1.0 and v1.1 fits: the .bin file beside it is missing or does not hold "
            "the voxels of the keyframe's scan. Restore both, or keep labels as they are with --set repair=false."
        )
    return moved_down(labels) if release == "v1_0" else labels
