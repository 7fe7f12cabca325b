"""How threads of numeric libraries wait for each other: decided before one of them is loaded."""

from __future__ import annotations

import os
from typing import Final

WAIT_POLICY: Final = "OMP_WAIT_POLICY"


def ready_threads() -> None:
    """Lets threads that have nothing to do sleep, where the user has not chosen otherwise.

    Spinning ones take cores from those that work: beside other programs a training step takes several times as long.
    OpenMP reads this when torch is loaded.
    """
    os.environ.setdefault(WAIT_POLICY, "passive")
