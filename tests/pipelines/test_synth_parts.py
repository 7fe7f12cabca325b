import numpy as np
import pytest

from pipelines.synth.actors import BUILDERS
from pipelines.synth.ground import (
    HALF_SIZE_M,
    ISLAND,
    KERB,
    RESOLUTION_M,
    TERRAIN,
    code_at,
    draw_hills,
    draw_island,
    hit_ground,
    rise_at,
    stand_on,
)
from pipelines.synth.observed import Turn, observe
from pipelines.synth.rig import CAMERAS, LIDAR, build_rig, lidar_rays, pixel_rays
from pipelines.synth.shapes import Material, block, tube
from pipelines.synth.texture import chance, noise
from pipelines.synth.truth import Cells, Occupancy, cover_ground, cover_triangles
from pipelines.synth.world import Road, build_world
from schemas.classes import NUSCENES_CATEGORIES, OCC3D
from schemas.geometry import OCC3D_GRID

FLAT = np.zeros((0, 4))


def raster(code: int) -> np.ndarray:
    side = round(2 * HALF_SIZE_M / RESOLUTION_M)
    return np.full((side, side), code, np.uint8)


def test_block_stands_on_its_point() -> None:
    low, high = block((1.0, 2.0, 0.5), (4.0, 2.0, 1.0), Material.PLAIN, (1.0, 0.0, 0.0)).bounds
    assert low.tolist() == [-1.0, 1.0, 0.5]
    assert high.tolist() == [3.0, 3.0, 1.5]


def test_tube_is_closed_and_as_long_as_asked() -> None:
    shape = tube((0.0, 0.0, 0.0), (0.0, 0.0, 2.0), (0.5, 0.5), Material.PLAIN, (1.0, 1.0, 1.0), sides=4)
    # 4 sides: 4 x 2 triangles around, 4 at each end
    assert len(shape.triangles) == 16
    edges = np.sort(np.round(shape.triangles[:, [[0, 1], [1, 2], [2, 0]]], 4).reshape(-1, 2, 3), axis=1)
    _, counts = np.unique(edges.reshape(-1, 6), axis=0, return_counts=True)
    assert set(counts.tolist()) == {2}


def test_every_builder_makes_a_thing_of_a_known_category() -> None:
    for name, (category, build) in BUILDERS.items():
        shape = build(np.random.default_rng(1))
        low, high = shape.bounds
        assert category in NUSCENES_CATEGORIES, name
        assert low[2] + 0.6 >= 0.0 and 0.5 < high[2] < 20.0, name
        assert np.isfinite(shape.triangles).all(), name


def test_ray_meets_flat_ground_kerb_and_island() -> None:
    ground = raster(0)
    # from 1.5 m straight down, and at 45 degrees: 1.5 * sqrt(2)
    assert hit_ground(ground, FLAT, (0.0, 0.0, 1.5), (0.0, 0.0, -1.0))[0] == pytest.approx(1.5)
    s = np.sqrt(0.5)
    assert hit_ground(ground, FLAT, (0.0, 0.0, 1.5), (s, 0.0, -s))[0] == pytest.approx(1.5 / s)
    assert hit_ground(ground, FLAT, (0.0, 0.0, 1.5), (1.0, 0.0, 0.0))[0] == np.inf
    draw_island(ground, np.array([[1.0, -5.0], [9.0, -5.0], [9.0, 5.0], [1.0, 5.0]]))
    # at 45 degrees towards x = 1.4 the ray is 0.1 m high there: it meets the island's upright side at x = 1
    distance, code, is_upright = hit_ground(ground, FLAT, (0.0, 0.0, 1.1), (s, 0.0, -s))
    assert is_upright and code == ISLAND
    assert distance * s == pytest.approx(1.0, abs=2 * RESOLUTION_M)
    distance, code, is_upright = hit_ground(ground, FLAT, (2.0, 0.0, 1.15), (0.0, 0.0, -1.0))
    assert (code, is_upright) == (ISLAND, False) and distance == pytest.approx(1.0)


def test_outside_the_raster_is_terrain() -> None:
    ground = raster(KERB)
    inside = HALF_SIZE_M - 1e-6
    assert code_at(ground, -HALF_SIZE_M, inside) == KERB
    assert code_at(ground, HALF_SIZE_M, 0.0) == TERRAIN
    assert code_at(ground, 0.0, -HALF_SIZE_M - 1e-6) == TERRAIN


def test_road_offsets_count_to_the_left() -> None:
    # a square of 40 m, corners at (0, 0), driven anticlockwise
    side = np.arange(0.0, 40.0, 0.5)
    zero, full = np.zeros_like(side), np.full_like(side, 40.0)
    line = np.concatenate(
        [np.column_stack(pair) for pair in ((side, zero), (full, side), (40 - side, full), (zero, 40 - side))]
    )
    road = Road(line, np.arange(len(line) + 1) * 0.5, half_m=7.0, lane_m=2.0, sidewalk_m=3.0, setback_m=8.0)
    assert road.length_m == 160.0
    assert road.place(20.0, 3.0) == pytest.approx((20.0, 3.0, 0.0))
    assert road.place(60.0 - 160.0, -1.0) == pytest.approx((41.0, 20.0, np.pi / 2))


def test_rig_looks_where_its_names_say() -> None:
    rig = build_rig((800, 450), np.random.default_rng(0))
    assert list(rig) == [*CAMERAS, LIDAR]
    expected_deg = {
        "CAM_FRONT": 0,
        "CAM_FRONT_RIGHT": -56,
        "CAM_FRONT_LEFT": 55,
        "CAM_BACK": 180,
        "CAM_BACK_LEFT": 108,
        "CAM_BACK_RIGHT": -110,
    }
    for channel, yaw_deg in expected_deg.items():
        forward = rig[channel].ego_from_sensor[:3, 2]
        turn = np.degrees(np.arctan2(forward[1], forward[0])) - yaw_deg
        assert abs((turn + 180) % 360 - 180) < 1.5, channel
        assert rig[channel].ego_from_sensor[2, 1] < -0.99
    assert rig["CAM_FRONT"].image_from_camera is not None
    # 1266 px at 1600 pixels width are 633 px at 800
    assert rig["CAM_FRONT"].image_from_camera[0, 0] == pytest.approx(633, abs=12)
    assert rig[LIDAR].ego_from_sensor[:3, 1] == pytest.approx([1.0, 0.0, 0.0], abs=0.05)


