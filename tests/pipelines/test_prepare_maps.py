"""Windows of maps: place and pixels by hand, maps without the vehicle, worlds without maps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.prepare import prepare
from pipelines.prepare.map_windows import REACH_M, Raster, cut_window, unpack_maps
from pipelines.prepare.source import MapImage
from pipelines.stage import Runtime
from schemas.datasets import DatasetSpec
from schemas.errors import StageError
from schemas.records import RECORDS_FILE, SampleRecord, read_index, read_records
from tests.pipelines.test_prepare_pose_jumps import keyframe
from tests.pipelines.test_prepare_source import GeneratedSource
from tests.pipelines.world_edits import TABLES, edit_table, link_tree


class OneMap(GeneratedSource):
    """A generated drive on a mask."""

    def __init__(self, dataset: DatasetSpec, path: Path, pixel_m: float) -> None:
        super().__init__(dataset, samples=1)
        self.image = MapImage(path, pixel_m)

    def map_image(self, scene: str) -> MapImage | None:
        return None if scene == "nowhere" else self.image


def place(record: SampleRecord, x_m: float, y_m: float) -> SampleRecord:
    pose = record.global_from_vehicle.model_copy(update={"translation_m": (x_m, y_m, 0.0)})
    return record.model_copy(update={"global_from_vehicle": pose})


def raster_of(image: Image.Image, folder: Path, dataset: DatasetSpec, pixel_m: float) -> Raster:
    image.save(folder / "mask.png")
    rasters = unpack_maps(OneMap(dataset, folder / "mask.png", pixel_m), ["drive", "nowhere"], folder)
    assert list(rasters) == ["drive"]
    return rasters["drive"]


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_window_by_hand(mode: str, world_dataset: DatasetSpec, tmp_path: Path) -> None:
    """A map of 500 x 300 m at 10 m per pixel; the vehicle stands at (201, 99) and (215, 99)."""
    pixels = np.random.default_rng(0).integers(0, 2, (30, 50), dtype=np.uint8) * 255
    raster = raster_of(Image.fromarray(pixels).convert(mode), tmp_path, world_dataset, 10.0)
    assert raster.size_px == (50, 30)
    window = cut_window(raster, [place(keyframe(0), 201.0, 99.0), place(keyframe(1), 215.0, 99.0)], tmp_path)
    # x: floor((201 - 120) / 10) = 8 to ceil((215 + 120) / 10) = 34; y: -3, cut to 0, to ceil((99 + 120) / 10) = 22
    assert window is not None and window.corner_m == (80.0, 0.0) and window.pixel_m == 10.0
    found = np.asarray(Image.open(tmp_path / window.path))
    assert found.dtype == bool
    assert np.array_equal(found, pixels[30 - 22 :, 8:34] > 0)


def test_grey_above_the_middle_is_driveable(world_dataset: DatasetSpec, tmp_path: Path) -> None:
    raster = raster_of(Image.fromarray(np.array([[127, 128]], np.uint8)), tmp_path, world_dataset, 100.0)
    window = cut_window(raster, [place(keyframe(0), 100.0, 50.0)], tmp_path)
    assert window is not None and np.asarray(Image.open(tmp_path / window.path)).tolist() == [[False, True]]


def test_no_window_where_the_vehicle_never_is(world_dataset: DatasetSpec, tmp_path: Path) -> None:
    raster = raster_of(Image.new("1", (100, 100), 1), tmp_path, world_dataset, 1.0)
    assert cut_window(raster, [place(keyframe(0), 100.0 + REACH_M, 50.0)], tmp_path) is None
    assert cut_window(raster, [place(keyframe(0), 99.0 + REACH_M, 50.0)], tmp_path) is not None


def test_each_map_is_decoded_once(world_dataset: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (10, 10), 1).save(tmp_path / "mask.png")
    opened: list[Path] = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda path: (opened.append(path), original(path))[1])
    rasters = unpack_maps(OneMap(world_dataset, tmp_path / "mask.png", 0.1), ["a", "b", "c"], tmp_path)
    assert len(rasters) == 3 and opened == [tmp_path / "mask.png"]


def test_windows_hold_the_pixels_of_the_mask(prepared: Path, world: Path) -> None:
    """Of the generated world: 0.1 m per pixel, its own mask per scene."""
    for record in read_records(prepared / "records", read_index(prepared / "records")):
        assert record.map_window is not None and record.map_window.pixel_m == 0.1
        window = np.asarray(Image.open(prepared / "records" / record.map_window.path))
        masks = [np.asarray(Image.open(path)) > 127 for path in sorted((world / "maps").glob("*.png"))]
        left, bottom = (round(value / 0.1) for value in record.map_window.corner_m)
        height, width = window.shape
        cuts = [mask[len(mask) - bottom - height : len(mask) - bottom, left : left + width] for mask in masks]
        assert 0 < window.mean() < 1 and any(np.array_equal(cut, window) for cut in cuts)


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def test_windows_belong_to_the_fingerprint(
    prepared: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    """Another map at the same place changes no record, but what later stages compare themselves with."""
    root = link_tree(world_dataset.root, tmp_path / "copy")
    for path in (root / "maps").glob("*.png"):
        image = np.asarray(Image.open(path))
        path.unlink()
        Image.fromarray(255 - image).save(path)
    prepare(world_dataset.model_copy(update={"root": root}), tmp_path / "work", sync_runtime)
    one, other = (folder / "records" / RECORDS_FILE for folder in (prepared, tmp_path / "work"))
    assert one.read_bytes() == other.read_bytes()
    manifests = [manifest_of(path.parent) for path in (one, other)]
    assert manifests[0]["sha256"] != manifests[1]["sha256"]
    assert manifests[0]["inputs"]["maps"] != manifests[1]["inputs"]["maps"]
    assert manifests[0]["inputs"]["tables"] == manifests[1]["inputs"]["tables"]


def remove_files(root: Path) -> None:
    for path in (root / "maps").glob("*.png"):
        path.unlink()


def empty_names(root: Path) -> None:
    edit_table(root / TABLES / "map.json", lambda rows: [row.update(filename="") for row in rows])


@pytest.mark.parametrize("remove", [remove_files, empty_names])
def test_a_world_without_maps(
    remove: object, prepared: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    root = link_tree(world_dataset.root, tmp_path / "copy")
    assert callable(remove)
    remove(root)
    summary = prepare(world_dataset.model_copy(update={"root": root}), tmp_path / "work", sync_runtime)
    assert summary.done == summary.counts["without_map"] == 4
    assert manifest_of(prepared / "records")["counts"]["without_map"] == 0
    records = read_records(tmp_path / "work/records", read_index(tmp_path / "work/records"))
    with_maps = read_records(prepared / "records", read_index(prepared / "records"))
    assert records == [record.model_copy(update={"map_window": None}) for record in with_maps]


def test_killed_between_scenes_gives_the_same_bytes(
    prepared: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    """The second scene lacks an image; with the image back, the rerun continues with the rasters of the first run."""
    root = link_tree(world_dataset.root, tmp_path / "copy")
    dataset = world_dataset.model_copy(update={"root": root})
    last = read_records(prepared / "records", read_index(prepared / "records"))[-1]
    image = root / last.cameras["CAM_BACK"].path
    image.unlink()
    with pytest.raises(StageError):
        prepare(dataset, tmp_path / "work", sync_runtime)
    assert (tmp_path / "work/records/rasters").is_dir()
    image.symlink_to(world_dataset.root / last.cameras["CAM_BACK"].path)
    prepare(dataset, tmp_path / "work", replace(sync_runtime, on_error="fail"))
    for path in ("samples.jsonl", "index.jsonl", "maps/synth-0000.png", "maps/synth-0001.png"):
        assert (tmp_path / "work/records" / path).read_bytes() == (prepared / "records" / path).read_bytes()
    assert not (tmp_path / "work/records/rasters").exists()
