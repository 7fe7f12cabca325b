"""`protoocc occupancy` as a user types it: import, files, comparison, check, JSON, and what bad input says."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cli.main import main
from pipelines.occupancy.label_sets import LABEL_SETS
from schemas.datasets import DatasetSpec

Command = Callable[..., str]


@pytest.fixture
def datasets(world_dataset: DatasetSpec, stored: Path, tmp_path: Path) -> Path:
    """A datasets.yaml for a copy of the tiny world's finished store."""
    shutil.copytree(stored, tmp_path / "work", ignore=shutil.ignore_patterns("masks-*", "shards*"))
    fields = json.loads(world_dataset.model_dump_json(exclude_defaults=True, exclude={"name"}))
    path = tmp_path / "datasets.yaml"
    path.write_text(yaml.safe_dump({"tiny": {**fields, "work": str(tmp_path / "work")}}))
    return path


@pytest.fixture
def occupancy(datasets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process; returns what it printed on standard output."""

    def run(*arguments: object, expect: int = 0) -> str:
        words = ["occupancy", "--datasets", datasets, "--scheduler", "sync", *arguments]
        monkeypatch.setattr(sys, "argv", ["protoocc", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert (ended.value.code or 0) == expect, captured.err
        run.err = captured.err  # type: ignore[attr-defined]
        return captured.out

    return run


def answer(text: str) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return dict(json.loads(text, parse_constant=refuse))


def test_compare_prints_table_figures_and_picture(occupancy: Command, world_dataset: DatasetSpec) -> None:
    said = answer(occupancy("--compare", world_dataset.root, "--json"))
    assert [said[name] for name in ("occupied_iou", "semantic_accuracy", "mask_lidar_f1", "mask_camera_f1")] == [
        1.0
    ] * 4
    assert said["trail_share"] == 0.0
    assert said["keyframes"] == 4 and said["missing"] == 0
    assert said["classes"]["car"]["iou"] == 1.0
    assert Path(said["picture"]).read_bytes()[:4] == b"\x89PNG"
    assert "driveable_surface" in occupancy.err and "occupied_iou" in occupancy.err  # type: ignore[attr-defined]


@pytest.mark.slow
def test_check_prints_table_shares_and_picture(occupancy: Command) -> None:
    said = answer(occupancy("--check", "--json"))
    assert said["lidar_hit_share"] > 0.98
    assert 0 < said["box_pixel_share"] < 1
    assert 0 < said["lidar_hit_precision"] < 1 and 0 < said["box_pixel_precision"] < 1
    assert occupancy.err.count("; precision: ") == 3  # type: ignore[attr-defined]
    assert set(said["box_pixels"]["car"]) == {"right", "other", "hidden", "through", "precision"}
    assert Path(said["picture_check"]).read_bytes()[:4] == b"\x89PNG"
    assert 0.3 < said["lidar_depth_floor"]["mae_m"] < said["lidar_depth"]["mae_m"] < 3
    assert "mean absolute error, m" in occupancy.err and "floor" in occupancy.err  # type: ignore[attr-defined]


def test_write_npz_uses_the_finished_store(occupancy: Command, datasets: Path, tmp_path: Path) -> None:
    """Also of a store that another source made: nothing is computed again, the store keeps its bytes."""
    work = tmp_path / "work"
    manifest = json.loads((work / "occupancy.zarr/manifest.json").read_text())
    manifest["config"]["source"] = {"kind": "lidar"}
    (work / "occupancy.zarr/manifest.json").write_text(json.dumps(manifest))
    (work / "occupancy.zarr/plan.json").unlink()
    before = (work / "occupancy.zarr/manifest.json").stat().st_mtime_ns
    occupancy("--write-npz", tmp_path / "npz")
    files = sorted((tmp_path / "npz").glob("gts/*/*/labels.npz"))
    assert len(files) == 4
    with np.load(files[0]) as file:
        assert file.files == ["semantics", "mask_lidar", "mask_camera"]
    assert (work / "occupancy.zarr/manifest.json").stat().st_mtime_ns == before
    occupancy("--compare", tmp_path / "npz")


def test_import_and_resample(occupancy: Command, world_dataset: DatasetSpec, tmp_path: Path) -> None:
    """Lists of the voxels that each keyframe's own sweep hits, so that they are plausible."""
    labels, grid = tmp_path / "surroundocc", LABEL_SETS["surroundocc"].grid
    labels.mkdir()
    for line in (tmp_path / "work/records/samples.jsonl").read_text().splitlines():
        path = Path(json.loads(line)["lidar"]["path"])
        points = np.fromfile(world_dataset.root / path, "<f4").reshape(-1, 5)[:, :3].astype(np.float64)
        index = grid.voxel_index(points)
        index = index[grid.contains(index)]
        np.save(labels / f"{path.name}.npy", np.column_stack([index, np.full(len(index), 4)]))
    words = ("--source", "surroundocc", "--labels", labels, "--overwrite")
    occupancy(*words, expect=2)
    assert "--resample" in occupancy.err  # type: ignore[attr-defined]
    said = answer(occupancy(*words, "--resample", "--json"))
    assert said["done"] == 4


@pytest.mark.slow
def test_settings_change_the_preset(occupancy: Command, tmp_path: Path) -> None:
    preset = ("--source", "lidar", "--thresholds", "release-like")
    occupancy(*preset, "--set", "free_above=5", "--set", "use_map=true", "--overwrite")
    plan = json.loads((tmp_path / "work/occupancy.zarr/plan.json").read_text())
    source = plan["config"]["source"]
    assert (source["free_above"], source["use_map"]) == (5, True)
    assert (source["occupied_above"], source["hide_things_only"]) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--compare", "/nowhere/at/all"), "no such folder"),
        (("--source", "surroundocc"), "needs --labels DIR"),
        (("--source", "lidar", "--labels", "x"), "belong to --source surroundocc"),
        (("--source", "radar"), "expected lidar, occ3d, openocc-v2, occ3d-waymo, surroundocc, openoccupancy or voxels"),
        (("--source", "lidar"), "--overwrite"),
        (("--set", "free_above=1"), "--set belongs to --source lidar and voxels, not occ3d"),
        (("--source", "lidar", "--set", "free_abov=1"), "unknown field 'free_abov'; known fields"),
        (("--source", "lidar", "--set", "free_above=-1"), "greater than or equal to 0"),
    ],
)
def test_bad_words_are_one_message(occupancy: Command, arguments: tuple[str, ...], words: str) -> None:
    occupancy(*arguments, expect=2)
    error = " ".join(occupancy.err.split())  # type: ignore[attr-defined]
    assert error.count("error:") == 1 and words in error


@pytest.mark.slow
def test_check_before_any_labels(occupancy: Command, tmp_path: Path) -> None:
    """Without a store --check imports first; without records it says what comes before."""
    shutil.rmtree(tmp_path / "work/occupancy.zarr")
    assert answer(occupancy("--check", "--json"))["checked_keyframes"] == 4
    occupancy("--check", "--out", tmp_path / "empty", expect=2)
    assert "protoocc prepare" in occupancy.err  # type: ignore[attr-defined]
