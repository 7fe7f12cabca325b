"""Nothing is packed, trained on or called done that does not belong together: every link of the chain, by itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.lineage import check_packed
from pipelines.masks import SeedsConfig, make_masks
from pipelines.occupancy import Occ3dConfig, make_occupancy
from pipelines.pack import PackConfig, pack
from pipelines.prepare import prepare
from pipelines.stage import Runtime
from pipelines.status import stage_rows
from pipelines.verify import verify_stages
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError, StageError
from schemas.workfolder import WorkFolder
from tests.conftest import SMALL_GRID
from tests.pipelines.world_edits import link_tree, replace_file

Change = Callable[[DatasetSpec], DatasetSpec]


@pytest.fixture
def made(world_dataset: DatasetSpec, packed: Path, world: Path, tmp_path: Path) -> DatasetSpec:
    """A copy of the finished stages and of the raw data."""
    shutil.copytree(packed.parent, tmp_path / "work")
    link_tree(world, tmp_path / "world")
    return world_dataset.model_copy(update={"root": tmp_path / "world", "work": tmp_path / "work"})


def changed(field: str, value: Callable[[Any], Any]) -> Change:
    return lambda dataset: dataset.model_copy(update={field: value(getattr(dataset, field))})


def part(**values: Any) -> Callable[[Any], Any]:
    return lambda old: old.model_copy(update=values)


CHANGES = {
    "splits": changed("splits", lambda old: {"train": old["val"], "val": old["train"]}),
    "cameras": changed("cameras", lambda old: tuple(reversed(old))),
    "crop": changed("image", part(crop=(0, 0, 200, 96))),
    "size": changed("image", part(resize=(400, 225), crop=(0, 0, 400, 208))),
    "grid": changed("grid", part(minimum_m=(-39.8, -40.0, -1.0))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_pack_refuses_stores_of_another_entry(name: str, made: DatasetSpec, sync_runtime: Runtime) -> None:
    """All of these were packed without a word, as images of one camera with the matrices of another."""
    with pytest.raises(ConfigError, match=r"made from something else .*(?s:.*)Run again, in this order:\n"):
        pack(CHANGES[name](made), made.work, PackConfig(), replace(sync_runtime, overwrite=True))


@pytest.mark.parametrize(
    "name", ["splits", *(pytest.param(name, marks=pytest.mark.slow) for name in CHANGES if name != "splits")]
)
def test_pack_refuses_while_only_prepare_was_run_again(name: str, made: DatasetSpec, sync_runtime: Runtime) -> None:
    """Splits changed and records made again gave labels and masks of other samples, 6 of 6."""
    dataset, again = CHANGES[name](made), replace(sync_runtime, overwrite=True)
    prepare(dataset, made.work, again)
    with pytest.raises(ConfigError) as raised:
        pack(dataset, made.work, PackConfig(), again)
    assert "occupancy" in str(raised.value) or "masks" in str(raised.value)
    make_occupancy(dataset, made.work, Occ3dConfig(), again)
    make_masks(dataset, made.work, SeedsConfig(), again)
    pack(dataset, made.work, PackConfig(), again)
    check_packed(WorkFolder(made.work).shards, dataset)
    verify_stages([row.folder for row in stage_rows(made.work, "tiny")], dataset)


@pytest.mark.parametrize("name", CHANGES)
def test_training_refuses_shards_of_another_entry(name: str, made: DatasetSpec) -> None:
    shards = WorkFolder(made.work).shards
    check_packed(shards, made)
    with pytest.raises(ConfigError, match=r"protoocc pack .*--overwrite"):
        check_packed(shards, CHANGES[name](made))


def test_shards_that_travel_alone_are_taken(made: DatasetSpec) -> None:
    alone = made.work.parent / "elsewhere"
    WorkFolder(made.work).shards.rename(alone)
    check_packed(alone, None)


def test_shards_beside_other_stores_are_refused(made: DatasetSpec, sync_runtime: Runtime) -> None:
    dataset = CHANGES["splits"](made)
    prepare(dataset, made.work, replace(sync_runtime, overwrite=True))
    with pytest.raises(ConfigError, match="its input records has changed since"):
        check_packed(WorkFolder(made.work).shards, None)


def test_finished_shards_are_done_and_stay_so(made: DatasetSpec, sync_runtime: Runtime) -> None:
    """The shards' manifest holds its own `dataset`; status took it for the entry and called them outdated."""
    assert {row.state for row in stage_rows(made.work, "tiny", dataset=made)[:-1]} == {"done"}
    assert pack(made, made.work, PackConfig(), sync_runtime).skipped


RAW = {
    "image": "samples/CAM_FRONT/*.jpg",
    "sweep": "sweeps/LIDAR_TOP/*.bin",
    "label": "gts/*/*/labels.npz",
}


