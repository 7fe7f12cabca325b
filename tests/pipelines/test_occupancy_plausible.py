"""Imported labels are measured before they are stored: right ones pass, each kind of wrong one is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.label_counts import useless_counts
from pipelines.occupancy import LIDAR_PRESETS, make_occupancy
from pipelines.occupancy.occ3d import Labels, label_file, read_labels
from pipelines.occupancy.orientation import Reading, best_other_fit
from pipelines.occupancy.plausible import check_plausible, measure_shares
from pipelines.occupancy.stored import read_row
from pipelines.prepare import prepare
from pipelines.stage import Runtime
from schemas.datasets import DatasetSpec, SplitSpec
from schemas.errors import DataError
from schemas.images import ImageSpec
from schemas.outside import Source
from schemas.records import SampleRecord, read_index, read_records

FREE, VEGETATION = 17, 16
Fault = Callable[[Labels], Labels]


def turn(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    """All three arrays in another order of axes."""
    return lambda labels: {name: np.ascontiguousarray(change(values)) for name, values in labels.items()}


def set_classes(change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    return lambda labels: {**labels, "semantics": change(labels["semantics"]).astype(np.uint8)}


def invert(*names: str) -> Fault:
    return lambda labels: {**labels, **{name: 1 - labels[name] for name in names}}


FAULTS: dict[str, tuple[Fault, str]] = {
    "free = 16": (
        set_classes(lambda s: np.where(s == FREE, 16, np.minimum(s, 15))),
        r"0\.0% of their voxels are free \(free\) and (8|9)\d\.\d% vegetation; .*at least 20%.*--source openocc-v2",
    ),
    "free = 0": (set_classes(lambda s: np.where(s == FREE, 0, s)), r"0\.0% .* free .* others"),
    "free unknown": (set_classes(lambda s: np.where(s == FREE, 255, s)), r"0\.0% of their voxels are free"),
    "no matter": (set_classes(lambda s: np.full_like(s, FREE)), "no voxel is occupied"),
    "both masks inverted": (invert("mask_lidar", "mask_camera"), r"mask_lidar marks \d+\.\d% .* inverted"),
    "mask_lidar inverted": (invert("mask_lidar"), r"mask_lidar marks \d+\.\d% .* inverted"),
    "mask_camera inverted": (invert("mask_camera"), r"mask_camera marks \d+\.\d% .* inverted"),
    "x and y exchanged": (turn(lambda a: a.transpose(1, 0, 2)), r"\d% of \d.* as it is, 9.* with x and y exchanged"),
    "x mirrored": (turn(lambda a: a[::-1]), "as it is, 9.* with x mirrored"),
    "y mirrored": (turn(lambda a: a[:, ::-1]), "as it is, 9.* with y mirrored"),
    "x and y mirrored": (turn(lambda a: a[::-1, ::-1]), "as it is, 9.* with x and y mirrored"),
    "z mirrored": (turn(lambda a: a[:, :, ::-1]), "as it is, 9.* with z mirrored"),
    "turned by 90 degrees": (turn(lambda a: a.transpose(1, 0, 2)[::-1]), "with x and y exchanged and . mirrored"),
    "two metres aside": (turn(lambda a: np.roll(a, 5, axis=0)), "files belong to these keyframes"),
}
AXES = [name for name, (_, words) in FAULTS.items() if "mirrored" in words or "exchanged" in words]
FILE = Source("labels.npz (sample token)")


def world_records(dataset: DatasetSpec, work: Path) -> Iterator[tuple[SampleRecord, Labels]]:
    for record in read_records(work / "records", read_index(work / "records")):
        yield record, read_labels(label_file(dataset.root / "gts", record), record.token, dataset)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_wrong_kind_is_refused(fault: str, world_dataset: DatasetSpec, prepared: Path) -> None:
    change, words = FAULTS[fault]
    for record, labels in world_records(world_dataset, prepared):
        check_plausible(world_dataset, record, labels, FILE, "occ3d")
        with pytest.raises(DataError, match=rf"^labels.npz \(sample token\): the labels cannot be right: .*{words}"):
            check_plausible(world_dataset, record, change(labels), FILE, "occ3d")


def test_boxes_tell_the_axes_where_no_lidar_file_is(world_dataset: DatasetSpec, prepared: Path, tmp_path: Path) -> None:
    dataset = world_dataset.model_copy(update={"root": tmp_path})
    record, labels = next(world_records(world_dataset, prepared))
    assert check_plausible(dataset, record, labels, FILE).boxes is not None
    for fault in AXES:
        with pytest.raises(DataError, match="annotated boxes hold a voxel of a thing: .* as it is"):
            check_plausible(dataset, record, FAULTS[fault][0](labels), FILE)
    bare = record.model_copy(update={"boxes": (), "lidar": None})
    assert not check_plausible(dataset, bare, labels, FILE).is_measured


def test_nothing_known_or_nothing_seen_is_no_fault(world_dataset: DatasetSpec, prepared: Path) -> None:
    """They are counted: `occupancy` and `pack` tell how many keyframes teach nothing."""
    record, labels = next(world_records(world_dataset, prepared))
    unseen = {**labels, "mask_lidar": labels["mask_lidar"] * 0, "mask_camera": labels["mask_camera"] * 0}
    unknown = {**unseen, "semantics": np.full_like(labels["semantics"], 255)}
    for some in (unseen, unknown):
        check_plausible(world_dataset, record, some, FILE)
    counts = [list(useless_counts(some["semantics"], some["mask_camera"], 255).values()) for some in (unknown, unseen)]
    assert counts == [[1.0, 0.0], [0.0, 1.0]]
    assert set(useless_counts(labels["semantics"], labels["mask_camera"], 255).values()) == {0.0}


def test_readings_by_hand() -> None:
    voxels = np.zeros((3, 3, 2), dtype=bool)
    voxels[2, 0, 1] = True
    places = np.array([[[0, 0, 1]]])
    fit = best_other_fit(voxels, places)
    assert (fit.here, fit.there, fit.other) == (0, 1, Reading(mirrored=(0,)))
    assert str(fit) == "0.0% of 1 as it is, 100.0% with x mirrored"
    # exchanged first: place (0, 2, 1) is looked up at (2, 0, 1)
    assert Reading(exchanged=True).look_up(voxels, np.array([[[0, 2, 1]]])).tolist() == [True]
    # a place of two points fits if one of them does
    assert Reading().look_up(voxels, np.array([[[0, 0, 0], [2, 0, 1]], [[0, 0, 0], [1, 0, 1]]])).tolist() == [
        True,
        False,
    ]


def test_the_published_file(real_occ3d: Path, world_dataset: DatasetSpec, prepared: Path) -> None:
    """The one public file has no sensors, so only its classes and masks can be judged."""
    path = next(real_occ3d.glob("gts/*/*/labels.npz"))
    record = read_records(prepared / "records", read_index(prepared / "records"))[0]
    record = record.model_copy(update={"boxes": (), "lidar": None})
    labels = read_labels(path, path.parent.name, world_dataset)
    shares = check_plausible(world_dataset, record, labels, FILE, "occ3d")
    assert shares.free == pytest.approx(600_908 / 640_000)
    assert shares.near["mask_lidar"] == pytest.approx(0.226, abs=1e-3)
    assert shares.far["mask_lidar"] == pytest.approx(0.058, abs=1e-3)
    assert shares.near["mask_camera"] - shares.far["mask_camera"] == pytest.approx(0.132, abs=1e-3)
    for fault in ("free = 16", "free = 0", "free unknown", "no matter"):
        with pytest.raises(DataError, match="cannot be right"):
            check_plausible(world_dataset, record, FAULTS[fault][0](labels), FILE, "occ3d")
    for fault in ("both masks inverted", "mask_lidar inverted", "mask_camera inverted"):
        with pytest.raises(DataError, match="inverted"):
            check_plausible(world_dataset, record, FAULTS[fault][0](labels), FILE, "occ3d")


@pytest.mark.parametrize(
    ("scene", "preset"),
    [
        pytest.param("scene-0061", "default", marks=pytest.mark.slow),
        pytest.param("scene-0061", "release-like", marks=pytest.mark.slow),
        pytest.param("scene-0916", "default", marks=pytest.mark.slow),
        pytest.param("scene-0916", "release-like", marks=pytest.mark.slow),
    ],
)
def test_real_keyframes(scene: str, preset: str, real_nuscenes: Path, tmp_path: Path, sync_runtime: Runtime) -> None:
    """Thick and thin labels of every real keyframe pass, and every fault in them is refused."""
    dataset = DatasetSpec(
        name="real", format="nuscenes", root=real_nuscenes, version="v1.0-mini", work=tmp_path,
        image=ImageSpec(resize=(160, 90), crop=(0, 0, 160, 90)), splits={"val": SplitSpec(scenes=(scene,))},
    )  # fmt: skip
    prepare(dataset, tmp_path, sync_runtime)
    make_occupancy(dataset, tmp_path, LIDAR_PRESETS[preset], sync_runtime)
    for row in range(len(read_index(tmp_path / "records"))):
        record, labels = read_row(tmp_path, row)
        shares = measure_shares(dataset, record, labels)
        assert shares.returns is not None and shares.returns.share > 0.63 and shares.returns.gain < -0.35
        check_plausible(dataset, record, labels, FILE, "occ3d")
        for fault, (change, _) in FAULTS.items():
            with pytest.raises(DataError, match="cannot be right"):
                pytest.fail(f"{fault} passed: {check_plausible(dataset, record, change(labels), FILE, 'occ3d')}")
