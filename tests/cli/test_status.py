"""`protoocc status`: what a work folder tells about its stages."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli.status import StageRow, next_command, print_status, stage_rows
from schemas.errors import DataError
from schemas.store import FORMAT_VERSION


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _finish(folder: Path, inputs: dict[str, Path], **entries: Any) -> None:
    """A finished stage with 7 samples and 1 dropped one."""
    fingerprints = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in inputs.items()}
    plan = {"stage": folder.name, "format_version": FORMAT_VERSION, "config": {}, "inputs": fingerprints}
    manifest = {**plan, "done": 7, "dropped": {"token-x": "image is truncated"}, "counts": {}, **entries}
    _write(folder / "plan.json", plan)
    _write(folder / "units" / "part-00000.json", {"done": 7, "dropped": {"token-x": "image is truncated"}})
    _write(folder / "manifest.json", manifest)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """All stages finished."""
    work = tmp_path / "work"
    records = {"records": work / "records" / "manifest.json"}
    _finish(work / "records", {})
    for name in ("geometry.zarr", "occupancy.zarr", "masks-seeds.zarr"):
        _finish(work / name, records)
    inputs = {name: work / f"{name}.zarr" / "manifest.json" for name in ("geometry", "occupancy")}
    inputs |= {**records, "masks": work / "masks-seeds.zarr" / "manifest.json"}
    _finish(work / "shards", inputs, config={"masks": "seeds"})
    return work


def _states(rows: list[StageRow]) -> dict[str, str]:
    return {row.stage: row.state for row in rows}


def test_nothing_there(tmp_path: Path) -> None:
    rows = stage_rows(tmp_path / "work", "mini", runs=tmp_path / "runs")
    assert [row.stage for row in rows] == ["records", "geometry", "occupancy", "masks-seeds", "shards", "run"]
    assert set(_states(rows).values()) == {"missing"}
    assert next_command(rows) == "protoocc prepare mini"


def test_all_stages_done(work: Path, tmp_path: Path) -> None:
    rows = stage_rows(work, "mini", runs=tmp_path / "runs")
    assert [row.state for row in rows] == ["done"] * 5 + ["missing"]
    assert (rows[1].done, rows[1].total, rows[1].dropped) == (7, 8, 1)
    size = sum(path.stat().st_size for path in (work / "records").rglob("*.json"))
    assert rows[0].num_bytes == size
    assert next_command(rows) == "protoocc train --preset demo --dataset mini"


def test_half_done_stage(work: Path, tmp_path: Path) -> None:
    folder = work / "occupancy.zarr"
    (folder / "manifest.json").unlink()
    _write(folder / "units" / "part-00000.json", {"done": 3, "dropped": {}})
    _write(folder / "units" / "part-00001.json", {"done": 1, "dropped": {"token-y": "no labels"}})
    row = stage_rows(work, "mini", runs=tmp_path / "runs")[2]
    # 3 + 1 done; 8 = the 7 + 1 samples of the records
    assert (row.state, row.done, row.total, row.dropped, row.detail) == ("partial", 4, 8, 1, "2 units")
    assert row.next_command == "protoocc occupancy --dataset mini"


def test_stage_made_from_other_inputs_is_outdated(work: Path, tmp_path: Path) -> None:
    _write(work / "masks-seeds.zarr" / "manifest.json", {**_manifest(work / "masks-seeds.zarr"), "done": 8})
    rows = stage_rows(work, "mini", runs=tmp_path / "runs")
    assert _states(rows)["shards"] == "outdated"
    assert rows[4].detail == "masks changed since"
    assert next_command(rows) == "protoocc pack --masks seeds --dataset mini --overwrite"


def test_other_format_is_outdated(work: Path, tmp_path: Path) -> None:
    _write(work / "geometry.zarr" / "manifest.json", {**_manifest(work / "geometry.zarr"), "format_version": 99})
    row = stage_rows(work, "mini", runs=tmp_path / "runs")[1]
    assert row.state == "outdated"
    assert row.detail == f"format 99, this program reads {FORMAT_VERSION}"


def test_two_mask_generators(work: Path, tmp_path: Path) -> None:
    _write(work / "masks-sam.zarr" / "plan.json", {"stage": "masks"})
    rows = stage_rows(work, "mini", runs=tmp_path / "runs")
    assert [row.stage for row in rows][3:5] == ["masks-sam", "masks-seeds"]
    assert rows[3].state == "partial"
    assert rows[3].next_command == "protoocc masks --generator sam --dataset mini"


def test_runs(work: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    _write(runs / "mini-demo" / "config.json", {"schedule": {"steps": 100, "epochs": None}})
    for step in (50, 100):
        (runs / "mini-demo" / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    _write(runs / "mini-small" / "config.json", {"schedule": {"steps": 200, "epochs": None}})
    (runs / "mini-small" / "checkpoints" / "step-000050").mkdir(parents=True)
    (runs / "mini-small" / "checkpoints" / "step-000200.partial").mkdir(parents=True)
    _write(runs / "mini-large-demo" / "config.json", {})  # of another dataset, "mini-large"
    demo, small = stage_rows(work, "mini", runs=runs)[5:]
    assert (demo.stage, demo.state, demo.done, demo.total) == ("run demo", "done", 100, 100)
    assert demo.next_command == f"protoocc eval --dataset mini --run {runs / 'mini-demo'}"
    assert (small.stage, small.state, small.done, small.total) == ("run small", "partial", 50, 200)
    assert small.next_command.endswith("--resume")
    assert next_command([demo]) == demo.next_command


def test_damaged_manifest_is_named(work: Path, tmp_path: Path) -> None:
    (work / "records" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"records/manifest\.json is damaged"):
        stage_rows(work, "mini", runs=tmp_path / "runs")


def test_table(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_status(stage_rows(work, "mini", runs=tmp_path / "runs"), Console(width=200))
    printed = capsys.readouterr().out
    assert "occupancy" in printed and "7 / 8" in printed
    assert "Next: protoocc train --preset demo --dataset mini" in printed


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest
