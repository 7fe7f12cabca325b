"""What a work folder tells about its stages and runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.manifests import fingerprint
from pipelines.status import StageRow, next_command, stage_rows
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.store import FORMAT_VERSION


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _finish(folder: Path, inputs: dict[str, Path], **entries: Any) -> None:
    """A finished stage with 7 samples and 1 dropped one."""
    fingerprints = {name: fingerprint(path.parent) for name, path in inputs.items()}
    plan = {"stage": folder.name, "format_version": FORMAT_VERSION, "config": {}, "inputs": fingerprints}
    plan |= entries
    marker = {"done": 7, "dropped": {"token-x": "image is truncated"}, "counts": {}}
    _write(folder / "plan.json", plan)
    _write(folder / "units" / "part-00000.json", marker)
    _write(folder / "manifest.json", {**plan, **marker})


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
    rows = stage_rows(tmp_path / "work", "mini", runs=[tmp_path / "runs"])
    assert [row.stage for row in rows] == ["records", "geometry", "occupancy", "masks-seeds", "shards", "run"]
    assert set(_states(rows).values()) == {"missing"}
    assert next_command(rows) == "protoocc prepare mini"


def test_all_stages_done(work: Path, tmp_path: Path) -> None:
    rows = stage_rows(work, "mini", runs=[tmp_path / "runs"])
    assert [row.state for row in rows] == ["done"] * 5 + ["missing"]
    assert (rows[1].done, rows[1].total, rows[1].dropped) == (7, 8, 1)
    size = sum(path.stat().st_size for path in (work / "records").rglob("*.json"))
    assert rows[0].num_bytes == size
    assert next_command(rows) == "protoocc train --preset demo --dataset mini"


def test_what_comes_next_on_semantickitti(work: Path, tmp_path: Path) -> None:
    """Its networks read depth, and have another grid than those of nuScenes."""
    fields = {"name": "kitti", "root": tmp_path, "work": work, "splits": {"train": {"official": "train"}}}
    dataset = DatasetSpec.model_validate({**fields, "format": "semantickitti"})
    for name in ("records", "geometry.zarr", "occupancy.zarr", "masks-seeds.zarr", "shards"):
        (work / name / "manifest.json").unlink()
        (work / name / "plan.json").unlink()
    rows = stage_rows(work, "kitti", runs=[tmp_path / "runs"], dataset=dataset)
    assert rows[4].next_command == "protoocc pack --masks seeds --depth --dataset kitti"
    assert rows[5].next_command == "protoocc train --preset voxformer-demo --dataset kitti"


def test_half_done_stage(work: Path, tmp_path: Path) -> None:
    folder = work / "occupancy.zarr"
    (folder / "manifest.json").unlink()
    _write(folder / "units" / "part-00000.json", {"done": 3, "dropped": {}, "counts": {}})
    _write(folder / "units" / "part-00001.json", {"done": 1, "dropped": {"token-y": "no labels"}, "counts": {}})
    row = stage_rows(work, "mini", runs=[tmp_path / "runs"])[2]
    # 3 + 1 done; 8 = the 7 + 1 samples of the records
    assert (row.state, row.done, row.total, row.dropped, row.detail) == ("partial", 4, 8, 1, "2 units")
    assert row.next_command == "protoocc occupancy --dataset mini"


def test_stage_made_from_other_inputs_is_outdated(work: Path, tmp_path: Path) -> None:
    _write(work / "masks-seeds.zarr" / "manifest.json", {**_manifest(work / "masks-seeds.zarr"), "done": 8})
    rows = stage_rows(work, "mini", runs=[tmp_path / "runs"])
    assert _states(rows)["shards"] == "outdated"
    assert rows[4].detail == "masks changed since"
    assert next_command(rows) == "protoocc pack --masks seeds --dataset mini --overwrite"


def test_other_format_is_outdated(work: Path, tmp_path: Path) -> None:
    _write(work / "geometry.zarr" / "manifest.json", {**_manifest(work / "geometry.zarr"), "format_version": 99})
    row = stage_rows(work, "mini", runs=[tmp_path / "runs"])[1]
    assert row.state == "outdated"
    assert row.detail == f"format 99, this program reads {FORMAT_VERSION}"


def test_two_mask_generators(work: Path, tmp_path: Path) -> None:
    _write(work / "masks-sam.zarr" / "plan.json", {"stage": "masks"})
    rows = stage_rows(work, "mini", runs=[tmp_path / "runs"])
    assert [row.stage for row in rows][3:5] == ["masks-sam", "masks-seeds"]
    assert rows[3].state == "partial"
    assert rows[3].next_command == "protoocc masks --generator sam --dataset mini"
    assert next_command(rows) == "protoocc train --preset demo --dataset mini", "one generator is enough"


def test_half_done_stage_goes_on_with_what_it_was_begun_with(work: Path, tmp_path: Path) -> None:
    (work / "masks-seeds.zarr" / "manifest.json").unlink()
    plan = json.loads((work / "masks-seeds.zarr" / "plan.json").read_text())
    plan["command"] = "protoocc masks --generator seeds --segments 91 --dataset mini"
    _write(work / "masks-seeds.zarr" / "plan.json", plan)
    row = stage_rows(work, "mini", runs=[tmp_path / "runs"])[3]
    assert (row.state, row.next_command) == ("partial", plan["command"])


def test_shards_with_a_description_of_their_dataset_are_not_outdated(work: Path, tmp_path: Path) -> None:
    """The manifest of shards has a `dataset` of its own, with an image shape that no entry of datasets.yaml has."""
    fields = {"name": "mini", "format": "nuscenes", "root": ".", "version": "v1.0-mini", "work": str(work)}
    image = {"resize": [128, 72], "crop": [0, 0, 128, 64]}
    dataset = DatasetSpec.model_validate({**fields, "image": image, "splits": {"all": {"scenes": ["a"]}}})
    plan = json.loads((work / "shards" / "plan.json").read_text())
    _write(work / "shards" / "plan.json", {**plan, "dataset": {"name": "mini"}})
    info = {"name": "mini", "image_shape": [64, 128]}
    _write(work / "shards" / "manifest.json", {**_manifest(work / "shards"), "dataset": info})
    rows = stage_rows(work, "mini", runs=[tmp_path / "runs"], dataset=dataset)
    assert _states(rows)["shards"] == "done"
    other = dataset.model_copy(update={"name": "maxi"})
    rows = stage_rows(work, "mini", runs=[tmp_path / "runs"], dataset=other)
    assert rows[4].detail == "name: was 'mini', now 'maxi'"


def test_runs(work: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    _write(runs / "mini-demo" / "config.json", {"schedule": {"steps": 100, "epochs": None}})
    for step in (50, 100):
        (runs / "mini-demo" / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    _write(runs / "mini-small" / "config.json", {"schedule": {"steps": 200, "epochs": None}})
    (runs / "mini-small" / "checkpoints" / "step-000050").mkdir(parents=True)
    (runs / "mini-small" / "checkpoints" / "step-000200.partial").mkdir(parents=True)
    demo, small = stage_rows(work, "mini", runs=[runs])[5:]
    assert (demo.stage, demo.state, demo.done, demo.total) == ("run demo", "done", 100, 100)
    assert demo.next_command == f"protoocc eval --dataset mini --run {runs / 'mini-demo'}"
    assert (small.stage, small.state, small.done, small.total) == ("run small", "partial", 50, 200)
    assert small.next_command.endswith("--resume")
    assert next_command([demo]) == demo.next_command


def test_runs_of_presets_with_dashes_and_of_other_datasets(work: Path, tmp_path: Path) -> None:
    """`mini-protoocc-small` is a run of mini; `mini-large-demo` is one of mini-large, once that dataset exists."""
    runs = tmp_path / "runs"
    for name in ("mini-protoocc-small", "mini-large-demo", "mini-large-panoocc-small"):
        _write(runs / name / "config.json", {"schedule": {"steps": 10}})
    rows = stage_rows(work, "mini", runs=[runs], all_names=["mini", "mini-large"])
    assert [row.stage for row in rows[5:]] == ["run protoocc-small"]
    rows = stage_rows(tmp_path / "none", "mini-large", runs=[runs], all_names=["mini", "mini-large"])
    assert [row.stage for row in rows[5:]] == ["run demo", "run panoocc-small"]
    assert len(stage_rows(work, "mini", runs=[runs])[5:]) == 3


def test_runs_of_any_name_and_depth(work: Path, tmp_path: Path) -> None:
    """A run says itself what it was trained on; where it was other shards, the command names them."""
    runs, scratch = tmp_path / "runs", tmp_path / "scratch"
    for folder, dataset, shards in (
        (runs / "longer", "mini", work / "shards"),
        (scratch / "ablations" / "a b", "mini", tmp_path / "other shards"),
        (runs / "mini-named-so", "maxi", work / "shards"),
    ):
        _write(folder / "config.json", {"schedule": {"steps": 10}})
        _write(folder / "trained_on.json", {"dataset": dataset, "shards": str(shards)})
        (folder / "checkpoints" / "step-000010").mkdir(parents=True)
        _write(folder / "checkpoints" / "step-000010" / "config.json", {"schedule": {"steps": 10}})
    rows = stage_rows(work, "mini", runs=[runs, scratch])[5:]
    assert [row.stage for row in rows] == ["run longer", "run a b"]
    assert rows[0].next_command == f"protoocc eval --dataset mini --run {runs / 'longer'}"
    elsewhere = f"--shards '{tmp_path / 'other shards'}' --run '{scratch / 'ablations' / 'a b'}'"
    assert rows[1].next_command == f"protoocc eval {elsewhere}"


def test_run_that_counts_epochs(work: Path, tmp_path: Path) -> None:
    """3 epochs over 5 training samples, 2 a step: 7.5, so 8 steps; a checkpoint at step 7 is not the end."""
    runs = tmp_path / "runs"
    config = {"schedule": {"steps": None, "epochs": 3}, "data": {"split": "train", "batch_size": 2}}
    _write(runs / "mini-protoocc-small" / "config.json", config)
    (runs / "mini-protoocc-small" / "checkpoints" / "step-000007").mkdir(parents=True)
    shards = [{"split": "train", "nsamples": 3}, {"split": "val", "nsamples": 9}, {"split": "train", "nsamples": 2}]
    _write(work / "shards" / "manifest.json", {**_manifest(work / "shards"), "shardlist": shards})
    row = stage_rows(work, "mini", runs=[runs])[5]
    assert (row.state, row.done, row.total) == ("partial", 7, 8)
    (runs / "mini-protoocc-small" / "checkpoints" / "step-000008").mkdir()
    assert stage_rows(work, "mini", runs=[runs])[5].state == "done"


def test_size_of_a_finished_stage_is_not_counted_again(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks of full nuScenes are 68,298 chunk files; their manifest knows their size."""
    masks = work / "masks-seeds.zarr"
    _write(masks / "manifest.json", {**_manifest(masks), "num_bytes": 123})
    for index in range(20):
        (work / "occupancy.zarr" / "semantics" / "c" / str(index)).mkdir(parents=True)
        (work / "occupancy.zarr" / "semantics" / "c" / str(index) / "0").write_bytes(b"12345")
    (work / "occupancy.zarr" / "manifest.json").unlink()
    scanned: list[str] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(str(path)) or real(path))
    monkeypatch.setattr(Path, "rglob", None)
    rows = stage_rows(work, "mini", runs=[tmp_path / "runs"])
    chunks = [path for path in scanned if "/semantics/c/" in path]
    assert rows[3].num_bytes == 123
    markers = sum(path.stat().st_size for path in (work / "occupancy.zarr").glob("**/*.json"))
    assert rows[2].num_bytes == markers + 20 * 5
    assert len(chunks) == len(set(chunks)) == 20
    assert not [path for path in scanned if "masks-seeds" in path]


