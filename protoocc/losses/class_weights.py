"""Weights of classes in the cross entropy: SemanticKITTI's as published, and those of a short training."""

from __future__ import annotations

import math
from typing import Final

from schemas.classes import OCC3D

SEMANTICKITTI_VOXELS: Final = (
    *(5.41773033e9, 15_783_539.0, 125_136.0, 118_809.0, 646_799.0, 821_951.0, 262_978.0, 283_696.0, 204_750.0),
    *(61_688_703.0, 4_502_961.0, 44_883_650.0, 2_269_923.0, 56_840_218.0, 15_719_652.0, 158_442_623.0),
    *(2_061_623.0, 36_970_522.0, 1_151_988.0, 334_146.0),
)
"""Voxels of each class of `schemas.classes.SEMANTICKITTI` in its training split."""

SEMANTICKITTI_WEIGHTS: Final = tuple(1.0 / math.log(voxels) for voxels in SEMANTICKITTI_VOXELS)
"""1 / ln(voxels) (MonoScene, Symphonies): 0.045 for empty, 0.086 for motorcycles. Their scale divides out."""

VOXFORMER_WEIGHTS: Final = (
    *(0.446, 0.603, 0.852, 0.856, 0.747, 0.734, 0.801, 0.796, 0.818, 0.557),
    *(0.653, 0.568, 0.683, 0.560, 0.603, 0.530, 0.688, 0.574, 0.716, 0.786),
)
"""10 / ln(voxels) to three decimals. VoxFormer divides by the voxels (``ce_mean``), so that here the scale counts."""

_RARE: Final = dict.fromkeys(OCC3D.things, 10.0) | {"other_flat": 4.0, "manmade": 3.0, "vegetation": 3.0}
SHORT_WEIGHTS: Final = tuple(_RARE.get(name, 1.0) for name in OCC3D.names)
"""Occ3D's classes where a training sees some hundred samples: with equal weights it finds ground and walls only."""
