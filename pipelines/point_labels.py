"""Files with a category for each LiDAR point: nuScenes-lidarseg and nuScenes-panoptic."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from schemas.errors import DataError, raise_machine_fault

PANOPTIC_SUFFIX: Final = ".npz"
_INSTANCES: Final = 1000


def read_categories(path: Path, token: str) -> UInt8[np.ndarray, " n"]:
    """Category index of each point, in the order of the point file.

    Args:
        path: `*_lidarseg.bin` (one uint8 per point) or `*_panoptic.npz` (array `data`: 1000 * category + instance).
        token: sample token, for messages.

    Raises:
        DataError: the file is missing, cut short or holds something else.

    Source: nuscenes-devkit, `panoptic/README.md` and `utils/data_io.py`.
    """
    where = f"{path} (sample {token})"
    try:
        if path.suffix != PANOPTIC_SUFFIX:
            return np.frombuffer(path.read_bytes(), dtype=np.uint8)
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
    return categories.astype(np.uint8)
