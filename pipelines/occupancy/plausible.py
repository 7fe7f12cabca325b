"""Are imported labels what they say? Shares that right labels have, measured in every keyframe before it is stored.

Wrong numbers, inverted masks and swapped axes all make valid arrays, so only their contents can tell.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float64, UInt8
from pydantic import Field

from pipelines.occupancy.orientation import alternatives, better_reading, evidence_points
from pipelines.occupancy.layouts import MASKS
from pipelines.occupancy.occ3d import Labels
from schemas.classes import ClassTable
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import SampleRecord
from schemas.settings import Frozen
