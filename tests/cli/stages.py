"""The stages as commands on a tiny world, for tests that kill them and that let the machine fail."""

from __future__ import annotations

from typing import Final

WORLD = ("--scenes", "2", "--keyframes", "2", "--width", "160", "--sweeps", "0", "--workers", "2")
WORKERS = ("--workers", "2", "--memory-limit", "2GiB")
STAGES: Final = {
    "synth": (("world",), ("synth", "world", *WORLD)),
    "prepare": (("work/records", "work/geometry.zarr"), ("prepare", *WORKERS)),
    "occupancy": (("work/occupancy.zarr",), ("occupancy", *WORKERS)),
    "masks": (("work/masks-seeds.zarr",), ("masks", *WORKERS)),
    "pack": (("work/shards",), ("pack", "--samples-per-shard", "1", *WORKERS)),
}
"""Stage -> what it makes, and the command with at least two tasks, except one of masks, all in worker processes."""
DATASETS = """
tiny:
  format: nuscenes
  root: {root}
  version: v1.0-synth
  image: {{resize: [200, 112], crop: [0, 8, 200, 104]}}
  splits: {{train: {{scenes: [synth-0000]}}, val: {{scenes: [synth-0001]}}}}
  work: work
"""
