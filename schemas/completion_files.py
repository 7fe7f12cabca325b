"""SemanticKITTI's files of predicted voxels: their names, and the numbers that they may hold.

`sequences/NN/predictions/FFFFFF.label`: one uint16 per voxel, little-endian, a raw id; the order is that of our arrays,
x, y, z with z fastest. Source: `evaluate_completion.py` and `validate_submission.py` of semantic-kitti-api (PRBonn).
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from jaxtyping import UInt8

from schemas.errors import DataError
from schemas.outside import Source, read_bytes
from schemas.semantickitti import CLASS_OF_RAW, INVERSE_MAP, NO_ID, SEQUENCES, read_voxel_labels

PREDICTIONS: Final = "predictions"
_TOKEN: Final = re.compile(r"([0-9]{2})-([0-9]{6})")
_REMEDY: Final = "Write the file again with the raw ids of learning_map_inv in semantic-kitti.yaml."


def prediction_file(token: str) -> PurePosixPath:
    """Where a submission has the prediction of a sample: `08-000005` in `sequences/08/predictions/000005.label`.

    Raises:
        DataError: the token names no scan.
    """
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise DataError(
            f"sample {token!r}: expected <sequence>-<scan>, such as 08-000005, by which SemanticKITTI names its files. "
            "Write npz files instead: --write npz"
        )
    return PurePosixPath(SEQUENCES, match[1], PREDICTIONS, f"{match[2]}.label")


def read_prediction(path: Path, token: str, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "X Y Z"]:
    """Reads one file of predictions.

    Args:
        path: the file.
        token: of its sample, for messages.
        shape: (X, Y, Z) of the grid.

    Returns:
        Classes of `schemas.classes.SEMANTICKITTI`.

    Raises:
        DataError: the file is missing, has another length, or holds an id that is no scored class: the published
            program stops at it.
    """
    source = Source(f"{path} (sample {token})", _REMEDY)
    data = read_bytes(source, path, 2 * shape[0] * shape[1] * shape[2])
    try:
        raw = read_voxel_labels(data, shape)
    except ValueError as error:
        raise source.error(str(error)) from error
    labels = CLASS_OF_RAW[raw]
    bad = labels >= len(INVERSE_MAP)
    if bad.any():
        strange = int(raw[bad][0])
        what = "no id of SemanticKITTI" if CLASS_OF_RAW[strange] == NO_ID else "an id without a scored class"
        raise source.error(f"holds {strange} in {int(bad.sum()):,} voxels, {what}")
    return labels
