"""Shards: what is inside, where it lies, the same bytes again, and the errors on the way."""

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cli.label_counts import describe_counts
from pipelines.occupancy import Occ3dConfig, make_occupancy
from pipelines.pack import PackConfig, _plan_shards, pack
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from protoocc.data import EpochSampler, ShardDataset, make_loader, open_shards
from schemas.errors import ConfigError, DataError, StageError
from schemas.images import ImageSpec
from schemas.network_images import resize_and_crop
from schemas.records import read_index, read_records
from schemas.shards import Manifest, ShardIndex
from tests.folders import hashes_below


@pytest.fixture
def work(stored: Path, tmp_path: Path) -> Path:
    """A copy of the stored stages without shards."""
    copy = tmp_path / "work"
    shutil.copytree(stored, copy, ignore=shutil.ignore_patterns("shards*"))
    return copy


def test_files_that_a_run_leaves(packed):
    names = {"README.md", "SHA256SUMS", "croissant.json", "manifest.json", "plan.json"}
    names |= {f"{split}-00000.{kind}" for split in ("train", "val") for kind in ("tar", "index.json", "idx")}
    names |= {f"units/{split}-00000.json" for split in ("train", "val")}
    assert set(hashes_below(packed)) == names


def test_manifest_is_a_wids_index_with_true_checksums(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    assert manifest["__kind__"] == "wids-shard-index-v1"
    assert [shard["split"] for shard in manifest["shardlist"]] == ["train", "val"]
    for shard in manifest["shardlist"]:
        data = (packed / shard["url"]).read_bytes()
        assert (len(data), shard["nsamples"]) == (shard["filesize"], 2)
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        assert hashlib.md5(data).hexdigest() == shard["md5sum"]


def test_index_offsets_point_at_the_members(packed):
    index = json.loads((packed / "val-00000.index.json").read_text())
    data = (packed / "val-00000.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {info.name: (info.offset_data, info.size) for info in tar.getmembers()}
        assert {info.mtime for info in tar.getmembers()} == {0}
    indexed = {f"{s['key']}.{ext}": tuple(place) for s in index["samples"] for ext, place in s["members"].items()}
    assert indexed == members


def test_members_hold_what_the_stores_hold(packed, stored, world_dataset):
    records = read_records(stored / "records", read_index(stored / "records"))
    occupancy = open_store(stored / "occupancy.zarr", "occupancy")
    segments = open_store(stored / "masks-seeds.zarr", "masks")["segment_id"]
    keyframe = ShardDataset(open_shards(packed, "val"))[1]
    row = next(i for i, record in enumerate(records) if record.token == keyframe.token)
    assert (keyframe.semantics == occupancy["semantics"][row]).all()
    assert (keyframe.mask_camera == occupancy["mask_camera"][row]).all()
    assert (keyframe.segment_id == segments[row]).all()
    assert keyframe.ego_from_lidar is not None
    assert (keyframe.ego_from_lidar == records[row].keyframe_sweep.ego_from_lidar.matrix).all()
    source = cv2.imread(str(world_dataset.root / records[row].cameras["CAM_BACK"].path))
    expected = resize_and_crop(source, world_dataset.image)[..., ::-1].astype(int)
    assert np.abs(keyframe.images[3].astype(int) - expected).mean() < 4  # JPEG at quality 95


def test_every_sample_once_per_epoch_in_another_order(packed):
    dataset = ShardDataset(open_shards(packed, "train"))
    sampler = EpochSampler(len(dataset), 1, seed=3)
    loader = iter(make_loader(dataset, sampler, workers=0, pin_memory=False))
    epochs = [[next(loader).tokens[0] for _ in range(2)] for _ in range(6)]
    assert all(len(set(epoch)) == 2 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 2


def test_same_bytes_again_and_with_workers(world_dataset, work, packed):
    pack(world_dataset, work, PackConfig(), Runtime(scheduler=Scheduler(kind="threads", workers=2)))
    assert hashes_below(work / "shards") == hashes_below(packed)


def test_killed_run_continues_to_the_same_bytes(world_dataset, work, packed, sync_runtime):
    pack(world_dataset, work, PackConfig(), sync_runtime)
    for name in ("manifest.json", "units/val-00000.json"):
        (work / "shards" / name).unlink()
    (work / "shards" / "val-00000.tar").write_bytes(b"half")
    (work / "shards" / "val-00000.tar.partial").write_bytes(b"rest")
    pack(world_dataset, work, PackConfig(), sync_runtime)
    assert hashes_below(work / "shards") == hashes_below(packed)


def test_finished_run_is_not_repeated(world_dataset, stored, packed, sync_runtime):
    assert pack(world_dataset, stored, PackConfig(), sync_runtime).skipped


def test_changed_configuration_is_refused_by_name(world_dataset, stored, packed, sync_runtime):
    with pytest.raises(ConfigError, match=r"config.jpeg_quality: was 95, now 80"):
        pack(world_dataset, stored, PackConfig(jpeg_quality=80), sync_runtime)


def test_missing_masks_name_the_command(world_dataset, stored, sync_runtime):
    with pytest.raises(ConfigError, match="protoocc masks --generator sam"):
        pack(world_dataset, stored, PackConfig(masks="sam"), sync_runtime)


def test_unfinished_input_is_refused(world_dataset, work, sync_runtime):
    (work / "occupancy.zarr/manifest.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        pack(world_dataset, work, PackConfig(), sync_runtime)


def test_missing_image_names_file_and_sample(world_dataset, work, sync_runtime, tmp_path):
    moved = world_dataset.model_copy(update={"root": tmp_path / "elsewhere"})
    with pytest.raises(StageError, match="CAM_FRONT.*is missing"):
        pack(moved, work, PackConfig(), sync_runtime)
    assert not list((work / "shards").glob("*.tar"))


def test_scene_never_straddles_shards(world_dataset, stored):
    entries = read_index(stored / "records")
    one_split = world_dataset.model_copy(update={"splits": {"all": world_dataset.splits["train"]}})
    marked = [entry._replace(splits=("all",)) for entry in entries]
    plans = _plan_shards(one_split, marked, {}, 1)
    assert [(plan.name, plan.size, [entry.row for entry in plan.entries]) for plan in plans] == [
        ("all-00000", 2, [0, 1]),  # scene 0 has two keyframes, more than one per shard
        ("all-00001", 2, [2, 3]),
    ]
    (rest,) = _plan_shards(one_split, marked, {marked[1].token: "broken"}, 9)
    assert [entry.row for entry in rest.entries] == [0, 2, 3]


def test_manifest_and_indexes_are_those_of_the_shared_models(packed, world_dataset):
    manifest = Manifest.model_validate_json((packed / "manifest.json").read_bytes())
    assert manifest.dataset.grid == world_dataset.grid
    assert manifest.dataset.classes == world_dataset.classes
    for shard in manifest.shardlist:
        index = ShardIndex.model_validate_json((packed / shard.index).read_bytes())
        assert (index.shard, index.filesize, index.sha256) == (shard.url, shard.filesize, shard.sha256)
        assert {sample.scene for sample in index.samples} == set(shard.scenes)
        assert all(set(sample.members) == set(manifest.extensions) for sample in index.samples)


def test_images_of_single_cameras_are_part_of_the_plan(world_dataset, stored, sync_runtime):
    wide = ImageSpec(resize=(200, 112), crop=(0, 0, 200, 104))
    other = world_dataset.model_copy(update={"camera_images": {"CAM_BACK": wide}})
    with pytest.raises(ConfigError, match=r"masks-seeds.zarr: camera_images.CAM_BACK.crop: was None, now \[0, 0, 200"):
        pack(other, stored, PackConfig(), sync_runtime)


def test_resize_then_crop_by_hand():
    image = np.zeros((4, 8, 3), np.uint8)
    image[2:, 4:] = 100  # after halving: rows 1, columns 2..3
    small = resize_and_crop(image, ImageSpec(resize=(4, 2), crop=(1, 0, 3, 2)))
    assert small[..., 0].tolist() == [[0, 0, 0], [0, 100, 100]]


def test_keyframes_that_teach_nothing_are_counted(work, world_dataset, tmp_path, sync_runtime):
    """One keyframe of unknown class alone, one that no camera sees: `occupancy` counts them, and `pack` again."""
    root = tmp_path / "root"
    shutil.copytree(world_dataset.root, root, ignore=shutil.ignore_patterns("truth"))
    dataset = world_dataset.model_copy(update={"root": root})
    files = sorted(root.glob("gts/synth-0000/*/labels.npz"))
    for path, change in zip(files, ({"semantics": 255}, {"mask_camera": 0}), strict=True):
        with np.load(path) as file:
            arrays = dict(file) | {name: np.full_like(file[name], value) for name, value in change.items()}
        np.savez_compressed(path, **arrays)
    useless = {"keyframes_unknown": 1.0, "keyframes_unseen": 1.0}
    again = replace(sync_runtime, overwrite=True)
    assert useless.items() <= make_occupancy(dataset, work, Occ3dConfig(), again).counts.items()
    summary = pack(dataset, work, PackConfig(), sync_runtime)
    assert useless.items() <= summary.counts.items()
    assert [line.split(" ", 1)[0] for line in describe_counts(summary.counts)] == ["1", "1"]
