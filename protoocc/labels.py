"""Whether labels are those of a class table, asked wherever they come in."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from schemas.classes import ClassTable
from schemas.errors import DataError


def check_labels(where: str, labels: UInt8[np.ndarray, "*any"], classes: ClassTable, *, may_be_unknown: bool) -> None:
    """Compares labels with a table.

    Args:
        where: what holds them, at the start of the message.
        labels: class of each voxel.
        classes: the table.
        may_be_unknown: ``classes.ignored`` is allowed; predictions may not hold it.

    Raises:
        DataError: a label that is no index of the table (names the largest).
    """
    if labels.max(initial=0) < classes.num_classes:  # the usual case, and cheap
        return
    foreign = labels >= classes.num_classes
    if may_be_unknown:
        foreign &= labels != classes.ignored
    if foreign.any():
        unknown = f" or {classes.ignored} (unknown)" if may_be_unknown else ""
        raise DataError(
            f"{where} holds class {labels[foreign].max()}; the class table has 0..{classes.num_classes - 1}{unknown}. "
            "Use data and checkpoint of the same `classes` in datasets.yaml."
        )
