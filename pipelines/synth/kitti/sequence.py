"""One generated sequence: its world, its calibration, where it is at each scan; and its text files.

Sequences have numbers as names. The first generated scene is 00, the second 08, then come 01, 02 and so on: so the
official splits (train 00..07, 09, 10; val 08; test 11..21) have scenes from two scenes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float

from pipelines.files import write_bytes, write_json
from pipelines.synth.config import KittiConfig
from pipelines.synth.kitti.raw_ids import RawIds
from pipelines.synth.kitti.rig import EGO_FROM_LIDAR, Calibration, build_calibration, hdl_64, numbers
from pipelines.synth.observed import Turn, turn_around
from pipelines.synth.sensors import Cloud, Geometry, scan
from pipelines.synth.world import build_world
from schemas.geometry import Pose, invert_rigid
from schemas.semantickitti import KEYFRAME_STEP, SEQUENCES, SPLITS

VERSION: Final = "dataset"
SCAN_US: Final = 100_000
_SECOND: Final = int(SPLITS["val"][0])


def sequence_name(scene: int) -> str:
    """Name of a generated scene: 00, 08, 01 .. 07, 09, 10 and so on."""
    number = 0 if scene == 0 else _SECOND if scene == 1 else scene - 1 if scene <= _SECOND else scene
    return f"{number:02d}"


@dataclass(frozen=True)
class Sequence:
    """A sequence ready to be seen."""

    config: KittiConfig
    index: int
    calibration: Calibration
    geometry: Geometry
    raw_ids: RawIds

    @property
    def name(self) -> str:
        """Number, two digits."""
        return sequence_name(self.index)

    @property
    def scans(self) -> int:
        """Number of scans."""
        return self.config.keyframes * KEYFRAME_STEP

    def lidar_pose(self, scan_number: int) -> Pose:
        """``world_from_lidar`` of a scan."""
        return self.geometry.world.ego_pose(time_s(scan_number)) @ EGO_FROM_LIDAR

    def camera_pose(self, scan_number: int) -> Float[np.ndarray, "3 4"]:
        """Frame of the first camera 0 from that of a scan's: a row of `poses.txt`."""
        tr = self.calibration.camera_from_lidar
        first_from_lidar = invert_rigid(self.lidar_pose(0)) @ self.lidar_pose(scan_number)
        return (tr @ first_from_lidar @ invert_rigid(tr))[:3]


def time_s(scan_number: int) -> float:
    """Seconds since the first scan; scan, image and voxels are of one instant."""
    return scan_number * SCAN_US * 1e-6


@lru_cache(maxsize=2)
def load_sequence(config: KittiConfig, index: int) -> Sequence:
    """Builds a sequence, or takes the one that this process built last."""
    generator = np.random.default_rng([config.seed, index])
    calibration = build_calibration(config.image_width, generator)
    geometry = Geometry(build_world(generator, config.slope))
    return Sequence(config, index, calibration, geometry, RawIds(geometry))


@lru_cache(maxsize=1)
def sequence_turns(config: KittiConfig, index: int) -> tuple[tuple[Turn, Cloud], ...]:
    """What every scan of a sequence truly met and what it reports."""
    sequence, beams = load_sequence(config, index), hdl_64(config.azimuths)
    turns = []
    for number in range(sequence.scans):
        snapshot = sequence.geometry.at(time_s(number))
        turn, hits = turn_around(snapshot, sequence.lidar_pose(number), number * SCAN_US, beams)
        noise = np.random.default_rng([config.seed, index, number])
        turns.append((turn, scan(sequence.geometry, hits, noise, beams)))
    return tuple(turns)


def write_sequences(root: Path, config: KittiConfig) -> None:
    """Writes `calib.txt`, `poses.txt` and `times.txt` of all sequences, and the list of things behind pixel numbers."""
    for index in range(config.scenes):
        sequence = load_sequence(config, index)
        folder = sequence_folder(root, sequence.name)
        poses = "".join(numbers(sequence.camera_pose(number)) + "\n" for number in range(sequence.scans))
        times = "".join(f"{time_s(number):.6e}\n" for number in range(sequence.scans))
        for name, text in (("calib.txt", sequence.calibration.text), ("poses.txt", poses), ("times.txt", times)):
            write_bytes(folder / name, text.encode())
        things = {str(thing.number): {"category": thing.category} for thing in sequence.geometry.things}
        write_json(root / "truth" / sequence.name / "things.json", things)


def sequence_folder(root: Path, name: str) -> Path:
    """Folder of a sequence's files."""
    return root / VERSION / SEQUENCES / name
