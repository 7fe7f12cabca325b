"""The door for files that other people made: what they declare is compared with limits before anything is allocated.

Every reader of shards, checkpoints, labels and settings takes bytes through these functions, and they raise nothing but
`schemas.errors`. `limits` states how large, deep and far apart things may be; `text` reads JSON and YAML, `arrays` npz
and npy, `images` the headers of JPEG and PNG, `weights` what torch and safetensors files declare, `calibration` knows
what a pose and a camera can be. Nothing here runs or unpickles what a file holds.
"""

from schemas.outside.arrays import read_npy, read_npz
from schemas.outside.calibration import are_poses, check_intrinsics, check_poses
from schemas.outside.images import check_jpeg, check_png, has_end, image_size
from schemas.outside.source import Source, read_bytes, read_lines, shorten
from schemas.outside.text import check_characters, check_nesting, parse_json, parse_json_value, parse_yaml

__all__ = [
    "Source",
    "are_poses",
    "check_characters",
    "check_intrinsics",
    "check_jpeg",
    "check_nesting",
    "check_png",
    "check_poses",
    "has_end",
    "image_size",
    "parse_json",
    "parse_json_value",
    "parse_yaml",
    "read_bytes",
    "read_lines",
    "read_npy",
    "read_npz",
    "shorten",
]
