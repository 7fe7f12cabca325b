"""Flips are exact: points are projected before and after and must meet the same pixel and the same label."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from protoocc.augment import flips
from protoocc.augment.flips import Axis, check_symmetric, flip_images, mirror_scene
from protoocc.batch import Batch
from protoocc.losses.first_voxel import first_voxels
from protoocc.model.projection import is_hit, project_points
from protoocc.pixels import DepthBins, PixelOutput
from schemas.errors import ConfigError
from schemas.geometry import VoxelGrid
from tests.protoocc.reference.rigs import look_along, random_batch, random_rigs

GRID = VoxelGrid(minimum_m=(-6.0, -5.0, -1.0), voxel_size_m=0.5, shape=(24, 20, 6))
SIZE = (40, 70)
PRESENT = [name for name in flips.PIXELS if name != "past_images"]


def batch_with_past(grid: VoxelGrid = GRID) -> Batch:
    """Two samples of three cameras that are tilted and skewed, with measured pixels and two earlier frames."""
    batch = random_batch(grid, samples=2, seed=4)
    batch.image_from_camera[..., 0, 1] = 3.0  # skew, which changes its sign when mirrored
    poses, intrinsics = zip(*(random_rigs(2, 3, seed) for seed in (5, 6)), strict=True)
    motions = torch.stack([look_along(yaw, height_m=yaw) for yaw in (1.5, 1.8, 2.1, 0.4)]).reshape(2, 2, 4, 4)
    generator = torch.Generator().manual_seed(7)
    return dataclasses.replace(
        batch,
        depth_m=torch.rand(2, 3, *SIZE, generator=generator),
        pixel_classes=torch.randint(0, 18, (2, 3, *SIZE), generator=generator).to(torch.uint8),
        input_depth_m=torch.rand(2, 3, *SIZE, generator=generator),
        past_images=torch.randint(0, 256, (2, 2, 3, 3, *SIZE), generator=generator).to(torch.uint8),
        past_image_from_camera=torch.stack(intrinsics, 1),
        past_camera_from_ego=torch.stack(poses, 1),
        past_from_ego=motions,
    )


def random_points(grid: VoxelGrid = GRID, count: int = 3000) -> Tensor:
    """Points of the grid, metres, ego frame."""
    low, high = torch.tensor(grid.minimum_m), torch.tensor(grid.maximum_m)
    shares = torch.rand(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return low + shares * (high - low)


def mirrored(points: Tensor, axis: Axis) -> Tensor:
    return points * points.new_tensor([-1.0, 1.0, 1.0] if axis == "x" else [1.0, -1.0, 1.0])


def seen(pixels: Tensor, pose: Tensor, intrinsics: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Which points one camera sees, and the pixel that each of them lands on."""
    uv_px, depth_m = project_points(points, pose, intrinsics)
    column, row = (uv_px[:, axis].clamp(0, SIZE[1 - axis] - 1).long() for axis in (0, 1))
    return is_hit(uv_px, depth_m, SIZE), pixels[..., row, column]


def label(volume: Tensor, grid: VoxelGrid, points: Tensor) -> Tensor:
    cells = ((points - torch.tensor(grid.minimum_m)) / grid.voxel_size_m).floor().long()
    return volume[cells[:, 0], cells[:, 1], cells[:, 2]]


def assert_same_pixels(before: Batch, after: Batch, points: Tensor, moved: Tensor) -> int:
    """``points`` meet the same values in all pixels as ``moved`` do afterwards, in all frames; counts them."""
    hits = 0
    for sample in range(2):
        for camera in range(3):
            for name in PRESENT:
                one, other = getattr(before, name), getattr(after, name)
                hits += assert_agree(
                    seen(one[sample, camera], *calibration(before, sample, camera), points),
                    seen(other[sample, camera], *calibration(after, sample, camera), moved),
                )
            for time in range(2):
                hits += assert_agree(
                    seen_earlier(before, sample, time, camera, points),
                    seen_earlier(after, sample, time, camera, moved),
                )
    return hits


def assert_agree(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> int:
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1][..., before[0]], after[1][..., before[0]])
    return int(before[0].sum())


def calibration(batch: Batch, sample: int, camera: int) -> tuple[Tensor, Tensor]:
    return batch.camera_from_ego[sample, camera], batch.image_from_camera[sample, camera]


def seen_earlier(batch: Batch, sample: int, time: int, camera: int, points: Tensor) -> tuple[Tensor, Tensor]:
    """The same for an earlier frame, into whose ego frame the points are carried."""
    assert batch.past_from_ego is not None and batch.past_images is not None
    assert batch.past_camera_from_ego is not None and batch.past_image_from_camera is not None
    motion = batch.past_from_ego[sample, time]
    carried = points @ motion[:3, :3].mT + motion[:3, 3]
    pose = batch.past_camera_from_ego[sample, time, camera]
    intrinsics = batch.past_image_from_camera[sample, time, camera]
    return seen(batch.past_images[sample, time, camera], pose, intrinsics, carried)


def test_flipped_images_show_the_same_points() -> None:
    batch, points = batch_with_past(), random_points()
    flipped = flip_images(batch)
    assert assert_same_pixels(batch, flipped, points, points) > 5000
    assert torch.equal(flipped.images[0, 0, :, :, 0], batch.images[0, 0, :, :, -1])
    assert flipped.semantics is batch.semantics and flipped.camera_from_ego is batch.camera_from_ego


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("flipped_before", [False, True])
def test_a_mirrored_scene_shows_mirrored_points_with_their_labels(axis: Axis, flipped_before: bool) -> None:
    batch, points = batch_with_past(), random_points()
    batch = flip_images(batch) if flipped_before else batch
    mirror = mirror_scene(batch, axis)
    assert assert_same_pixels(batch, mirror, points, mirrored(points, axis)) > 5000
    for name in flips.VOXELS:
        before, after = getattr(batch, name), getattr(mirror, name)
        for sample in range(2):
            moved = label(after[sample], GRID, mirrored(points, axis))
            assert torch.equal(label(before[sample], GRID, points), moved)
    assert not torch.equal(batch.semantics, mirror.semantics)  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", ["x", "y"])
def test_mirrored_cameras_are_cameras(axis: Axis) -> None:
    """Poses stay right-handed, focal lengths positive, and a camera that looks left looks right afterwards."""
    mirror = mirror_scene(batch_with_past(), axis)
    for poses in (mirror.camera_from_ego, mirror.past_camera_from_ego, mirror.past_from_ego):
        assert poses is not None
        torch.testing.assert_close(torch.linalg.det(poses[..., :3, :3]), torch.ones(poses.shape[:-2]).double())
        assert torch.equal(poses[..., 3, :], torch.tensor([0.0, 0, 0, 1]).double().expand(poses.shape[:-1]))
    assert (mirror.image_from_camera[..., 0, 0] > 0).all()
    left = dataclasses.replace(batch_with_past(), camera_from_ego=look_along(0.9).expand(2, 3, 4, 4))
    expected = look_along(-0.9) if axis == "y" else look_along(torch.pi - 0.9)
    torch.testing.assert_close(mirror_scene(left, axis).camera_from_ego[0, 0], expected)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_twice_is_nothing(axis: Axis) -> None:
    batch = batch_with_past()
    twice = mirror_scene(mirror_scene(batch, axis), axis)
    for field in dataclasses.fields(Batch):
        if field.name != "tokens":
            torch.testing.assert_close(getattr(twice, field.name), getattr(batch, field.name))


@pytest.mark.parametrize("axis", ["x", "y"])
def test_what_depends_on_the_images_alone_is_mirrored(axis: Axis) -> None:
    """A network that gives each voxel the colour of its centre's pixel must mirror its answer, voxel by voxel."""
    batch = batch_with_past()
    answer = painted(mirror_scene(batch, axis))
    assert torch.equal(answer, painted(batch).flip(1 if axis == "x" else 2))
    assert answer.any() and not torch.equal(answer, painted(batch))
    assert not torch.equal(painted(dataclasses.replace(batch, images=batch.images.flip(-1))), painted(batch))


@pytest.mark.parametrize("axis", ["x", "y"])
def test_targets_that_pixels_get_from_labels_are_mirrored(axis: Axis) -> None:
    """Rays through the middle of the images' cells meet the mirrored voxels at the same depth, at mirrored places."""
    batch = batch_with_past()
    assert batch.semantics is not None
    batch = dataclasses.replace(batch, semantics=torch.where(batch.semantics < 6, batch.semantics, 17))
    flipped, mirror = flip_images(batch), mirror_scene(batch, axis)
    classes, depth_m = targets(batch)
    assert (depth_m > 0).sum() > 500
    for other, least in ((flipped, 1.0), (mirror, 0.99)):
        found, found_m = targets(other)
        same = (found.flip(-1) == classes) & ((found_m.flip(-1) - depth_m).abs() < 1e-4)
        assert same.float().mean() >= least  # a point on the face of a voxel may fall on either side of it


def targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Class and depth of every pixel of the first sample, from its labels."""
    pixels = PixelOutput(logits=None, bins=DepthBins(0.5, 30.0, 8), depth=None, grid=GRID, free=17)
    return first_voxels(pixels, batch, 0, stride=1)


def painted(batch: Batch) -> Tensor:
    """(B, X, Y, Z): the sum of the colours of the pixels that see the centre of each voxel."""
    centers = torch.from_numpy(GRID.centers()).reshape(-1, 3)
    volumes = []
    for sample in range(2):
        total = torch.zeros(len(centers), dtype=torch.int64)
        for camera in range(3):
            hit, colour = seen(batch.images[sample, camera], *calibration(batch, sample, camera), centers)
            total += torch.where(hit, colour.long().sum(0), 0)
        volumes.append(total.reshape(GRID.shape))
    return torch.stack(volumes)


def test_every_field_of_a_batch_has_its_flip() -> None:
    """A new field must say how it is mirrored, or augmented samples would contradict themselves."""
    known = [*flips.PIXELS, *flips.INTRINSICS, *flips.POSES, *flips.MOTIONS, *flips.VOXELS]
    assert sorted(known) == sorted(field.name for field in dataclasses.fields(Batch) if "Tensor" in str(field.type))


def test_a_lopsided_grid_is_not_mirrored() -> None:
    """KITTI's grid begins at the vehicle: front and back are no mirror images, left and right are."""
    kitti = VoxelGrid(minimum_m=(0.0, -25.6, -2.0), voxel_size_m=0.2, shape=(256, 256, 32))
    check_symmetric(kitti, "y")
    check_symmetric(GRID, "x")
    with pytest.raises(ConfigError, match=r"flip_x mirrors .* from 0 to 51.2 m there: .* data.augment.flip_x=0"):
        check_symmetric(kitti, "x")
