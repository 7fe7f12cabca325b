"""The README.md that travels with a set of shards."""

from __future__ import annotations

from typing import Final

from schemas.shards import CHECKSUMS, MEMBERS, Manifest

CARD: Final = "README.md"
"""Its file name, where data hubs look for it."""


def dataset_card(manifest: Manifest) -> str:
    """Dataset card in Markdown with the YAML header that data hubs read."""
    dataset, shards = manifest.dataset, manifest.shardlist
    splits = sorted({shard.split for shard in shards})
    configs = [f"  - split: {split}\n    path: {split}-*.tar" for split in splits]
    counts = [
        f"| {split} | {sum(s.split == split for s in shards)} "
        f"| {sum(s.nsamples for s in shards if s.split == split)} "
        f"| {sum(s.filesize for s in shards if s.split == split) / 1e6:.1f} MB |"
        for split in splits
    ]
    height, width = dataset.image_shape
    voxels = " x ".join(map(str, dataset.grid.shape))
    lines = [
        "---",
        "license: other",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *configs,
        "---",
        f"# {manifest.name}: occupancy shards",
        "",
        f"{len(dataset.cameras)} cameras of {width} x {height} pixels, pseudo masks by {manifest.masks}, "
        f"occupancy {voxels} at {dataset.grid.voxel_size_m} m, ego frame.",
        "The images keep the licence and terms of their source dataset: check them before you pass these shards on.",
        "",
        "| split | shards | samples | size |",
        "| --- | --- | --- | --- |",
        *counts,
        "",
        f"Samples left out: {len(manifest.left_out)}. Check the files with `sha256sum -c {CHECKSUMS}`.",
        "",
        "| member | content |",
        "| --- | --- |",
        *(f"| `{name}` | {meaning} |" for name, meaning in MEMBERS.items()),
        "",
    ]
    return "\n".join(lines)
