"""Exact depth and classes of pixels, LiDAR points in images, and the stages that write them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.images import take_and_crop
from pipelines.lidar_depth import keyframe_pixels, project_to_pixels
from pipelines.pack import PackConfig, pack
from pipelines.pixel_truth import read_truth
from pipelines.pixels import PixelsConfig, make_pixels
from pipelines.points import read_points
from pipelines.stage import Runtime, StageSummary
from pipelines.zarr_io import StoreRows
from protoocc.data import ShardDataset, open_shards
from protoocc.pretrain.targets import PixelDataset
from schemas.classes import OCC3D
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError, StageError
from schemas.geometry import invert_rigid, project_points, transform_points
from schemas.images import ImageSpec
from schemas.pixels import decode_depth, encode_depth
from schemas.records import SampleRecord, read_index, read_records
from schemas.workfolder import WorkFolder


@pytest.fixture(scope="module")
def records(prepared: Path) -> list[SampleRecord]:
    folder = WorkFolder(prepared).records
    return read_records(folder, read_index(folder))


@pytest.fixture(scope="module")
def targets(world_dataset: DatasetSpec, prepared: Path, sync_runtime: Runtime) -> StageSummary:
    return make_pixels(world_dataset, prepared, PixelsConfig(), sync_runtime)


def test_depth_images_hold_centimetres() -> None:
    depth = np.array([[0.004, 0.006, 12.344, 655.35, 655.36, np.inf, 0.0]])
    assert encode_depth(depth).tolist() == [[0, 1, 1234, 65_535, 0, 0, 0]]
    assert decode_depth(encode_depth(depth))[0, 2] == pytest.approx(12.34)


def test_nearest_pixels_are_taken_whole() -> None:
    """8 x 4 pixels to 4 x 2: the middle of new pixel i is at 2 i + 1, the edge of old pixels 2 i and 2 i + 1."""
    image = np.arange(32, dtype=np.uint16).reshape(4, 8)
    taken = take_and_crop(image, ImageSpec(resize=(4, 2), crop=(1, 0, 3, 2)))
    assert taken.tolist() == [[11, 13, 15], [27, 29, 31]]
    with pytest.raises(DataError, match="does not hold the crop"):
        take_and_crop(image, ImageSpec(resize=None, crop=(0, 0, 9, 4)))


def test_exact_depth_agrees_with_the_lidar(world_dataset: DatasetSpec, records: list[SampleRecord]) -> None:
    """Points of still ground and walls land on pixels of their depth and class, but for edges and what hides them."""
    record = records[0]
    points = read_points(world_dataset, record.keyframe_sweep, record.token)
    points_ego = transform_points(record.keyframe_sweep.ego_from_lidar.matrix, points)
    for channel in world_dataset.cameras:
        classes, depth = read_truth(world_dataset, record, channel)
        camera = transform_points(record.camera_from_ego(channel), points_ego)
        uv_px, depth_m = project_points(np.array(record.cameras[channel].intrinsics), camera[camera[:, 2] > 1])
        inside = np.all((uv_px >= 0) & (uv_px < [depth.shape[1], depth.shape[0]]), axis=1)
        column, row = uv_px[inside].astype(int).T
        on_ground = np.isin(classes[row, column], OCC3D.labels_of(OCC3D.ground))
        exact = decode_depth(depth)[row, column][on_ground]
        assert on_ground.sum() > 30
        assert np.median(np.abs(exact - depth_m[inside][on_ground]) / exact) < 0.01
        assert (depth[classes == OCC3D.free] == 0).all()
        assert (depth[classes != OCC3D.free] > 0).all()


def test_the_nearest_point_of_a_pixel_counts() -> None:
    """A camera at the origin that looks along x; 10 pixels a metre at 1 m, principal point in the middle of 8 x 4."""
    intrinsics = np.array([[10.0, 0.0, 4.0], [0.0, 10.0, 2.0], [0.0, 0.0, 1.0]])
    camera_from_ego = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    points = np.array([[20.0, -2.1, 0.1], [10.0, -1.05, 0.05], [-5.0, 0.0, 0.0], [10.0, 3.9, 0.0], [0.3, 0.0, 0.0]])
    labels = np.array([1, 2, 3, 4, 5], np.uint8)
    found = project_to_pixels(points, labels, intrinsics, camera_from_ego, (4, 8))
    # the first two land at u = 4 + 10 * 2.1 / 20 = 5.05, v = 2 - 10 * 0.1 / 20 = 1.95; the fourth at 0.1, 2
    assert found.row.tolist() == [1, 2] and found.column.tolist() == [5, 0]
    assert found.depth_m.tolist() == [10.0, 10.0] and found.label.tolist() == [2, 4]


def test_targets_are_the_truth_at_the_networks_size(
    world_dataset: DatasetSpec, records: list[SampleRecord], targets: StageSummary
) -> None:
    split = open_shards(targets.folder, "val", pixels=True)
    dataset = PixelDataset(split)
    record = next(record for record in records if record.token == split.samples[0][1].token)
    sample = dataset[0]
    assert sample.images.shape == (6, 3, 104, 200)
    for number, channel in enumerate(world_dataset.cameras):
        classes, depth = read_truth(world_dataset, record, channel)
        spec = world_dataset.image_of(channel)
        assert np.array_equal(sample.classes[number].numpy(), take_and_crop(classes, spec))
        assert np.array_equal(sample.depth_m[number].numpy(), decode_depth(take_and_crop(depth, spec)))
    assert np.array_equal(dataset.classes(0), sample.classes)


def test_targets_from_lidar_are_a_part_of_the_exact_ones(
    world_dataset: DatasetSpec, prepared: Path, targets: StageSummary, sync_runtime: Runtime, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("records", "geometry.zarr"):
        (work / name).symlink_to(prepared / name)
    made = make_pixels(world_dataset, work, PixelsConfig(source="lidar"), sync_runtime)
    sparse = PixelDataset(open_shards(made.folder, "train", pixels=True))[0]
    exact = PixelDataset(open_shards(targets.folder, "train", pixels=True))[0]
    measured = sparse.depth_m > 0
    assert 0.01 < measured.float().mean() < 0.5
    assert ((sparse.classes < OCC3D.num_classes) == measured).all()
    known = measured & (exact.depth_m > 0)
    assert (sparse.classes == exact.classes)[known].float().mean() > 0.85
    error = ((sparse.depth_m - exact.depth_m).abs() / exact.depth_m)[known]
    assert error.median() < 0.02


def test_a_world_without_depth_is_refused(
    world_dataset: DatasetSpec, prepared: Path, sync_runtime: Runtime, tmp_path: Path
) -> None:
    work, root = tmp_path / "work", tmp_path / "world"
    work.mkdir()
    for name in ("records", "geometry.zarr"):
        (work / name).symlink_to(prepared / name)
    root.mkdir()
    for path in world_dataset.root.iterdir():
        if path.name != "truth":
            (root / path.name).symlink_to(path)
    with pytest.raises(StageError, match="synth --depth"):
        make_pixels(world_dataset.model_copy(update={"root": root}), work, PixelsConfig(), sync_runtime)
    with pytest.raises(ConfigError, match="lidar: null"):
        no_lidar = world_dataset.model_copy(update={"lidar": None})
        make_pixels(no_lidar, work, PixelsConfig(source="lidar"), sync_runtime)


def test_packed_depth_is_that_of_the_points(
    world_dataset: DatasetSpec, stored: Path, records: list[SampleRecord], sync_runtime: Runtime, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for path in stored.iterdir():
        if not path.name.startswith("shards"):
            (work / path.name).symlink_to(path)
    made = pack(world_dataset, work, PackConfig(depth=True), sync_runtime)
    split = open_shards(made.folder, "train")
    assert split.manifest.depth
    keyframe = ShardDataset(split)[0]
    record = next(record for record in records if record.token == keyframe.token)
    entry = next(entry for entry in read_index(WorkFolder(stored).records) if entry.token == record.token)
    geometry = StoreRows(WorkFolder(stored).geometry, "geometry").read(entry.row, entry.token)
    points = keyframe_pixels(world_dataset, record, geometry)
    assert keyframe.depth_m is not None and keyframe.pixel_classes is not None
    assert [int((depth > 0).sum()) for depth in keyframe.depth_m] == [len(part.row) for part in points]
    for depth, classes, part in zip(keyframe.depth_m, keyframe.pixel_classes, points, strict=True):
        assert np.allclose(depth[part.row, part.column], part.depth_m, rtol=1e-3)
        assert np.array_equal(classes[part.row, part.column], part.label)
    ego_from_camera = invert_rigid(keyframe.camera_from_ego[0].astype(np.float64))
    assert np.isfinite(ego_from_camera).all()


def test_other_worlds_keep_their_bytes(world: Path) -> None:
    """Depth has files of its own beside the class images."""
    scene = next((world / "truth").glob("synth-*"))
    names = sorted(path.name for path in next(path for path in scene.iterdir() if path.is_dir()).iterdir())
    assert len(names) == 12 and sum(name.endswith("-depth.png") for name in names) == 6
    depth = cv2.imread(str(next(scene.glob("*/CAM_FRONT-depth.png"))), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16 and depth.shape == (225, 400)