@pytest.mark.parametrize("keeps_time", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RAW)
def test_raw_file_that_was_replaced(name: str, keeps_time: bool, made: DatasetSpec, sync_runtime: Runtime) -> None:
    """Same size, other contents: found by the time, or by --check-inputs where even that is the same."""
    path = min(made.root.glob(RAW[name]))
    data, status = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    replace_file(path, bytes(data))
    if keeps_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    runtime = replace(sync_runtime, check_inputs=keeps_time)
    with pytest.raises(ConfigError, match="same size, other contents than when it was read"):
        (pack if name != "sweep" else _lidar_labels_anew)(made, made.work, PackConfig(), runtime)


def _lidar_labels_anew(dataset: DatasetSpec, work: Path, config: PackConfig, runtime: Runtime) -> None:
    """Sweeps decide labels that are made from them, and nothing else."""
    from pipelines.occupancy import LidarConfig

    path = min(dataset.root.glob(RAW["sweep"]))
    damaged = path.read_bytes()
    status = path.stat()
    replace_file(path, _flip(damaged))
    dataset = dataset.model_copy(update={"grid": SMALL_GRID})
    make_occupancy(dataset, work, LidarConfig(), replace(runtime, overwrite=True, check_inputs=False))
    replace_file(path, damaged)
    if runtime.check_inputs:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    make_occupancy(dataset, work, LidarConfig(), runtime)


def _flip(data: bytes) -> bytes:
    values = bytearray(data)
    values[len(values) // 2] ^= 1
    return bytes(values)


def test_sweeps_that_arrive_later_are_seen(made: DatasetSpec, sync_runtime: Runtime) -> None:
    """They were no input of records, so a rerun was skipped and labels were made from keyframes alone."""
    shutil.move(made.root / "sweeps", made.root / "later")
    fresh = made.model_copy(update={"work": made.work.parent / "fresh"})
    prepare(fresh, fresh.work, replace(sync_runtime, on_error="drop"))
    shutil.move(made.root / "later", made.root / "sweeps")
    with pytest.raises(ConfigError, match=r"protoocc prepare .*--overwrite"):
        prepare(fresh, fresh.work, sync_runtime)
    with pytest.raises(ConfigError, match=r"protoocc prepare .*--overwrite"):
        make_occupancy(fresh, fresh.work, Occ3dConfig(), sync_runtime)


DAMAGE: dict[str, tuple[str, str]] = {
    "labels": ("occupancy.zarr/semantics/c/1/0/0/0", "protoocc occupancy"),
    "masks": ("masks-seeds.zarr/segment_id/c/0/0/0/0", "protoocc masks"),
    "matrices": ("geometry.zarr/camera_from_ego/c/0/0/0/0", "protoocc prepare"),
}


@pytest.mark.parametrize("how", ["gone", "flipped"])
@pytest.mark.parametrize("name", DAMAGE)
def test_chunk_behind_its_marker(name: str, how: str, made: DatasetSpec, sync_runtime: Runtime) -> None:
    """A chunk that is gone reads as fill values, "nobody knows" or "not seen", and was trained on."""
    relative, command = DAMAGE[name]
    path = made.work / relative
    data = path.read_bytes()
    path.unlink()
    if how == "flipped":
        path.write_bytes(_flip(data))
    with pytest.raises(StageError, match=f"{path.name} is gone or damaged.*{command}"):
        pack(made, made.work, PackConfig(masks="seeds", jpeg_quality=90), replace(sync_runtime, overwrite=True))
    with pytest.raises(DataError, match=rf"{relative} is gone or damaged\. Remove .* to make unit .* again"):
        verify_stages([row.folder for row in stage_rows(made.work, "tiny")], made)


@pytest.mark.parametrize("relative", ["shards/train-00000.tar", "occupancy.zarr/checksums.npy", "records/index.jsonl"])
def test_verify_finds_other_files(relative: str, made: DatasetSpec) -> None:
    path = made.work / relative
    path.write_bytes(_flip(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{path.name}(?s:.*)(Run|run) `protoocc "):
        verify_stages([row.folder for row in stage_rows(made.work, "tiny")], made)


def test_tar_of_a_finished_unit_is_made_again(made: DatasetSpec, sync_runtime: Runtime) -> None:
    tar = made.work / "shards/val-00000.tar"
    data = tar.read_bytes()
    tar.unlink()
    pack(made, made.work, PackConfig(), sync_runtime)
    assert tar.read_bytes() == data


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"stage": 3}'])
@pytest.mark.parametrize("name", ["plan.json", "manifest.json"])
@pytest.mark.parametrize("stage", ["records", "occupancy.zarr", "shards"])
def test_damaged_plan_or_manifest(stage: str, name: str, text: str, made: DatasetSpec, sync_runtime: Runtime) -> None:
    (made.work / stage / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name} is damaged(?s:.*)--overwrite"):
        verify_stages([made.work / stage], made)
    with pytest.raises(DataError, match=rf"{name} is damaged(?s:.*)--overwrite"):
        pack(made, made.work, PackConfig(), sync_runtime)
