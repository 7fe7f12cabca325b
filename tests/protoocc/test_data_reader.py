from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from protoocc.data import DatasetInfo, EpochSampler, ShardDataset, collate, decode, make_loader, open_shards
from protoocc.data.clips import RecentViews
from protoocc.data.decode import Views
from schemas.errors import DataError

ROAD, CAR, FREE, IGNORED = 11, 4, 17, 255


def overwrite(folder: Path, extension: str, data: bytes) -> None:
    """Puts other bytes over the start of the second training sample's member."""
    index = json.loads((folder / "train-00000.index.json").read_text())
    offset, size = index["samples"][1]["members"][extension]
    tar = bytearray((folder / "train-00000.tar").read_bytes())
    tar[offset : offset + size] = data[:size].ljust(size, b"\0")
    (folder / "train-00000.tar").write_bytes(bytes(tar))


def test_keyframe_has_the_packed_values(shards: Path) -> None:
    keyframe = ShardDataset(open_shards(shards, "train"))[3]
    assert keyframe.token == "token-3"
    assert keyframe.images.shape == (2, 32, 64, 3)
    # OpenCV wrote BGR (20..39, 30..49, 200..219) for sample 3, camera 0: red is the last one.
    assert np.allclose(keyframe.images[0].mean((0, 1)), (209.5, 39.5, 29.5), atol=3)
    assert keyframe.segment_id is not None
    # Row 0 of the second camera is pixel 32 * 64 = 2048 of the stack: 2048 // 512 % 8 + 300 = 304.
    assert keyframe.segment_id[1, 0, 0] == 304
    # Sample 3: car at (4 + 3 % 4, 2 + 3 % 5, 1) = (7, 5, 1).
    assert keyframe.semantics[7, 5, 1] == CAR
    assert keyframe.semantics[0, 0].tolist() == [ROAD, FREE, FREE, IGNORED]
    assert keyframe.mask_camera[:3, 0, 0].tolist() == [0, 0, 1]
    assert keyframe.image_from_camera[0, 0].tolist() == [30.0, 0.0, 32.0]


def test_place_of_the_lidar_is_read_where_it_is_told(shards: Path, shards_without_lidar: Path) -> None:
    for folder, place in ((shards, [0.5, 0.0, 1.75]), (shards_without_lidar, None)):
        dataset = ShardDataset(open_shards(folder, "train"))
        global_from_ego, ego_from_lidar = dataset.poses(3)
        assert global_from_ego[:3, 3].tolist() == [6.0, 0.0, 0.0]
        assert (None if ego_from_lidar is None else ego_from_lidar[:3, 3].tolist()) == place
        assert (dataset[3].ego_from_lidar is None) == (place is None)


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        ([[1, 0, 0, 2e3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "ego_from_lidar holds a place 2000 m away"),
        ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], "ego_from_lidar holds no rotation"),
        ([1, 2], r"ego_from_lidar is int64 \(2,\), expected finite numbers of shape \(4, 4\)"),
    ],
)
def test_impossible_place_of_the_lidar_is_refused(own_shards: Path, pose: object, message: str) -> None:
    index = json.loads((own_shards / "train-00000.index.json").read_text())
    offset, size = index["samples"][1]["members"]["meta.json"]
    meta = json.loads((own_shards / "train-00000.tar").read_bytes()[offset : offset + size])
    text = json.dumps({**meta, "ego_from_lidar": pose}, separators=(",", ":")).ljust(size).encode()
    overwrite(own_shards, "meta.json", text)
    dataset = ShardDataset(open_shards(own_shards, "train"))
    for read in (dataset.poses, dataset.__getitem__):
        with pytest.raises(DataError, match=rf"train-00000.tar, sample scene-train-00000-0001.*{message}"):
            read(1)


def test_collate_gives_the_batch_types(shards: Path) -> None:
    dataset = ShardDataset(open_shards(shards, "train"))
    batch = collate([dataset[0], dataset[4]])
    assert batch.tokens == ["token-0", "token-4"]
    assert batch.images.shape == (2, 2, 3, 32, 64)
    assert torch.equal(batch.images[1, 0, :, 5, 6], torch.from_numpy(dataset[4].images[0, 5, 6]))
    assert batch.semantics is not None and batch.semantics.dtype == torch.uint8
    assert int(batch.semantics[0].max()) == IGNORED
    assert batch.mask_camera is not None and batch.mask_camera.dtype == torch.bool
    assert batch.segment_id is not None and batch.segment_id.dtype == torch.int32
    assert int(batch.segment_id.max()) == 307
    with pytest.raises(DataError, match="at least one"):
        collate([])


