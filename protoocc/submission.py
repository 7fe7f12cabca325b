"""Submissions: predictions in the form that a benchmark takes, checked by its rules, in one zip file.

Occ3D-nuScenes (challenge of 2023): `<token>.npz` with the positional array `arr_0`, uint8. SemanticKITTI's scene
completion: `sequences/NN/predictions/FFFFFF.label`, uint16 little-endian raw ids by the inverse learning map; the zip
names its folders too (`validate_submission.py` of semantic-kitti-api asks for them).
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import numpy as np
from jaxtyping import UInt8

from schemas.classes import OCC3D, SEMANTICKITTI, ClassTable
from schemas.completion_files import prediction_file, read_prediction
from schemas.errors import ConfigError, DataError, disk_errors
from schemas.files import PARTIAL
from schemas.geometry import OCC3D_GRID, SEMANTICKITTI_GRID, VoxelGrid
from schemas.outside import Source, read_bytes, read_npz
from schemas.semantickitti import SPLITS, raw_of_class, write_voxel_labels

Benchmark = Literal["occ3d", "semantickitti"]
ZIP: Final = "submission.zip"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""Time of every member, so that the same predictions give the same zip."""
_DIRECTORY: Final = 0o40755 << 16 | 0x10
_FILE: Final = 0o100644 << 16


@dataclass(frozen=True)
class _Rules:
    title: str
    classes: ClassTable
    grid: VoxelGrid


_RULES: Final[Mapping[Benchmark, _Rules]] = {
    "occ3d": _Rules("Occ3D", OCC3D, OCC3D_GRID),
    "semantickitti": _Rules("SemanticKITTI", SEMANTICKITTI, SEMANTICKITTI_GRID),
}


def benchmark_of(classes: ClassTable) -> Benchmark:
    """The benchmark that knows all classes of a table; Occ3D where none does."""
    for benchmark, rules in _RULES.items():
        if set(classes.occupied) <= set(rules.classes.occupied):
            return benchmark
    return "occ3d"


def benchmark_numbers(benchmark: Benchmark, classes: ClassTable) -> UInt8[np.ndarray, " L"]:
    """The number that a benchmark has for each class of a table, by its name.

    Raises:
        ConfigError: it has no class of that name.
    """
    rules = _RULES[benchmark]
    theirs = rules.classes
    strange = sorted(set(classes.occupied) - set(theirs.occupied))
    if strange:
        raise ConfigError(
            f"{rules.title} files know no class '{strange[0]}' of the network; their classes are "
            f"{', '.join(theirs.occupied)}. Write npz files instead: --write npz"
        )
    numbers = np.full(classes.num_classes, theirs.free, dtype=np.uint8)
    numbers[classes.labels_of(classes.occupied)] = theirs.labels_of(classes.occupied)
    return numbers


def submission_file(benchmark: Benchmark, token: str) -> PurePosixPath:
    """Name of a sample's file within a submission.

    Raises:
        DataError: the benchmark has no such sample.
    """
    return prediction_file(token) if benchmark == "semantickitti" else PurePosixPath(f"{token}.npz")


def submission_bytes(benchmark: Benchmark, numbers: UInt8[np.ndarray, "X Y Z"]) -> bytes:
    """Content of a sample's file.

    Args:
        benchmark: whose form.
        numbers: of the benchmark's classes.
    """
    if benchmark == "semantickitti":
        return write_voxel_labels(raw_of_class(numbers))
    data = io.BytesIO()
    np.savez_compressed(data, numbers)
    return data.getvalue()


def check_submission(benchmark: Benchmark, classes: ClassTable, grid: VoxelGrid) -> None:
    """Whether a network can take part.

    Raises:
        ConfigError: other classes, or another grid than the benchmark's.
    """
    benchmark_numbers(benchmark, classes)
    rules = _RULES[benchmark]
    if grid != rules.grid:
        raise ConfigError(f"a submission to {rules.title} has the grid ({rules.grid}), the network's is ({grid})")


def lacking_sequences(tokens: Iterable[str]) -> tuple[str, ...]:
    """Sequences that SemanticKITTI's server wants beside those of some samples; none for samples of other splits."""
    held = {token.split("-")[0] for token in tokens}
    test = SPLITS["test"]
    return tuple(name for name in test if name not in held) if held.intersection(test) else ()


def write_submission(folder: Path, benchmark: Benchmark, tokens: Sequence[str], grid: VoxelGrid) -> Path:
    """Reads all files of a submission again, checks them, and puts them into `submission.zip`.

    Args:
        folder: of the predictions, which holds one of the benchmark's name.
        benchmark: whose rules.
        tokens: samples that the submission must hold.
        grid: of the predictions.

    Raises:
        DataError: a file is missing, foreign, or holds what the benchmark does not take; or the disk is full.
    """
    inside = folder / benchmark
    names = {token: submission_file(benchmark, token) for token in tokens}
    _check_names(inside, [inside / name for name in names.values()])
    path = folder / ZIP
    temporary = path.with_name(path.name + PARTIAL)
    with disk_errors(path):
        try:
            with zipfile.ZipFile(temporary, "w") as archive:
                for parent in sorted({parent for name in names.values() for parent in name.parents} - {_HERE}):
                    archive.writestr(_member(f"{parent}/", _DIRECTORY), b"")
                for token, name in sorted(names.items(), key=lambda item: item[1]):
                    _check_values(benchmark, inside / name, token, grid.shape)
                    with (inside / name).open("rb") as read, archive.open(_member(str(name), _FILE), "w") as written:
                        shutil.copyfileobj(read, written)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


_HERE: Final = PurePosixPath()


def _member(name: str, attributes: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = attributes
    return info


def _check_names(inside: Path, expected: Sequence[Path]) -> None:
    """One file for each sample and none beside them."""
    found = {path for path in inside.rglob("*") if path.is_file()}
    missing, foreign = sorted(set(expected) - found), sorted(found - set(expected))
    if missing or foreign:
        what = f"{len(missing)} files are missing" if missing else f"{len(foreign)} files are of no sample"
        raise DataError(
            f"{inside}: {what}, such as {(missing or foreign)[0].relative_to(inside)}. A submission holds every sample "
            "of its split and nothing else: predict all of it into a new folder."
        )


def _check_values(benchmark: Benchmark, path: Path, token: str, shape: tuple[int, int, int]) -> None:
    """Length, type and numbers of one file."""
    if benchmark == "semantickitti":
        read_prediction(path, token, shape)
        return
    source = Source(f"{path} (sample {token})", "Remove the file and run the command again.")
    voxels = shape[0] * shape[1] * shape[2]
    array = read_npz(source, read_bytes(source, path, 2 * voxels + 4096), ["arr_0"], 2 * voxels)["arr_0"]
    if array.dtype != np.uint8 or array.shape != shape or array.max() >= OCC3D.num_classes:
        raise source.error(
            f"is {array.dtype} {array.shape} up to {array.max()}, expected uint8 {shape} up to {OCC3D.free}"
        )
