"""The generated world in SemanticKITTI form: what its files say of each other, of the geometry and to our readers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cli.synth import synth
from pipelines.occupancy import LIDAR_PRESETS, VoxelsConfig, make_occupancy
from pipelines.prepare import prepare
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from pipelines.synth import KittiConfig, SynthSummary, generate_world, sequence_name
from pipelines.synth.actors import BUILDERS
from pipelines.synth.ground import CATEGORY_OF_CODE
from pipelines.synth.kitti.raw_ids import MOVING, RAW_OF_GROUND, RAW_OF_KIND, raw_of_thing
from pipelines.synth.kitti.rig import build_calibration
from pipelines.synth.kitti.sequence import load_sequence
from pipelines.synth.kitti.truth import complete, fill_voxels
from pipelines.synth.world import Thing, Track
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.geometry import SEMANTICKITTI_GRID
from schemas.records import read_index, read_records
from schemas.semantickitti import CLASS_OF_RAW, FIRST_MOVING, LEARNING_MAP, UNKNOWN, split_label
from tests.folders import hashes_below

CONFIG = KittiConfig(scenes=1, keyframes=2, seed=3, image_width=620, azimuths=256)
SYNC = Runtime(Scheduler("sync"))
SHAPE = (256, 256, 32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SynthSummary:
    """One sequence of ten scans."""
    return generate_world(tmp_path_factory.mktemp("synth") / "world", CONFIG, SYNC)


@pytest.fixture(scope="module")
def folder(world: SynthSummary) -> Path:
    """Its sequence."""
    return world.root / "dataset" / "sequences" / "00"


def entry(world: SynthSummary, work: Path, **fields: object) -> DatasetSpec:
    image = {"resize": None, "crop": (0, 0, 620, 188)}
    splits = {"train": {"official": "train"}}
    values = {"name": "made", "format": "semantickitti", "root": world.root, "work": work, "image": image}
    return DatasetSpec.model_validate({**values, "splits": splits, **fields})


def bits(path: Path) -> np.ndarray:
    return np.unpackbits(np.fromfile(path, np.uint8)).reshape(SHAPE).astype(bool)


def raw_voxels(folder: Path, scan: int) -> np.ndarray:
    return np.fromfile(folder / "voxels" / f"{scan:06d}.label", "<u2").reshape(SHAPE)


def cloud(folder: Path, scan: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points = np.fromfile(folder / "velodyne" / f"{scan:06d}.bin", "<f4").reshape(-1, 4)
    return points, *split_label(np.fromfile(folder / "labels" / f"{scan:06d}.label", "<u4"))


def matrices(path: Path, skip: int) -> list[np.ndarray]:
    rows = [line.split()[skip:] for line in path.read_text().splitlines()]
    return [np.array(row, float).reshape(3, 4) for row in rows]


def square(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])


def test_files_are_those_of_the_benchmark(folder: Path) -> None:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    scans = [f"{scan:06d}" for scan in range(10)]
    expected = ["calib.txt", "poses.txt", "times.txt", "image_2/000000.png", "image_2/000005.png"]
    expected += [f"velodyne/{scan}.bin" for scan in scans] + [f"labels/{scan}.label" for scan in scans]
    expected += [
        f"voxels/{scan}.{ext}" for scan in (scans[0], scans[5]) for ext in ["bin", "label", "invalid", "occluded"]
    ]
    assert names == sorted(expected)
    sizes = {path.suffix: path.stat().st_size for path in (folder / "voxels").iterdir()}
    assert sizes == {".label": 4_194_304, ".bin": 262_144, ".invalid": 262_144, ".occluded": 262_144}
    assert np.loadtxt(folder / "times.txt") == pytest.approx(np.arange(10) * 0.1)
    assert cv2.imread(str(folder / "image_2" / "000000.png")).shape == (188, 620, 3)


def test_scans_have_a_label_for_each_point(folder: Path) -> None:
    points, raw, instance = cloud(folder, 3)
    assert len(points) == len(raw) > 5_000
    assert points[:, 3].min() >= 0.0 and points[:, 3].max() < 1.0
    assert set(raw.tolist()) <= set(LEARNING_MAP)
    is_thing = (CLASS_OF_RAW[raw] >= 1) & (CLASS_OF_RAW[raw] <= 8)
    assert is_thing.any() and np.all((instance > 0) == is_thing)
    on_road = points[(raw == 40) & (np.linalg.norm(points[:, :3], axis=1) < 8.0)]
    assert np.median(on_road[:, 2]) == pytest.approx(-1.73, abs=0.05)


def test_input_voxels_hold_the_points_of_their_scan_alone(folder: Path) -> None:
    points, _, _ = cloud(folder, 5)
    index = np.floor((points[:, :3].astype(float) - (0.0, -25.6, -2.0)) / 0.2).astype(int)
    inside = np.all((index >= 0) & (index < SHAPE), axis=1)
    expected = np.zeros(SHAPE, bool)
    expected[tuple(index[inside].T)] = True
    assert np.array_equal(bits(folder / "voxels" / "000005.bin"), expected)


def test_masks_and_labels_agree(folder: Path) -> None:
    for scan in (0, 5):
        raw = raw_voxels(folder, scan)
        invalid, occluded = (bits(folder / "voxels" / f"{scan:06d}.{name}") for name in ("invalid", "occluded"))
        assert not (invalid & (raw > 0)).any()  # a label is always scored
        assert occluded[raw > 0].all()  # what is occupied hides itself
        assert not (invalid & ~occluded).any()  # what its own scan sees is valid
        assert 0.1 < invalid.mean() < 0.7 < occluded.mean() + 0.3
        _, _, z = SHAPE
        assert invalid[:, :, 0].mean() > invalid[:, :, z - 1].mean()  # the lowest layer lies below the road
        hit = bits(folder / "voxels" / f"{scan:06d}.bin")
        assert (raw[hit] > 0).mean() > 0.93  # but for noise of the range


def test_surfaces_that_no_ray_met_are_invalid_and_what_is_scored_as_empty_is_empty(folder: Path) -> None:
    sequence = load_sequence(CONFIG, 0)
    filled = fill_voxels(sequence.geometry.at(0.5), sequence.raw_ids, sequence.lidar_pose(5))
    raw, invalid = raw_voxels(folder, 5), bits(folder / "voxels" / "000005.invalid")
    assert np.array_equal(raw[raw > 0], filled[raw > 0])
    assert invalid[(filled > 0) & (raw == 0)].all()
    assert not filled[~invalid & (raw == 0)].any()


def test_small_grid_by_hand() -> None:
    filled = np.zeros(SHAPE, np.uint16)
    filled[10, 128, 10], filled[20, 128, 10] = 50, 10
    hit = filled == 50
    eyes = np.array([[0.5, 128.5, 10.5], [0.5, 100.5, 10.5]])
    voxels = complete(filled, hit, eyes, 0)
    assert voxels.labels[10, 128, 10] == 50 and voxels.labels[20, 128, 10] == 0
    assert voxels.occluded[10, 128, 10] and not voxels.invalid[10, 128, 10]
    assert (
        voxels.occluded[15, 128, 10] and not voxels.invalid[15, 128, 10]
    )  # the second place sees past the first voxel
    assert voxels.invalid[20, 128, 10]  # filled, but no ray met it
    assert not voxels.occluded[9, 128, 10] and not voxels.occluded[15, 140, 10]


def test_still_matter_stays_in_place_from_scan_to_scan(folder: Path) -> None:
    *_, tr = (square(matrix) for matrix in matrices(folder / "calib.txt", 1))
    poses = [square(matrix) for matrix in matrices(folder / "poses.txt", 0)]
    assert poses[0] == pytest.approx(np.eye(4), abs=1e-9)
    # 6 m/s for half a second, straight ahead: z of camera 0
    assert np.linalg.norm(poses[5][:3, 3]) == pytest.approx(3.0, abs=0.1)
    assert poses[5][2, 3] == pytest.approx(3.0, abs=0.15)
    points, raw, _ = cloud(folder, 9)
    first_from_ninth = np.linalg.inv(tr) @ poses[9] @ tr
    moved = points[:, :3] @ first_from_ninth[:3, :3].T + first_from_ninth[:3, 3]
    index = SEMANTICKITTI_GRID.voxel_index(moved.astype(float))
    inside = SEMANTICKITTI_GRID.contains(index) & (raw < FIRST_MOVING)
    assert inside.sum() > 2_000
    assert (raw_voxels(folder, 0)[tuple(index[inside].T)] > 0).mean() > 0.93


def agreement(folder: Path, truth: np.ndarray, projection: np.ndarray, shift_px: tuple[float, float]) -> float:
    """Share of the points on things that land on pixels of the same thing."""
    points, _, instance = cloud(folder, 0)
    points = points[instance > 0]
    homogeneous = np.column_stack([points[:, :3], np.ones(len(points))]).astype(float) @ projection.T
    uv = homogeneous[:, :2] / homogeneous[:, 2:] + shift_px
    height, width = truth.shape
    seen = (homogeneous[:, 2] > 1.0) & np.all((uv >= 4) & (uv < (width - 4, height - 4)), axis=1)
    u, v = uv[seen].astype(int).T
    return float((truth[v, u] % 2048 == instance[instance > 0][seen]).mean())


def test_points_land_on_their_pixels_with_all_of_p2_and_not_without(world: SynthSummary, folder: Path) -> None:
    _, _, p2, _, tr = matrices(folder / "calib.txt", 1)
    truth = cv2.imread(str(world.root / "truth" / "00" / "00-000000" / "image_2.png"), cv2.IMREAD_UNCHANGED)
    exact = p2 @ square(tr)
    peer = np.column_stack([p2[:, :3], np.zeros(3)]) @ square(tr)
    shifts = [float(shift) for shift in np.arange(-3.0, 3.5, 0.5)]
    best = {
        name: shifts[int(np.argmax([agreement(folder, truth, matrix, (shift, 0.0)) for shift in shifts]))]
        for name, matrix in (("exact", exact), ("peer", peer))
    }
    assert agreement(folder, truth, exact, (0.0, 0.0)) > 0.97
    assert abs(best["exact"]) < 1.0
    # P2's 4th column is 23 px m at this width: the points of the peers lie 2 px too far left at 11 m
    assert p2[0, 3] == pytest.approx(22.7, abs=2.0) and best["peer"] >= 1.0


def test_prepare_and_import_give_back_the_truth(world: SynthSummary, folder: Path, tmp_path: Path) -> None:
    dataset = entry(world, tmp_path / "work")
    prepare(dataset, dataset.work, SYNC)
    summary = make_occupancy(dataset, dataset.work, VoxelsConfig(), SYNC)
    assert summary.counts["keyframes_of_v1_1"] == 2
    store = open_store(dataset.work / "occupancy.zarr", "occupancy")
    for row, scan in enumerate((0, 5)):
        invalid, occluded = (bits(folder / "voxels" / f"{scan:06d}.{name}") for name in ("invalid", "occluded"))
        classes = CLASS_OF_RAW[raw_voxels(folder, scan)]
        assert np.array_equal(store["semantics"][row], classes)
        assert np.array_equal(store["mask_camera"][row] > 0, ~invalid)
        assert np.array_equal(store["mask_lidar"][row] > 0, ~occluded)
    records = read_records(dataset.work / "records", read_index(dataset.work / "records"))
    assert [record.token for record in records] == ["00-000000", "00-000005"]


@pytest.mark.slow
def test_labels_from_scans_reach_the_truth(tmp_path: Path) -> None:
    config = KittiConfig(scenes=1, keyframes=4, seed=5, image_width=310)
    made = generate_world(tmp_path / "world", config, SYNC)
    dataset = entry(made, tmp_path / "work", image={"resize": None, "crop": (0, 0, 310, 94)})
    prepare(dataset, dataset.work, SYNC)
    make_occupancy(dataset, dataset.work, LIDAR_PRESETS["semantickitti"], SYNC)
    store = open_store(dataset.work / "occupancy.zarr", "occupancy")
    folder = made.root / "dataset" / "sequences" / "00"
    for row, scan in enumerate((0, 5, 10, 15)):
        classes = CLASS_OF_RAW[raw_voxels(folder, scan)]
        scored = ~bits(folder / "voxels" / f"{scan:06d}.invalid") & (classes != UNKNOWN)
        found, true = (store["semantics"][row] != 0) & scored, (classes != 0) & scored
        assert (found & true).sum() / (found | true).sum() >= 0.90


@pytest.mark.slow
def test_same_bytes_with_two_workers_and_after_an_interruption(world: SynthSummary, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    out = tmp_path / "world"
    with pytest.raises(KeyboardInterrupt):
        generate_world(out, CONFIG, replace(SYNC, on_progress=stop))
    assert not out.exists()
    summary = generate_world(out, CONFIG, Runtime(Scheduler(workers=2)))
    assert not summary.is_skipped and hashes_below(out) == hashes_below(world.root)


def test_finished_world_is_kept_and_another_format_refused(world: SynthSummary) -> None:
    assert generate_world(world.root, CONFIG).is_skipped
    with pytest.raises(ConfigError, match="--sweeps does not belong to --format semantickitti"):
        synth(world.root, world_format="semantickitti", sweeps=3)
    with pytest.raises(ConfigError, match="expected nuscenes or semantickitti"):
        synth(world.root, world_format="kitti")


def test_official_splits_have_scenes_from_two_on() -> None:
    names = ["00", "08", "01", "02", "03", "04", "05", "06", "07", "09", "10", "11"]
    assert [sequence_name(scene) for scene in range(12)] == names


def test_every_kind_and_ground_has_a_known_raw_id() -> None:
    assert set(RAW_OF_KIND) == set(BUILDERS)
    assert set(RAW_OF_GROUND) == set(range(len(CATEGORY_OF_CODE)))
    assert {*RAW_OF_KIND.values(), *RAW_OF_GROUND.values(), *MOVING.values()} <= set(LEARNING_MAP)
    for still, moving in MOVING.items():
        assert moving >= FIRST_MOVING and LEARNING_MAP[still] == LEARNING_MAP[moving]


@pytest.mark.parametrize(
    ("kind", "track", "expected"),
    [
        ("car", None, {10}),
        ("car", Track(0.0, 0.0, 5.0), {252}),
        ("tree", None, {70, 71}),
        ("sign", None, {80, 81}),
        ("walker", Track(0.0, 0.0, 1.0), {254}),
    ],
)
def test_raw_ids_of_parts_and_of_what_moves(kind: str, track: Track | None, expected: set[int]) -> None:
    category, build = BUILDERS[kind]
    shape = build(np.random.default_rng(1))
    assert set(raw_of_thing(Thing(1, category, shape, (0.0, 0.0, 0.0), track, kind)).tolist()) == expected


def test_calibration_is_like_kittis_and_scales_with_the_image() -> None:
    calibration = build_calibration(1241, np.random.default_rng(0))
    assert calibration.projections[2][0, 0] == pytest.approx(718.9, abs=20)
    # sequence 00: 45.4 px m
    assert calibration.projections[2][0, 3] == pytest.approx(45.4, abs=5)
    half = build_calibration(620, np.random.default_rng(0)).projections[2]
    assert half[:2] == pytest.approx(calibration.projections[2][:2] * 620 / 1241, abs=1e-8)
    camera = calibration.mount((1241, 376)).ego_from_sensor
    # 0.3 m before the LiDAR, a little to the left, below its 1.73 m; looking ahead
    assert camera[:3, 3] == pytest.approx([0.296, 0.055, 1.655], abs=0.02)
    assert camera[:3, 2] == pytest.approx([1.0, 0.0, 0.0], abs=0.03)