def test_shards_without_masks_have_no_segments(own_shards: Path) -> None:
    manifest = json.loads((own_shards / "manifest.json").read_text())
    (own_shards / "manifest.json").write_text(json.dumps({**manifest, "masks": None}))
    keyframe = ShardDataset(open_shards(own_shards, "train"))[0]
    assert keyframe.segment_id is None
    assert collate([keyframe]).segment_id is None


@pytest.mark.parametrize(
    ("extension", "message"),
    [
        ("cam_back.jpg", "CAM_BACK is damaged: no JPEG"),
        ("masks.png", "masks.png is damaged: no PNG"),
        ("occupancy.npz", "occupancy.npz is damaged"),
        ("meta.json", "meta.json is damaged"),
    ],
)
def test_damaged_member_names_shard_and_sample(own_shards: Path, extension: str, message: str) -> None:
    overwrite(own_shards, extension, b"no such file")
    dataset = ShardDataset(open_shards(own_shards, "train"))
    with pytest.raises(DataError, match=rf"train-00000.tar, sample scene-train-00000-0001.*{message}"):
        dataset[1]
    assert dataset[2].token == "token-2"


def test_pickled_array_is_refused(own_shards: Path) -> None:
    data = io.BytesIO()
    np.savez(data, semantics=np.array([{}], dtype=object))
    overwrite(own_shards, "occupancy.npz", data.getvalue())
    with pytest.raises(DataError, match=r"'semantics' is damaged: .* \(objects and structures are refused\)"):
        ShardDataset(open_shards(own_shards, "train"))[1]


def test_meta_of_another_sample_is_refused(own_shards: Path) -> None:
    overwrite(own_shards, "meta.json", b'{"token": "x", "image_from_camera": [], "camera_from_ego": []}'.ljust(9999))
    with pytest.raises(DataError, match="has token 'x', the index says 'token-1'"):
        ShardDataset(open_shards(own_shards, "train"))[1]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_shape", [32, 60], r"image is \(32, 64\) \(H, W\), the manifest says \(32, 60\)"),
        ("grid", {"minimum_m": [0, 0, 0], "voxel_size_m": 1, "shape": [8, 8, 5]}, r"\(8, 8, 4\), the manifest says"),
        ("cameras", ["CAM_FRONT"], r"has cameras \['CAM_FRONT', 'CAM_BACK'\], the manifest says \['CAM_FRONT'\]"),
        ("cameras", ["CAM_BACK", "CAM_FRONT"], r"has cameras .*, the manifest says \['CAM_BACK', 'CAM_FRONT'\]"),
    ],
)
def test_shapes_must_be_those_of_the_manifest(own_shards: Path, field: str, value: object, message: str) -> None:
    manifest = json.loads((own_shards / "manifest.json").read_text())
    manifest["dataset"][field] = value
    (own_shards / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=message):
        ShardDataset(open_shards(own_shards, "train"))[0]


def test_shard_that_shrinks_while_open_is_an_error(own_shards: Path) -> None:
    dataset = ShardDataset(open_shards(own_shards, "train"))
    (own_shards / "train-00001.tar").write_bytes(b"short")
    with pytest.raises(DataError, match="ends after 0 of"):
        dataset[4]


def test_closed_shards_are_opened_again(own_shards: Path) -> None:
    dataset = ShardDataset(open_shards(own_shards, "train"))
    assert dataset[0].token == "token-0"
    dataset.close()
    assert dataset[0].token == "token-0"
    dataset.close()
    (own_shards / "train-00000.tar").unlink()
    with pytest.raises(DataError, match="cannot open"):
        dataset[0]


def _read_token(dataset: ShardDataset, index: int) -> str:
    return dataset[index].token


def test_open_dataset_works_after_fork_and_pickling(shards: Path) -> None:
    dataset = ShardDataset(open_shards(shards, "train"))
    dataset[0]
    assert pickle.loads(pickle.dumps(dataset))[1].token == "token-1"
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(_read_token, [(dataset, i) for i in range(5)]) == [f"token-{i}" for i in range(5)]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_reads_epochs_in_the_sampler_order(shards: Path, workers: int) -> None:
    sampler = EpochSampler(5, 2, seed=1)
    order = [f"token-{i % 5}" for batch, _ in zip(EpochSampler(5, 2, seed=1), range(5), strict=False) for i in batch]
    before = torch.get_rng_state()
    loader = make_loader(ShardDataset(open_shards(shards, "train")), sampler, workers=workers, pin_memory=False)
    tokens = [token for batch, _ in zip(loader, range(5), strict=False) for token in batch.tokens]
    assert tokens == order
    assert sorted(tokens[:5]) == sorted(tokens[5:]) == [f"token-{i}" for i in range(5)]
    assert torch.equal(before, torch.get_rng_state())


