"""How large, deep and far apart things from outside may be. Readers refuse what exceeds a limit and name it.

They are far above what drives hold and low enough that no file makes a reader take more than 300 MB beyond the sample.
"""

from __future__ import annotations

from typing import Final

MEBIBYTE: Final = 2**20

JSON_BYTES: Final = 8 * MEBIBYTE
"""A JSON file or a header in JSON; parsed, it may take thirty times as much memory."""
JSON_VALUES: Final = 500_000
"""Values of a JSON file; of one that may have more than `JSON_BYTES`, accordingly more."""
STAGE_BYTES: Final = 384 * MEBIBYTE
"""A plan, marker or manifest of a stage, which name every raw file of a unit: the 1.4 million sweeps of all of nuScenes
in one scene have 290 MB, its 34,149 keyframes all left out with a reason 14 MB."""
LOCK_BYTES: Final = 65_536
"""A lock file: a host, two numbers and a time."""
RECORD_BYTES: Final = 4 * MEBIBYTE
"""One line of the records."""
META_BYTES: Final = MEBIBYTE
"""`meta.json` of one sample."""
YAML_BYTES: Final = MEBIBYTE
"""`datasets.yaml`."""
YAML_VALUES: Final = 100_000
"""Values of a YAML file, those that aliases repeat counted each time."""
DEPTH: Final = 64
"""Objects and lists inside each other."""
DIGITS: Final = 19
"""Digits of a whole number: all that 64 bits hold."""
NAME_BYTES: Final = 255
"""A file name, as file systems have it."""
SHARD_NAME_BYTES: Final = 200
"""Name of a tar or an index: files that are being written have a longer one."""
SHOWN: Final = 200
"""Characters of a foreign value that a message shows."""

CAMERAS: Final = 64
"""Cameras of a sample."""
CAMERA_PIXELS: Final = 2**26
"""Pixels of one camera image, or of the network images of a sample together."""
GRID_VOXELS: Final = 2**26
"""Voxels of a grid."""
SCANS: Final = 64
"""Scans of a JPEG: progressive ones have about ten; thousands of empty ones take minutes to decode."""
SEGMENTS: Final = 1000
"""Segments of a JPEG before its pixels: thumbnails, colour profiles and notes."""
JPEG_RATIO: Final = 512
"""Pixels of a byte of a JPEG at most: each block of 8 x 8 has a bit of its own, whatever it shows."""
DEFLATE_RATIO: Final = 1032
"""Bytes that deflate makes of one at most."""
MEMBER_SLACK: Final = 65_536
"""Bytes that a packed member may have beyond its uncompressed size times `MEMBER_FACTOR`."""
MEMBER_FACTOR: Final = 2
"""A compressed member may be so many times as large as what it holds: noise does not shrink."""

ZIP_MEMBERS: Final = 100_000
"""Files in a zip archive, npz or torch."""
NPY_HEADER_BYTES: Final = 4096
"""Header of an npy file."""
NPY_AXES: Final = 8
"""Axes of an array."""
PICKLE_BYTES: Final = 64 * MEBIBYTE
"""The pickle of a torch file: names, shapes and plain values, no weights."""
PICKLE_STEPS: Final = 1_000_000
"""Instructions of that pickle; an optimiser of a thousand weights has 120,000."""

NETWORK_VALUES: Final = 1000
"""Settings of a network, entries of lists counted."""
NETWORK_NUMBER: Final = 100_000
"""The largest whole number among them: channels, cells, classes."""

LATEST_US: Final = 2**62
"""No clock of a sensor is beyond, before or after its zero, microseconds."""
PLANET_M: Final = 2.1e7
"""A pose lies within half the circumference of the Earth, metres."""
VEHICLE_M: Final = 1000.0
"""A camera lies within so many metres of its vehicle."""
LIDAR_M: Final = 2000.0
"""No coordinate of a LiDAR's point is larger, metres."""
FOCAL_PX: Final = (1.0, 1e6)
"""Focal lengths, pixels."""
CENTER_PX: Final = 1e6
"""A principal point lies within so many pixels of the corner of its image."""
QUATERNION_ERROR: Final = 1e-2
"""A quaternion's length differs so much from 1 at most; it is normalised where it is used."""
ROTATION_ERROR: Final = 1e-3
"""Largest entry of R R^T - 1 of a rotation."""
