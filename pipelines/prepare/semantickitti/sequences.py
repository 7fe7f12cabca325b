"""Sequences of a dataset in SemanticKITTI's layout: which are there, and which of their scans are keyframes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pipelines.prepare.semantickitti.trajectory import count_poses
from pipelines.prepare.source import Keyframe
from pipelines.prepare.splits import assign_splits
from schemas.datasets import DatasetSpec
from schemas.errors import DataError, read_errors
from schemas.semantickitti import KEYFRAME_STEP, SEQUENCES, SPLITS, scan_name, token_of

TABLES: Final = ("calib.txt", "poses.txt", "times.txt")
logger = logging.getLogger(__name__)


def sequences_folder(dataset: DatasetSpec) -> Path:
    """The folder of the sequences, ``root / version / sequences``.

    Raises:
        DataError: it is not there; names the ones that are.
    """
    folder = dataset.root / dataset.version / SEQUENCES
    if not dataset.root.is_dir():
        raise DataError(
            f"dataset '{dataset.name}': root {dataset.root} is no folder. Correct `root` in datasets.yaml, pass "
            "--root, or download or generate the data there."
        )
    if not folder.is_dir():
        found = ["."] if (dataset.root / SEQUENCES).is_dir() else []
        found += sorted(path.parent.name for path in dataset.root.glob("*/sequences"))
        raise DataError(
            f"dataset '{dataset.name}': no folder {folder}; folders of {dataset.root} with `sequences`: "
            f"{', '.join(found) or 'none'}. Correct `root` or `version` in datasets.yaml, or pass --root or --version."
        )
    return folder


def plan_keyframes(dataset: DatasetSpec) -> list[Keyframe]:
    """Keyframes of the sequences that some split names, ordered by sequence, then time.

    Raises:
        ConfigError: a split names a sequence that is not there, or none of an official split is there.
        DataError: the poses of a sequence cannot be read.
    """
    folder = sequences_folder(dataset)
    with read_errors(folder):
        present = sorted(path.name for path in folder.iterdir() if path.is_dir())
    named = named_sequences(dataset)
    tokens = {name: _tokens(folder / name) if name in named else [] for name in present}
    return assign_splits(dataset, tokens, lambda: SPLITS)


def named_sequences(dataset: DatasetSpec) -> frozenset[str]:
    """Sequences that the splits of an entry name, there or not."""
    splits = dataset.splits.values()
    return frozenset(name for split in splits for name in split.scenes or SPLITS.get(split.official or "", ()))


def _tokens(folder: Path) -> list[str]:
    missing = [name for name in TABLES if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder}: {missing[0]} is missing. calib.txt and times.txt come with KITTI odometry "
            "(data_odometry_calib.zip), poses.txt with SemanticKITTI's labels (data_odometry_labels.zip)."
        )
    return [token_of(folder.name, scan) for scan in keyframe_scans(folder)]


def scan_of(token: str) -> int:
    """Number of the scan that a token names."""
    return int(scan_name(token))


def keyframe_scans(folder: Path) -> list[int]:
    """Scans of a sequence that are keyframes: each fifth one of the poses, in `test` those that have a `.bin` file.

    Raises:
        DataError: the poses cannot be read, or there are fewer than the voxel files need.
    """
    count = count_poses(folder)
    scans = list(range(0, count, KEYFRAME_STEP))
    if folder.name not in SPLITS["test"]:
        return scans
    given = [scan for scan in scan_numbers(folder / "voxels", ".bin") if scan % KEYFRAME_STEP == 0]
    if not given:
        logger.warning("%s holds no .bin file: every fifth scan counts as a keyframe", folder / "voxels")
        return scans
    if given[-1] >= count:
        raise DataError(
            f"{folder / 'voxels'} has scan {given[-1]:06}, poses.txt beside it ends at {count - 1:06}. Take "
            "the poses.txt that comes with SemanticKITTI's labels."
        )
    return given


def scan_numbers(folder: Path, suffix: str) -> Sequence[int]:
    """Numbers of the files of a folder with six digits and a suffix, in order; none where the folder is not there."""
    if not folder.is_dir():
        return ()
    with read_errors(folder):
        return sorted(int(path.stem) for path in folder.iterdir() if _is_scan(path, suffix))


def _is_scan(path: Path, suffix: str) -> bool:
    return path.suffix == suffix and len(path.stem) == 6 and path.stem.isascii() and path.stem.isdigit()


def table_files(folder: Path, sequences: Iterable[str]) -> list[Path]:
    """The text files of some sequences."""
    return [folder / name / table for name in sequences for table in TABLES]