def test_status_loads_no_network_and_no_arrays() -> None:
    heavy = {"torch", "dask", "distributed", "zarr", "cv2", "numba"}
    code = f"import sys, cli.status; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_damaged_marker_counts_as_a_unit_to_do(work: Path, tmp_path: Path) -> None:
    (work / "occupancy.zarr" / "manifest.json").unlink()
    _write(work / "occupancy.zarr" / "units" / "part-00000.json", {"done": 3})
    _write(work / "occupancy.zarr" / "units" / "part-00001.json", {"done": 1, "dropped": {}, "counts": {}})
    row = stage_rows(work, "mini", runs=[tmp_path / "runs"])[2]
    assert (row.state, row.done, row.detail) == ("partial", 1, "1 units")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"done": ' + "9" * 5000 + "}"])
def test_files_beyond_the_limits_are_named(text: str, work: Path, tmp_path: Path) -> None:
    (work / "records" / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"records/manifest\.json"):
        stage_rows(work, "mini", runs=[tmp_path / "runs"])
    (work / "records" / "manifest.json").unlink()
    (tmp_path / "runs/mini-demo").mkdir(parents=True)
    (tmp_path / "runs/mini-demo/config.json").write_text(text)
    with pytest.raises(DataError, match=r"mini-demo/config\.json"):
        stage_rows(work, "mini", runs=[tmp_path / "runs"])


def test_damaged_manifest_is_named(work: Path, tmp_path: Path) -> None:
    (work / "records" / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"records/manifest\.json is damaged"):
        stage_rows(work, "mini", runs=[tmp_path / "runs"])


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest
