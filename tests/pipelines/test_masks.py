"""The masks stage on the tiny generated world."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.images import read_image
from pipelines.masks import SeedsConfig, make_masks
from pipelines.masks.label_map import connected_regions
from pipelines.masks.seeds import SeedsGenerator
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime, read_manifest
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import ConfigError, DataError, SetupError, StageError
from schemas.images import ImageSpec
from schemas.network_images import resize_and_crop
from schemas.records import read_index, read_records
from schemas.store import NO_SEGMENT
from tests.folders import files_below

SEEDS = SeedsConfig()


@pytest.fixture(scope="module")
def masked(prepared: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path_factory: object) -> Path:
    """A work folder of its own with finished SEEDS masks."""
    work = tmp_path_factory.mktemp("masked")  # type: ignore[attr-defined]
    shutil.copytree(prepared / "records", work / "records")
    make_masks(world_dataset, work, SEEDS, sync_runtime)
    return work


@pytest.fixture
def work(prepared: Path, tmp_path: Path) -> Path:
    """A work folder of its own with finished records and no masks."""
    shutil.copytree(prepared / "records", tmp_path / "work/records")
    return tmp_path / "work"


def test_store_holds_ids_of_every_image(masked: Path) -> None:
    store = open_store(masked / "masks-seeds.zarr", "masks")
    ids, counts = store["segment_id"][:], store["segment_count"][:]
    assert (ids.shape, ids.dtype) == ((4, 6, 104, 200), np.uint16)
    assert (counts == 299).all()
    assert ids.max() <= 298
    # 8 of 112 rows are cropped away, and with them at most a tenth of the segments
    assert min(len(np.unique(image)) for record in ids for image in record) > 260
    assert read_manifest(masked / "masks-seeds.zarr").counts == {
        "images": 24.0,
        "segments": 24 * 299.0,
        "one_segment": 0.0,
        "uncovered": 0.0,
        "outside_splits": 0.0,
    }


def test_segments_lie_on_the_network_image(masked: Path, world_dataset: DatasetSpec) -> None:
    """Segment means explain most of the colour of the very image that the network sees; a shifted one far less."""
    record = read_records(masked / "records", read_index(masked / "records"))[0]
    image = resize_and_crop(
        read_image(world_dataset.root / record.cameras["CAM_FRONT"].path, record.token), world_dataset.image
    )
    ids = open_store(masked / "masks-seeds.zarr", "masks")["segment_id"][0, 0]
    assert explained(image, ids) > explained(image, np.roll(ids, 4, axis=0)) + 0.02
    assert explained(image, ids) > explained(image, np.roll(ids, 4, axis=1)) + 0.02


def explained(image: np.ndarray, ids: np.ndarray) -> float:
    """Share of the grey variance that lies between segments."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float64).ravel()
    labels = ids.ravel().astype(np.int64)
    counts = np.maximum(np.bincount(labels), 1)
    means = np.bincount(labels, grey) / counts
    return float(1 - np.mean((grey - means[labels]) ** 2) / grey.var())


def test_threads_write_the_same_bytes(masked: Path, work: Path, world_dataset: DatasetSpec) -> None:
    make_masks(world_dataset, work, SEEDS, Runtime(scheduler=Scheduler(kind="threads", workers=2)))
    assert files_below(work / "masks-seeds.zarr") == files_below(masked / "masks-seeds.zarr")


def test_killed_unit_ends_in_the_same_bytes(
    masked: Path, work: Path, world_dataset: DatasetSpec, sync_runtime: Runtime
) -> None:
    store = work / "masks-seeds.zarr"
    shutil.copytree(masked / "masks-seeds.zarr", store)
    (store / "manifest.json").unlink()
    for marker in (store / "units").iterdir():
        marker.unlink()
    shutil.rmtree(store / "segment_id/c/2")
    (store / "segment_id/c/1/0/0/0.0a1b.partial").write_bytes(b"half")
    make_masks(world_dataset, work, SEEDS, sync_runtime)
    assert files_below(store) == files_below(masked / "masks-seeds.zarr")


def test_changed_settings_are_refused(masked: Path, world_dataset: DatasetSpec, sync_runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match="config.settings.segments: was 299, now 91"):
        make_masks(world_dataset, masked, SeedsConfig(segments=91), sync_runtime)
    cropped = ImageSpec(resize=(200, 112), crop=(0, 0, 200, 104))
    with pytest.raises(ConfigError, match=r"dataset.image.crop: was \[0, 8, 200, 104\], now \[0, 0, 200, 104\]"):
        make_masks(world_dataset.model_copy(update={"image": cropped}), masked, SEEDS, sync_runtime)


