"""Files with a category for each LiDAR point: nuScenes-lidarseg, nuScenes-panoptic and SemanticKITTI."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt16

from schemas.errors import DataError, raise_machine_fault
from schemas.semantickitti import split_label

PANOPTIC_SUFFIX: Final = ".npz"
KITTI_SUFFIX: Final = ".label"
_INSTANCES: Final = 1000


def read_categories(path: Path, token: str) -> UInt16[np.ndarray, " n"]:
    """Category index of each point, in the order of the point file.

    Args:
        path: `*_lidarseg.bin` (one uint8 per point), `*_panoptic.npz` (array `data`: 1000 * category + instance) or
            `*.label` (one uint32 per point: `schemas.semantickitti`).
        token: sample token, for messages.

    Raises:
        DataError: the file is missing, cut short or holds something else.

    Source: nuscenes-devkit, `panoptic/README.md` and `utils/data_io.py`; semantic-kitti-api, `README.md`.
    """
    where = f"{path} (sample {token})"
    try:
        if path.suffix == KITTI_SUFFIX:
            return _kitti_categories(where, path.read_bytes())
        if path.suffix != PANOPTIC_SUFFIX:
            return np.frombuffer(path.read_bytes(), dtype=np.uint8).astype(np.uint16)
        with path.open("rb") as data, np.load(data, allow_pickle=False) as file:
            values = file["data"]
    except FileNotFoundError:
        raise DataError(f"{where}: label file is missing. Restore it, or use --on-error drop.") from None
    except KeyError:
        raise DataError(f"{where}: array 'data' is missing; expected 1000 * category + instance per point") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise_machine_fault(error)
        raise DataError(f"{where}: label file is unreadable or cut short ({error}). Copy it again.") from error
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{where}: 'data' is {values.dtype} {values.shape}, expected one whole number per point")
    categories = values // _INSTANCES
    if categories.min(initial=0) < 0 or categories.max(initial=0) > 255:
        raise DataError(f"{where}: 'data' holds {values.min()} to {values.max()}, expected 1000 * category + instance")
    return categories.astype(np.uint16)


def _kitti_categories(where: str, data: bytes) -> UInt16[np.ndarray, " n"]:
    if len(data) % 4:
        raise DataError(f"{where}: {len(data)} bytes, expected 4 for each point. The file is cut short; copy it again.")
    return split_label(np.frombuffer(data, dtype="<u4").astype(np.uint32, copy=False))[0]


def count_labels(path: Path, token: str, num_bytes: int) -> int:
    """Number of points that a label file of so many bytes is for; only a packed one is read.

    Raises:
        DataError: a packed file is broken, or the bytes are no whole number of labels.
    """
    if path.suffix == PANOPTIC_SUFFIX:
        return len(read_categories(path, token))
    if path.suffix == KITTI_SUFFIX and num_bytes % 4:
        raise DataError(f"{path} (sample {token}): {num_bytes} bytes, expected 4 for each point. Copy it again.")
    return num_bytes // 4 if path.suffix == KITTI_SUFFIX else num_bytes
