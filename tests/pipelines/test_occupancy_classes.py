"""Class tables other than Occ3D's: the same labels under other numbers, and tables that lack what Occ3D's has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines.occupancy import ImportConfig, LidarConfig, Occ3dConfig, OccupancyConfig, make_occupancy
from pipelines.occupancy.ballot import num_slots, slots_of, winners
from pipelines.occupancy.compare_folder import FIGURES, class_scores, compare_with_folder
from pipelines.occupancy.export import write_label_files
from pipelines.occupancy.label_sets import LABEL_SETS
from pipelines.occupancy.occ3d import labels_from_occ3d
from pipelines.points import UNKNOWN
from pipelines.prepare import prepare
from pipelines.stage import Runtime
from pipelines.zarr_io import open_store
from schemas.classes import OCC3D, ClassTable
from schemas.datasets import DatasetSpec, load_datasets
from schemas.errors import ConfigError
from schemas.geometry import VoxelGrid
from schemas.records import read_index, read_records

NAMES = (
    "free", "manmade", "others", "sidewalk", "barrier", "bicycle", "vegetation", "bus", "car", "driveable_surface",
    "construction_vehicle", "motorcycle", "pedestrian", "terrain", "traffic_cone", "trailer", "truck", "other_flat",
)  # fmt: skip
"""Ground lies neither together nor at the end, free comes first."""
IGNORED = 99


def entry_of(dataset: DatasetSpec, work: Path, table: dict[str, object]) -> DatasetSpec:
    """The dataset's entry with a table of its own, as a user writes it; one scene."""
    fields = {
        "format": "nuscenes", "root": str(dataset.root), "version": dataset.version, "work": str(work),
        "image": {"resize": [200, 112], "crop": [0, 8, 200, 104]}, "splits": {"train": {"scenes": ["synth-0000"]}},
        "classes": table,
    }  # fmt: skip
    path = work.parent / "datasets.yaml"
    path.write_text(yaml.safe_dump({"permuted": fields}))
    return load_datasets(path)["permuted"]


@pytest.fixture(scope="module")
def standard(
    world_dataset: DatasetSpec, tmp_path_factory: pytest.TempPathFactory, sync_runtime: Runtime
) -> DatasetSpec:
    """One prepared scene with the table of Occ3D."""
    folder = tmp_path_factory.mktemp("standard")
    table = OCC3D.model_dump(mode="json")
    dataset = entry_of(world_dataset, folder / "work", table)
    prepare(dataset, dataset.work, sync_runtime)
    return dataset


@pytest.fixture(scope="module")
def permuted(
    world_dataset: DatasetSpec, tmp_path_factory: pytest.TempPathFactory, sync_runtime: Runtime
) -> DatasetSpec:
    """The same scene with the same classes under other numbers."""
    folder = tmp_path_factory.mktemp("permuted")
    groups = OCC3D.model_dump(mode="json", include={"ground", "driveable", "stuff", "symmetric"})
    colors = [list(OCC3D.colors[OCC3D.index(name)]) for name in NAMES]
    table = {"names": list(NAMES), "colors": colors, "free": 0, "ignored": IGNORED, **groups}
    dataset = entry_of(world_dataset, folder / "work", table)
    prepare(dataset, dataset.work, sync_runtime)
    return dataset


def renumber(labels: np.ndarray) -> np.ndarray:
    """Labels of Occ3D's table as the permuted one numbers them."""
    numbers = np.full(256, IGNORED, np.uint8)
    numbers[:18] = [NAMES.index(name) for name in OCC3D.names]
    return numbers[labels]


def stored(dataset: DatasetSpec, source: OccupancyConfig, runtime: Runtime) -> dict[str, np.ndarray]:
    make_occupancy(dataset, dataset.work, source, Runtime(scheduler=runtime.scheduler, overwrite=True))
    store = open_store(dataset.work / "occupancy.zarr", "occupancy")
    return {name: np.asarray(array[:2]) for name, array in store.items()}


