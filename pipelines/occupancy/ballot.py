"""Votes between the classes of a table.

The last axis of an array of votes has a slot for each class, c for class c, and a last one for points of unknown class.
Nobody votes for free.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped, UInt8

from pipelines.points import UNKNOWN
from schemas.classes import ClassTable


def num_slots(table: ClassTable) -> int:
    """Length of the last axis of votes."""
    return table.num_classes + 1


def slots_of(labels: UInt8[np.ndarray, "*any"], table: ClassTable) -> UInt8[np.ndarray, "*any"]:
    """Slot of each point label: a class or `UNKNOWN`."""
    return np.where(labels == UNKNOWN, np.uint8(table.num_classes), labels)


def winners(votes: Shaped[np.ndarray, "*any s"], table: ClassTable) -> UInt8[np.ndarray, "*any"]:
    """Label with the most votes, ``table.ignored`` where the unknown wins.

    Ties go to things before ground before other matter before the unknown, within them to the class that comes first
    (things in order of their numbers, the others in that of the table's fields). So low things do not drown in the road
    by a tie, whatever the table numbers first.

    Args:
        votes: numbers or weights by slot; where all are zero the result means nothing.
        table: the classes.
    """
    stuff = tuple(dict.fromkeys(table.ground + table.stuff))
    things = tuple(name for name in table.occupied if name not in stuff)
    order = table.labels_of(things + stuff)
    slots = np.append(order.astype(np.intp), table.num_classes)
    labels = np.append(order, np.uint8(table.ignored))
    return labels[votes[..., slots].argmax(axis=-1)]