def test_no_image_of_a_clip_is_decoded_twice_in_a_row(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in order of time each image is decoded once, whatever the number of frames."""
    decoded: list[str] = []

    def count(where: str, data: bytes, dataset: DatasetInfo, image: np.ndarray) -> None:
        decoded.append(where)
        decode_into(where, data, dataset, image)

    decode_into = decode._decode_into
    monkeypatch.setattr(decode, "_decode_into", count)
    dataset = ShardDataset(open_shards(shards, "train"), frames=4, interval=1)
    clips = [dataset[index] for index in range(len(dataset))]
    assert len(decoded) == len(set(decoded)) == len(dataset) * len(dataset.shards.dataset.cameras)
    again = ShardDataset(open_shards(shards, "train"), frames=4, interval=1)
    for index in reversed(range(len(dataset))):
        past = again[index].past
        assert past is not None and clips[index].past is not None
        np.testing.assert_array_equal(past.images, clips[index].past.images)


def test_few_keyframes_are_kept(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ShardDataset(open_shards(shards, "train"))
    recent, asked = RecentViews(2), list[int]()

    def read(index: int) -> Views:
        asked.append(index)
        return plain[index]

    for index in (0, 1, 0, 2, 1, 0):
        recent.get(index, read)
    assert asked == [0, 1, 2, 1, 0]
    monkeypatch.setattr("protoocc.data.clips.KEPT_BYTES", 10)
    recent.get(2, read)
    recent.get(2, read)
    assert asked[5:] == [2, 2]


def test_earlier_keyframes_come_with_their_motion(shards: Path) -> None:
    """Frame 2 of a scene reads 1 and 0; what lies before the start is frame 0 again."""
    dataset = ShardDataset(open_shards(shards, "train"), frames=4, interval=1)
    plain = ShardDataset(open_shards(shards, "train"))
    assert [dataset.earlier(index) for index in range(5)] == [[0, 0, 0], [0, 0, 0], [1, 0, 0], [3, 3, 3], [3, 3, 3]]
    keyframe = dataset[2]
    assert keyframe.past is not None
    for time, index in enumerate([1, 0, 0]):
        np.testing.assert_array_equal(keyframe.past.images[time], plain[index].images)
    # The vehicle drives 2 m along x from keyframe to keyframe.
    np.testing.assert_allclose(keyframe.past.past_from_ego[:, 0, 3], [2.0, 4.0, 4.0])
    batch = collate([keyframe])
    assert batch.past_images is not None
    assert batch.past_images.shape == (1, 3, 2, 3, 32, 64)
    first = dataset[0]
    assert first.past is not None
    np.testing.assert_array_equal(first.past.images[0], first.images)
    np.testing.assert_allclose(first.past.past_from_ego, np.broadcast_to(np.eye(4), (3, 4, 4)))


def test_every_fourth_keyframe(shards: Path) -> None:
    """With the default interval no keyframe of a scene of three has an earlier one."""
    dataset = ShardDataset(open_shards(shards, "train"), frames=2)
    assert [dataset.earlier(index) for index in range(5)] == [[0], [1], [2], [3], [4]]


def test_label_outside_the_class_table_names_shard_and_sample(own_shards: Path) -> None:
    data = io.BytesIO()
    volume = np.zeros((8, 8, 4), np.uint8)
    np.savez_compressed(data, semantics=np.full_like(volume, 40), mask_lidar=volume, mask_camera=volume)
    overwrite(own_shards, "occupancy.npz", data.getvalue())
    index = json.loads((own_shards / "train-00000.index.json").read_text())
    place = index["samples"][1]["members"]["occupancy.npz"]
    place[1] = len(data.getvalue())
    header = tarfile.TarInfo("scene-train-00000-0001.occupancy.npz")
    header.size = place[1]
    with (own_shards / "train-00000.tar").open("r+b") as tar:
        tar.seek(place[0] - tarfile.BLOCKSIZE)
        tar.write(header.tobuf(tarfile.USTAR_FORMAT))
    (own_shards / "train-00000.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"sample scene-train-00000-0001: 'semantics' holds class 40; .* 0..17 or 255"):
        ShardDataset(open_shards(own_shards, "train"))[1]