def test_pixel_rays_pass_pixel_centres() -> None:
    intrinsics = np.array([[2.0, 0.0, 2.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
    rays = pixel_rays(intrinsics, 4, 2)
    assert rays.shape == (8, 3)
    # first pixel's centre (0.5, 0.5): ((0.5 - 2) / 2, (0.5 - 1) / 2, 1)
    assert rays[0] / rays[0, 2] == pytest.approx([-0.75, -0.25, 1.0])
    assert np.linalg.norm(rays, axis=1) == pytest.approx(np.ones(8), abs=1e-6)


def test_lidar_turn_has_32_beams_from_low_to_high() -> None:
    rays = lidar_rays().reshape(1080, 32, 3)
    assert np.degrees(np.arcsin(rays[0, [0, -1], 2])) == pytest.approx([-30.67, 10.67], abs=1e-3)
    assert rays[0, 0, 0] == 0.0 and rays[0, 0, 1] > 0


def test_hills_are_as_steep_as_asked_and_rays_stop_on_them() -> None:
    hills = draw_hills(np.random.default_rng(0), 0.04)
    x = np.arange(-130.0, 130.0, 0.5)
    heights = np.array([[rise_at(hills, a, b) for b in x[::8]] for a in x])
    steepest = np.abs(np.diff(heights, axis=0)).max() / 0.5
    assert 0.02 < steepest <= 0.04
    assert len(draw_hills(np.random.default_rng(0), 0.0)) == 0
    for pitch in (-0.5, -0.1, -0.02):
        direction = (np.cos(pitch), 0.0, np.sin(pitch))
        eye = rise_at(hills, 3.0, 4.0) + 1.5
        reach, _, _ = hit_ground(raster(0), hills, (3.0, 4.0, eye), direction)
        way = np.linspace(0.0, reach, 400)
        above = [eye + t * direction[2] - rise_at(hills, 3.0 + t * direction[0], 4.0) for t in way]
        assert min(above) > -2e-3 and above[-1] < 2e-3  # it meets the ground there, and not before


def test_things_lean_with_the_ground() -> None:
    # one wave along x, phase 0: at x = 0 it rises by 0.5 * 0.1 = 0.05 per metre
    pose = stand_on(np.array([[0.5, 0.1, 0.0, 0.0]]), 0.0, 0.0, 0.0, 0.15)
    assert pose[:3, 3] == pytest.approx([0.0, 0.0, 0.15])
    assert pose[:3, 0] == pytest.approx(np.array([1.0, 0.0, 0.05]) / np.hypot(1.0, 0.05))
    assert pose[:3, 1] == pytest.approx([0.0, 1.0, 0.0])
    assert pose[:3, :3] @ pose[:3, :3].T == pytest.approx(np.eye(3))


def test_ground_leaves_the_grid_on_a_slope() -> None:
    area_mm2 = np.zeros((10, 1, 3, 15), np.int32)
    # it rises by 0.1 per metre from x = 0 on: 0.4 m in 4 m, in a grid from 0 to 0.6 m above a level vehicle
    hills = np.array([[1000.0, 1e-4, 0.0, 0.0]])
    classes = np.array([11, 11, 13, 13, 14, 12], np.uint8)
    cover_ground(Cells(area_mm2, np.array([0.0, 0.0, 0.0]), 1.0), raster(0), hills, classes, np.eye(4))
    levels = area_mm2[:, 0, :, 11] > 0
    assert levels[:, 0].tolist() == [True] * 10 and not levels[:, 1:].any()  # 0 to 1 m
    cover_ground(Cells(area_mm2, np.array([0.0, 0.0, -0.5]), 0.25), raster(0), hills, classes, np.eye(4))
    # voxels of 0.25 m from -0.5 to 0.25 m: columns 0..2.5 m, height 0 to 0.25 m, are in the third layer
    assert (area_mm2[:, 0, 2, 11] > 0).all()


def test_triangles_cover_voxels_by_area() -> None:
    area_mm2 = np.zeros((4, 4, 4, 6), np.int32)
    corners = np.array([[[0.0, 0.0, 0.4], [1.6, 0.0, 0.4], [0.0, 1.6, 0.4]], [[0.0, 0.0, 9.0]] * 3])
    cover_triangles(Cells(area_mm2, np.zeros(3), 0.8), corners, np.array([4, 5], np.uint8))
    # half of a 1.6 m square: 0.64 m2 in the first cell, half of that on either side
    assert area_mm2[0, 0, 0, 4] == pytest.approx(640_000, rel=1e-3)
    assert area_mm2[1, 0, 0, 4] == area_mm2[0, 1, 0, 4] == pytest.approx(320_000, rel=1e-3)
    assert area_mm2[..., 5].sum() == 0


def test_noise_is_smooth_and_bounded() -> None:
    values = np.array([noise(0.01 * i, 0.3, 7.7) for i in range(500)])
    assert values.min() >= 0.0 and values.max() < 1.0 and values.std() > 0.05
    assert np.abs(np.diff(values)).max() < 0.03
    assert noise(3.0, 4.0, 5.0) == pytest.approx(chance(3, 4, 5))


def test_scene_holds_rare_things_and_keeps_them_apart() -> None:
    world = build_world(np.random.default_rng([5, 0]))
    kinds = {thing.kind for thing in world.things}
    assert {"trailer", "excavator", "bus", "truck", "barrier", "cone", "bicycle", "motorcycle", "walker"} <= kinds
    assert [thing.number for thing in world.things] == list(range(1, len(world.things) + 1))
    assert len(world.things) < 2048
    start, later = world.ego_pose(0.0), world.ego_pose(0.5)
    # 6 m/s for half a second
    assert np.linalg.norm(later[:3, 3] - start[:3, 3]) == pytest.approx(3.0, abs=0.15)
    assert np.linalg.det(later[:3, :3]) == pytest.approx(1.0)


def turn(time_us: int, end_m: tuple[float, float, float], *, mover: int | None) -> Turn:
    """One ray from (0.2, 0.2, 1.8); one that ends on a mover hits the origin of its frame."""
    moving = {} if mover is None else {mover: np.zeros((1, 3), np.float32)}
    ends = np.array([end_m], np.float32)
    return Turn(time_us, np.array([0.2, 0.2, 1.8]), ends, np.array([mover is None]), moving)


def test_rays_of_other_times_observe_still_matter_and_movers_where_they_are_now() -> None:
    semantics = np.full(OCC3D_GRID.shape, OCC3D.free, np.uint8)
    is_moving = np.zeros(OCC3D_GRID.shape, bool)
    row = semantics[100, :, 7]
    row[[105, 108, 112]] = OCC3D.index("car")
    is_moving[100, [105, 108, 112], 7] = True  # a mover's surface now lies in these
    occupancy = Occupancy(semantics, is_moving)
    now_at = np.eye(4)
    now_at[:3, 3] = (0.2, 5.0, 1.9)  # voxel (5.0 + 40) / 0.4 = 112 along y
    turns = [
        turn(0, (0.2, 4.5, 1.9), mover=None),
        turn(1, (0.2, 3.5, 1.9), mover=9),
        turn(2, (0.2, 2.1, 1.9), mover=None),
    ]
    seen = observe(occupancy, np.eye(4), turns, 2, {9: now_at})[100, :, 7]
    # the first ray reaches voxel 111, but not what moves; the last one, of now, reaches voxel 105
    assert np.flatnonzero(seen).tolist() == [100, 101, 102, 103, 104, 105, 106, 107, 109, 110, 111, 112]
    without = observe(occupancy, np.eye(4), turns[1:], 2, {9: now_at})[100, :, 7]
    # the ray to the mover passes up to voxel 107 and ends in 108, where nothing was but the mover
    assert np.flatnonzero(without).tolist() == [100, 101, 102, 103, 104, 105, 106, 107, 112]
