"""What `protoocc status` prints: the stages of a dataset, or a set of shards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from cli.say import name_of, say, shown
from pipelines.status import StageRow, next_command

if TYPE_CHECKING:
    from rich.console import Console

    from schemas.shards import Manifest

STYLES: Final = {"done": "green", "partial": "yellow", "outdated": "bold yellow", "missing": "dim"}


def print_status(rows: Sequence[StageRow], console: Console) -> None:
    """Table of the rows and the next command."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("stage", "state", "done", "dropped", "size", "folder"):
        table.add_column(header, justify="right" if header in ("done", "dropped", "size") else "left", overflow="fold")
    for row in rows:
        state = shown(row.state, STYLES[row.state]) + shown(f" ({row.detail})" if row.detail else "")
        count = "" if row.state == "missing" else str(row.done)
        count += f" / {row.total}" if count and row.total is not None else ""
        size = f"{row.num_bytes / 1e6:.1f} MB" if row.num_bytes else ""
        table.add_row(shown(row.stage), state, count, str(row.dropped or ""), size, shown(name_of(row.folder)))
    console.print(table)
    say(f"\nNext: {next_command(rows)}", to=console)


def print_set(manifest: Manifest, raw: Mapping[str, Any], console: Console) -> None:
    """What a set of shards holds and what made it.

    Args:
        manifest: of the set.
        raw: its file, where the stage's own fields stand.
        console: to print to.
    """
    from rich.table import Table

    dataset = manifest.dataset
    (height, width), voxels = dataset.image_shape, " x ".join(map(str, dataset.grid.shape))
    held = f"occupancy of {voxels} voxels at {dataset.grid.voxel_size_m} m" if manifest.pixels is None else "pixels"
    joined = "" if manifest.image_files is None else ", not held: join them with the raw data"
    facts = {
        "format": manifest.shard_format,
        "images": f"{len(dataset.cameras)} cameras of {width} x {height}{joined}",
        "labels": f"{held}, {dataset.classes.num_classes} classes",
        "masks": manifest.masks or "none",
        "licence": manifest.licence or "nobody said it",
        "attribution": manifest.attribution or "nobody said it",
        "packed by": f"protoocc {manifest.code_version}" if manifest.code_version else "an older protoocc",
        "with": json.dumps(raw.get("config")),
        "left out": f"{len(manifest.left_out)} samples",
    }
    say(manifest.name, "bold", to=console)
    for name, value in facts.items():
        say(f"  {name:<12} {value}", to=console)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("split", "shards", "samples", "scenes", "size"):
        table.add_column(header, justify="left" if header == "split" else "right")
    for split, shards in manifest.by_split.items():
        scenes = {scene for shard in shards for scene in shard.scenes}
        size = f"{sum(shard.filesize for shard in shards) / 1e6:,.1f} MB"
        samples = sum(shard.nsamples for shard in shards)
        table.add_row(shown(split), str(len(shards)), f"{samples:,}", str(len(scenes)), size)
    console.print(table)
