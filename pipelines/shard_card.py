"""The README.md that travels with a set of shards."""

from __future__ import annotations

import json

from schemas.shards import CHECKSUMS, DEPTH_MEMBER, IMAGE_MEMBERS, INPUT_DEPTH_MEMBER, MEMBERS, Manifest

UNKNOWN_LICENCE = (
    "Nobody said under which licence the images are: ask whoever made the raw data before you pass these shards on."
)


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
    optional = {
        DEPTH_MEMBER: manifest.depth,
        INPUT_DEPTH_MEMBER: manifest.depth_maps,
        IMAGE_MEMBERS: manifest.image_files is None,
    }
    members = {name: meaning for name, meaning in MEMBERS.items() if optional.get(name, True)}
    lines = [
        "---",
        *_licence_fields(manifest.licence),
        f"pretty_name: {json.dumps(manifest.name)}",
        "tags: [occupancy, autonomous-driving, webdataset]",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *configs,
        "---",
        f"# {manifest.name}: occupancy shards",
        "",
        f"{len(dataset.cameras)} cameras of {width} x {height} pixels, pseudo masks by {manifest.masks}, "
        f"occupancy {voxels} at {dataset.grid.voxel_size_m} m, ego frame.",
        *_terms(manifest),
        *_joining(manifest),
        "",
        "| split | shards | samples | size |",
        "| --- | --- | --- | --- |",
        *counts,
        "",
        f"Samples left out: {len(manifest.left_out)}. Check the files with `sha256sum -c {CHECKSUMS}`.",
        "",
        "| member | content |",
        "| --- | --- |",
        *(f"| `{name}` | {meaning} |" for name, meaning in members.items()),
        "",
    ]
    return "\n".join(lines)


def _licence_fields(licence: str | None) -> list[str]:
    """Fields of the YAML header; data hubs know licences by the small letters of their SPDX identifiers."""
    if licence is None:
        return ["license: unknown"]
    return [f"license: {json.dumps(licence.lower())}"]


def _joining(manifest: Manifest) -> list[str]:
    if manifest.image_files is None:
        return []
    return [
        "",
        "These shards hold no images. Whoever has the raw data joins them: `protoocc join FOLDER --images ROOT`, ROOT "
        "being its folder; each camera file is checked by size and SHA-256.",
    ]


def _terms(manifest: Manifest) -> list[str]:
    licence = f"Licence of the images: {manifest.licence}." if manifest.licence is not None else UNKNOWN_LICENCE
    return [licence] if manifest.attribution is None else [licence, manifest.attribution]
