"""A user's own data: tables with nothing but the fields that docs/your-own-data.md lists are enough for labels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipelines.occupancy import LidarConfig, make_occupancy
from pipelines.prepare import prepare
from pipelines.stage import Runtime
from schemas.datasets import DatasetSpec, SplitSpec

PAGE = Path(__file__).parents[2] / "docs/your-own-data.md"


def documented_fields() -> dict[str, list[str]]:
    """Fields of each table that the page lists."""
    rows = re.findall(r"^\| (`.+?`) \| (.+?) \|$", PAGE.read_text(), flags=re.MULTILINE)
    return {name: re.findall(r"`(\w+)`", fields) for names, fields in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.fixture
def own(world_dataset: DatasetSpec, tmp_path: Path) -> DatasetSpec:
    """One scene of the tiny world with stripped tables, without map and point labels."""
    root = tmp_path / "own"
    (root / "tables").mkdir(parents=True)
    for folder in ("samples", "sweeps"):
        (root / folder).symlink_to(world_dataset.root / folder)
    for table, fields in documented_fields().items():
        rows = json.loads((world_dataset.root / world_dataset.version / f"{table}.json").read_text()) if fields else []
        stripped = [{field: row[field] for field in fields} for row in rows]
        for row in stripped:
            row.update({"filename": ""} if table == "map" else {})
        (root / "tables" / f"{table}.json").write_text(json.dumps(stripped))
    splits = {"train": SplitSpec(scenes=("synth-0000",))}
    return world_dataset.model_copy(
        update={"root": root, "version": "tables", "work": tmp_path / "work", "splits": splits}
    )


def test_documented_fields_are_enough(own: DatasetSpec, sync_runtime: Runtime) -> None:
    assert len(documented_fields()) == 13
    assert prepare(own, own.work, sync_runtime).counts["sweeps"] > 0
    counts = make_occupancy(own, own.work, LidarConfig(), sync_runtime).counts
    assert counts["voxels_boxes"] > 0 and counts["voxels_ignored"] > 0
    assert counts["voxels_map"] == 0
    assert counts["voxels_occupied"] == counts["voxels_boxes"] + counts["voxels_ignored"]