def assert_permuted(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(found["semantics"], renumber(expected["semantics"]))
    for mask in ("mask_lidar", "mask_camera"):
        np.testing.assert_array_equal(found[mask], expected[mask])


@pytest.mark.parametrize(
    "thresholds",
    [LidarConfig(), pytest.param(LidarConfig(use_map=False, hide_things_only=True), marks=pytest.mark.slow)],
)
def test_labels_from_sweeps_do_not_depend_on_numbers(
    standard: DatasetSpec, permuted: DatasetSpec, thresholds: LidarConfig, sync_runtime: Runtime
) -> None:
    """On 32 m x 32 m."""
    grid = VoxelGrid(minimum_m=(-16.0, -16.0, -1.0), voxel_size_m=0.4, shape=(80, 80, 16))
    small, other = (dataset.model_copy(update={"grid": grid}) for dataset in (standard, permuted))
    expected = stored(small, thresholds, sync_runtime)
    assert len(np.unique(expected["semantics"])) > 8
    assert_permuted(expected, stored(other, thresholds, sync_runtime))


def test_files_of_occ3d_come_and_go_by_name(
    standard: DatasetSpec, permuted: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    assert_permuted(stored(standard, Occ3dConfig(), sync_runtime), stored(permuted, Occ3dConfig(), sync_runtime))
    write_label_files(permuted, permuted.work, tmp_path / "npz", sync_runtime)
    for path in (tmp_path / "npz").glob("gts/*/*/labels.npz"):
        with np.load(path) as ours, np.load(permuted.root / path.relative_to(tmp_path / "npz")) as theirs:
            assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    comparison = compare_with_folder(permuted, permuted.work, permuted.root, scheduler=sync_runtime.scheduler)
    assert [comparison.figures[name] for name in FIGURES] == [1.0, 1.0, 1.0, 1.0, 0.0]
    scores = dict(class_scores(comparison.confusion))
    assert scores[NAMES.index("car")]["iou"] == scores[0]["iou"] == 1.0


def test_other_label_sets_come_by_name(
    standard: DatasetSpec, permuted: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    grid = LABEL_SETS["surroundocc"].grid
    for record in read_records(standard.work / "records", read_index(standard.work / "records")):
        points = np.fromfile(standard.root / record.keyframe_sweep.path, "<f4").reshape(-1, 5)[:, :3]
        index = grid.voxel_index(points.astype(np.float64))  # lists that name no voxel with a return are refused
        index = index[grid.contains(index)]
        rows = np.column_stack([index, generator.integers(0, 17, len(index))])
        np.save(tmp_path / f"{Path(record.keyframe_sweep.path).name}.npy", rows)
    source = ImportConfig(kind="surroundocc", labels=tmp_path, resample=True)
    expected = stored(standard, source, sync_runtime)
    assert {4, 11, 17, 255} <= set(np.unique(expected["semantics"]))
    assert_permuted(expected, stored(permuted, source, sync_runtime))


def table_of(*names: str, **fields: object) -> ClassTable:
    return ClassTable.model_validate({"names": names, "colors": [(1, 2, 3)] * len(names), "free": 0, **fields})


def test_ties_go_to_things_then_ground_then_other_matter() -> None:
    table = table_of("free", "wall", "road", "grass", "car", "man", ground=["grass", "road"], stuff=["wall"])
    ballots = {
        (0, 1, 1, 1, 1, 1, 1): "car",  # things by their number
        (0, 1, 1, 1, 0, 0, 1): "grass",  # ground in the order of its field
        (0, 1, 0, 0, 0, 0, 1): "wall",
        (0, 1, 0, 0, 1, 2, 1): "man",
    }
    votes = np.array(list(ballots))
    assert votes.shape[1] == num_slots(table)
    assert winners(votes, table).tolist() == [table.index(name) for name in ballots.values()]
    assert winners(np.array([[0, 0, 0, 0, 0, 0, 1]]), table).tolist() == [table.ignored]
    assert slots_of(np.array([1, UNKNOWN], np.uint8), table).tolist() == [1, 6]


def test_classes_without_a_counterpart_are_named(permuted: DatasetSpec, sync_runtime: Runtime, tmp_path: Path) -> None:
    names = [name for name in NAMES if name not in ("truck", "bus")]
    dataset = permuted.model_copy(update={"classes": table_of(*names, "vehicle"), "work": tmp_path / "work"})
    with pytest.raises(ConfigError, match=r"a class 'bus', its class table has not.*categories.*`bus: manmade`"):
        make_occupancy(dataset, dataset.work, Occ3dConfig(), sync_runtime)
    merged = dataset.model_copy(update={"categories": {"bus": "vehicle", "truck": "vehicle"}})
    labels = labels_from_occ3d(merged)
    assert labels[3] == labels[10] == merged.classes.index("vehicle") and labels[4] == merged.classes.index("car")
    assert labels[17] == 0 and labels[18] == 255
    with pytest.raises(ConfigError, match="Occ3D files know no class 'vehicle'"):
        write_label_files(merged, permuted.work, tmp_path / "npz", sync_runtime)