def test_rows_outside_splits_stay_empty(world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path) -> None:
    from pipelines.prepare import prepare

    splits = {**world_dataset.splits, "train": SplitSpec(scenes=("synth-0000",), limit=1)}
    dataset = world_dataset.model_copy(update={"splits": splits})
    prepare(dataset, tmp_path, sync_runtime)
    summary = make_masks(dataset, tmp_path, SEEDS, sync_runtime)
    assert (summary.done, summary.dropped, summary.counts["outside_splits"]) == (3, {}, 1.0)
    store = open_store(tmp_path / "masks-seeds.zarr", "masks")
    assert (store["segment_id"][1] == NO_SEGMENT).all() and (store["segment_count"][1] == 0).all()
    assert (store["segment_id"][2] != NO_SEGMENT).all()


@pytest.mark.parametrize("keep_bytes", [None, 0, pytest.param(500, marks=pytest.mark.slow), -300, "a folder"])
def test_bad_image_fails_or_is_dropped(
    keep_bytes: int | str | None, work: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    record = read_records(work / "records", read_index(work / "records"))[2]
    path = tmp_path / "root" / record.cameras["CAM_BACK_LEFT"].path
    shutil.copytree(world_dataset.root / "samples", tmp_path / "root/samples")
    data = path.read_bytes()
    path.unlink()
    if isinstance(keep_bytes, str):
        path.mkdir()
    elif keep_bytes is not None:
        path.write_bytes(data[:keep_bytes])
    dataset = world_dataset.model_copy(update={"root": tmp_path / "root"})
    with pytest.raises(StageError, match=f"sample {record.token}: image .*{path.name}"):
        make_masks(dataset, work, SEEDS, sync_runtime)
    summary = make_masks(dataset, work, SEEDS, replace(sync_runtime, on_error="drop", overwrite=True))
    assert summary.done == 3
    assert list(summary.dropped) == [record.token]
    assert (open_store(work / "masks-seeds.zarr", "masks")["segment_id"][2] == NO_SEGMENT).all()


def test_records_must_be_finished(world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Run `protoocc prepare` first"):
        make_masks(world_dataset, tmp_path, SEEDS, sync_runtime)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("segments", [299, 91])
def test_seeds_counts_of_the_paper(segments: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    image = cv2.resize(noise, (1600, 900), interpolation=cv2.INTER_CUBIC)
    (labels,) = SeedsGenerator(SeedsConfig(segments=segments)).generate([image])  # type: ignore[arg-type]
    assert labels.shape == (450, 800)
    np.testing.assert_array_equal(np.unique(labels), np.arange(segments))


def test_seeds_do_not_remember_the_last_image() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 256, (90, 160, 3), dtype=np.uint8) for _ in range(2))
    generator = SeedsGenerator(SEEDS)
    (fresh,) = generator.generate([first])
    np.testing.assert_array_equal(generator.generate([second, first])[1], fresh)


def test_seeds_follow_an_edge() -> None:
    """Left half dark, right half bright, edge at column 410: no segment holds more than a sliver of both."""
    image = np.zeros((450, 800, 3), np.uint8)
    image[:, 410:] = 220
    (labels,) = SeedsGenerator(SEEDS).generate([image])
    right = np.bincount(labels[:, 410:].ravel(), minlength=299)
    left = np.bincount(labels[:, :410].ravel(), minlength=299)
    assert np.minimum(left, right).sum() / labels.size < 0.005


def test_missing_ximgproc_names_the_repair(
    work: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(SetupError, match="pip install --force-reinstall --no-deps 'opencv-contrib-python"):
        make_masks(world_dataset, work, SEEDS, sync_runtime)
    assert not (work / "masks-seeds.zarr").exists()


def test_real_images_have_299_segments(real_nuscenes: Path, tmp_path: Path, sync_runtime: Runtime) -> None:
    from pipelines.prepare import prepare

    dataset = DatasetSpec(
        name="real",
        format="nuscenes",
        root=real_nuscenes,
        version="v1.0-mini",
        work=tmp_path,
        image=ImageSpec(resize=(800, 450), crop=(0, 18, 800, 432)),
        splits={"val": SplitSpec(scenes=("scene-0061",))},
    )
    prepare(dataset, tmp_path, sync_runtime)
    make_masks(dataset, tmp_path, SEEDS, sync_runtime)
    store = open_store(tmp_path / "masks-seeds.zarr", "masks")
    assert store["segment_id"].shape == (1, 6, 432, 800)
    assert (store["segment_count"][:] == 299).all()


def test_connected_superpixels_are_pieces_of_the_others() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    (whole,) = SeedsGenerator(SeedsConfig(segments=91)).generate([image])
    (pieces,) = SeedsGenerator(SeedsConfig(segments=91, connected=True)).generate([image])
    np.testing.assert_array_equal(pieces, connected_regions(whole))
    assert SeedsConfig().model_dump().keys() == {"segments", "iterations"}, "older stores can be taken up again"
