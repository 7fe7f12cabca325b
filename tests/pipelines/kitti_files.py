"""A small dataset in SemanticKITTI's layout, with the real calibration of sequence 00; the entry that reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from schemas.datasets import DatasetSpec, SplitSpec

REAL_CALIB = """\
P0: 718.856 0 607.1928 0 0 718.856 185.2157 0 0 0 1 0
P1: 718.856 0 607.1928 -386.1448 0 718.856 185.2157 0 0 0 1 0
P2: 718.856 0 607.1928 45.38225 0 718.856 185.2157 -0.1130887 0 0 1 0.003779761
P3: 718.856 0 607.1928 -337.2877 0 718.856 185.2157 2.369057 0 0 1 0.004915215
Tr: 4.276802385584e-04 -9.999672484946e-01 -8.084491683471e-03 -1.198459927713e-02 -7.210626507497e-03 \
8.081198471645e-03 -9.999413164504e-01 -5.403984729748e-02 9.999738645903e-01 4.859485810390e-04 \
-7.206933692422e-03 -2.921968648686e-01
"""


def write_sequence(root: Path, name: str, scans: int, with_files: Iterable[int] = ()) -> Path:
    """A straight drive at 1 m per scan along the axis of camera 0; some scans get an image, points and labels.

    Returns:
        Folder of the sequence.
    """
    folder = root / "dataset" / "sequences" / name
    folder.mkdir(parents=True)
    (folder / "calib.txt").write_text(REAL_CALIB)
    (folder / "poses.txt").write_text("".join(f"1 0 0 0 0 1 0 0 0 0 1 {scan}\n" for scan in range(scans)))
    (folder / "times.txt").write_text("".join(f"{scan / 10:e}\n" for scan in range(scans)))
    for scan in with_files:
        write_scan(folder, scan)
    return folder


def write_scan(folder: Path, scan: int, size: tuple[int, int] = (1241, 376)) -> None:
    """Image of (width, height) pixels, 100 points and their labels (40, road)."""
    for part in ("image_2", "velodyne", "labels"):
        (folder / part).mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "image_2" / f"{scan:06}.png"), np.zeros((size[1], size[0], 3), dtype=np.uint8))
    points = np.zeros((100, 4), dtype="<f4")
    points[:, 0] = np.linspace(5, 40, 100)
    points.tofile(folder / "velodyne" / f"{scan:06}.bin")
    np.full(100, 40, dtype="<u4").tofile(folder / "labels" / f"{scan:06}.label")


def kitti_entry(root: Path, scenes: Sequence[str] = ("00",), **changes: Any) -> DatasetSpec:
    """The entry, with all of the named sequences in `train`."""
    fields: dict[str, Any] = {"splits": {"train": SplitSpec(scenes=tuple(scenes))}, **changes}
    return DatasetSpec(name="kitti", format="semantickitti", root=root, work=root / "work", **fields)


def write_voxels(folder: Path, scan: int, raw: np.ndarray, invalid: np.ndarray, *, moved: int = 0) -> None:
    """`.label`, `.invalid`, `.occluded` (all but the first voxel) and `.bin` (of the scan), moved in flat order."""
    voxels = folder / "voxels"
    voxels.mkdir(exist_ok=True)
    points = np.fromfile(folder / "velodyne" / f"{scan:06}.bin", "<f4").reshape(-1, 4)[:, :3]
    x, y, z = np.floor((points - np.array([0, -25.6, -2], np.float32)) / np.float32(0.2)).astype(int).T
    hit, occluded = np.zeros(raw.shape, dtype=bool), np.ones(raw.shape, dtype=bool)
    hit[x, y, z] = True
    occluded[0, 0, 0] = False
    np.roll(raw.ravel(), moved).astype("<u2").tofile(voxels / f"{scan:06}.label")
    for name, bits in {"bin": hit, "invalid": invalid, "occluded": occluded}.items():
        np.packbits(np.roll(bits.ravel(), moved)).tofile(voxels / f"{scan:06}.{name}")
