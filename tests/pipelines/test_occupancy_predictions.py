"""Files of predictions as others write them: which belong to a split, what they hold, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.occupancy.label_sets import LABEL_SETS
from pipelines.occupancy.layouts import LAYOUTS
from pipelines.occupancy.predictions import open_predictions
from schemas.classes import OCC3D, SEMANTICKITTI, ClassTable
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, DataError
from schemas.geometry import OCC3D_GRID, VoxelGrid
from schemas.records import read_index, read_records
from schemas.shards import DatasetInfo, SampleEntry

CAR, ROAD, FREE, IGNORED = 4, 11, 17, 255
GRID = VoxelGrid(minimum_m=(0.0, 0.0, 0.0), voxel_size_m=1.0, shape=(3, 2, 2))
INFO = DatasetInfo(name="tiny", cameras=("CAM_FRONT",), image_shape=(16, 16), grid=GRID, classes=OCC3D)
SAMPLES = [
    SampleEntry(key=f"scene-1-{frame:04d}", token=f"token-{frame}", scene="scene-1", frame=frame, members={})
    for frame in range(2)
]


def volume(frame: int) -> np.ndarray:
    labels = np.full(GRID.shape, FREE, np.uint8)
    labels[frame, 0, 0], labels[2, 1, 1] = CAR, ROAD
    return labels


def submission(path: Path, labels: np.ndarray) -> None:
    np.savez_compressed(path, labels)


def sparseocc(path: Path, labels: np.ndarray) -> None:
    np.savez_compressed(path, pred=labels.reshape(1, -1), instances=labels)


def own_arrays(path: Path, labels: np.ndarray) -> None:
    np.savez_compressed(path, semantics=labels, seen=labels)


def write_flat(folder: Path, save: Callable[[Path, np.ndarray], None], *, name: str = "token") -> Path:
    folder.mkdir(exist_ok=True)
    for frame, sample in enumerate(SAMPLES):
        save(folder / f"{getattr(sample, name)}.npz", volume(frame))
    return folder


@pytest.mark.parametrize(
    ("save", "name"), [(submission, "token"), (sparseocc, "token"), (own_arrays, "token"), (own_arrays, "key")]
)
def test_one_file_for_each_sample(tmp_path: Path, save: Callable[[Path, np.ndarray], None], name: str) -> None:
    folder = write_flat(tmp_path / "results", save, name=name)
    (folder / "._token-0.npz").write_bytes(b"left by another system")
    (folder / "readme.txt").write_text("notes")
    files = open_predictions(folder, SAMPLES, INFO)
    assert files.folder == folder
    for frame, sample in enumerate(SAMPLES):
        assert np.array_equal(files.read(sample), volume(frame))


def test_a_folder_of_predict_is_its_files(tmp_path: Path) -> None:
    """One folder for each form that was written; pictures are none."""
    (tmp_path / "predictions.json").write_text("{}")
    (tmp_path / "pictures").mkdir()
    occ3d = write_flat(tmp_path / "occ3d", submission)
    assert open_predictions(tmp_path, SAMPLES, INFO).folder == occ3d
    npz = write_flat(tmp_path / "npz", own_arrays, name="key")
    assert open_predictions(tmp_path, SAMPLES, INFO).folder == npz
    assert open_predictions(tmp_path, SAMPLES, INFO, "occ3d").folder == occ3d


@pytest.mark.parametrize("inner", ["gts/scene-1", "scene-1"])
def test_arranged_as_labels_are(tmp_path: Path, inner: str) -> None:
    for frame, sample in enumerate(SAMPLES):
        path = tmp_path / inner / sample.token / "labels.npz"
        path.parent.mkdir(parents=True)
        own_arrays(path, volume(frame).astype(np.int64))
    files = open_predictions(tmp_path, SAMPLES, INFO, "occ3d")
    assert np.array_equal(files.read(SAMPLES[1]), volume(1))


def test_numbers_of_another_set_become_those_of_the_shards(tmp_path: Path) -> None:
    """OpenOcc v2 numbers cars 0, roads 10 and free 16; 255 is unknown."""
    folder = tmp_path / "results"
    folder.mkdir()
    theirs = np.full(GRID.shape, 16, np.uint8)
    theirs[0, 0, 0], theirs[2, 1, 1], theirs[0, 0, 1] = 0, 10, 255
    for sample in SAMPLES:
        submission(folder / f"{sample.token}.npz", theirs)
    expected = volume(0)
    expected[0, 0, 1] = IGNORED
    assert np.array_equal(open_predictions(folder, SAMPLES, INFO, "openocc-v2").read(SAMPLES[0]), expected)
    # Read as numbers of the shards, the same file says something else.
    assert open_predictions(folder, SAMPLES, INFO).read(SAMPLES[0])[0, 0, 0] == 0


def test_numbers_are_those_of_the_shards_own_table(tmp_path: Path) -> None:
    table = ClassTable(names=("free", "wall"), colors=((0, 0, 0), (1, 1, 1)), free=0, ignored=99)
    info = INFO.model_copy(update={"classes": table})
    folder = tmp_path / "results"
    folder.mkdir()
    for number, sample in enumerate(SAMPLES):
        submission(folder / f"{sample.token}.npz", np.full(GRID.shape, (1, 2)[number], np.uint8))
    files = open_predictions(folder, SAMPLES, info)
    assert (files.read(SAMPLES[0]) == 1).all()
    with pytest.raises(DataError, match=r"token-1.npz \(sample token-1\): 'semantics' holds 2, expected 0..1"):
        files.read(SAMPLES[1])
    with pytest.raises(ConfigError, match="the label files have a class 'others', its class table has not"):
        open_predictions(folder, SAMPLES, info, "occ3d")


def test_missing_and_foreign_files_are_one_message(tmp_path: Path) -> None:
    folder = write_flat(tmp_path / "results", submission)
    (folder / "token-1.npz").rename(folder / "token-9.npz")
    with pytest.raises(DataError) as caught:
        open_predictions(folder, SAMPLES, INFO)
    message = str(caught.value)
    assert "no file for 1 of 2 samples of the split: token-1 (" in message
    assert "1 file of no sample of the split: token-9.npz" in message
    (folder / "token-1.npz").write_bytes(b"")
    with pytest.raises(DataError, match="1 file of no sample of the split: token-9.npz"):
        open_predictions(folder, SAMPLES, INFO)


def test_empty_and_absent_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file for 2 of 2 samples"):
        open_predictions(tmp_path, SAMPLES, INFO)
    with pytest.raises(ConfigError, match="no such folder"):
        open_predictions(tmp_path / "nowhere", SAMPLES, INFO)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda path, labels: path.write_bytes(b"cut"), r"\(sample token-0\) is damaged"),
        (lambda path, labels: np.savez(path, logits=labels), r"holds \['logits'\], expected one array of classes"),
        (lambda path, labels: np.savez(path, labels, pred=labels), r"holds \['pred', 'arr_0'\], expected one"),
        (lambda path, labels: submission(path, labels[:2]), r"is uint8 \(2, 2, 2\), expected uint8 \(3, 2, 2\)"),
        (lambda path, labels: submission(path, labels.astype(np.float32)), r"is float32 \(3, 2, 2\), expected uint8"),
        (lambda path, labels: submission(path, labels + 1), r"holds 18, expected 0..17 \(free 17\) or 255"),
    ],
)
def test_what_a_file_must_hold(tmp_path: Path, save: Callable[[Path, np.ndarray], None], message: str) -> None:
    folder = write_flat(tmp_path / "results", save)
    with pytest.raises(DataError, match=message):
        open_predictions(folder, SAMPLES, INFO).read(SAMPLES[0])


@pytest.fixture
def world_samples(world_dataset: DatasetSpec, prepared: Path) -> list[SampleEntry]:
    records = read_records(prepared / "records", read_index(prepared / "records"))
    return [
        SampleEntry(key=f"{one.scene}-{one.frame:04d}", token=one.token, scene=one.scene, frame=one.frame, members={})
        for one in records
        if "val" in one.splits
    ]


def test_lists_of_voxels_are_brought_into_the_grid_of_the_shards(
    world_dataset: DatasetSpec, prepared: Path, world_samples: list[SampleEntry], tmp_path: Path
) -> None:
    """SurroundOcc: a car in the voxel that holds a point 10 m before the LiDAR; where its grid ends, all is unknown."""
    records = {one.token: one for one in read_records(prepared / "records", read_index(prepared / "records"))}
    grid = LABEL_SETS["surroundocc"].grid
    point_lidar = np.array([[0.3, 10.3, 0.3]])
    row = [*grid.voxel_index(point_lidar)[0].tolist(), CAR]
    for sample in world_samples:
        np.save(tmp_path / f"{Path(records[sample.token].keyframe_sweep.path).name}.npy", np.array([row]))
    info = INFO.model_copy(update={"grid": OCC3D_GRID})
    files = open_predictions(tmp_path, world_samples, info, "surroundocc", world_dataset)
    labels = files.read(world_samples[0])
    mounting = records[world_samples[0].token].keyframe_sweep.ego_from_lidar.matrix
    place = OCC3D_GRID.voxel_index(point_lidar @ mounting[:3, :3].T + mounting[:3, 3])[0]
    assert labels[tuple(place)] == CAR
    assert {CAR, FREE} <= set(np.unique(labels).tolist()) <= {CAR, FREE, IGNORED}
    np.save(tmp_path / "other.pcd.bin.npy", np.array([row]))
    with pytest.raises(DataError, match="1 file of no sample of the split: other.pcd.bin.npy"):
        open_predictions(tmp_path, world_samples, info, "surroundocc", world_dataset)


def test_what_surroundocc_leaves_reads_as_its_labels_do(
    world_dataset: DatasetSpec, prepared: Path, world_samples: list[SampleEntry], tmp_path: Path
) -> None:
    """`<point file>./pred.npy` has middles of voxels in metres; the same voxels by index in `<point file>.npy`."""
    records = {one.token: one for one in read_records(prepared / "records", read_index(prepared / "records"))}
    grid = LABEL_SETS["surroundocc"].grid
    index = np.array([[100, 120, 10], [0, 0, 0], [199, 199, 15]])
    middles = np.array([[0.25, 10.25, 0.25], [-49.75, -49.75, -4.75], [49.75, 49.75, 2.75]], np.float32)
    labels = np.array([[CAR], [ROAD], [ROAD]])
    for sample in world_samples:
        name = Path(records[sample.token].keyframe_sweep.path).name
        (tmp_path / "results" / f"{name}.").mkdir(parents=True)
        np.save(tmp_path / "results" / f"{name}." / "pred.npy", np.concatenate([middles, labels], axis=1))
        (tmp_path / "labels").mkdir(exist_ok=True)
        np.save(tmp_path / "labels" / f"{name}.npy", np.concatenate([index, labels], axis=1))
    info = INFO.model_copy(update={"grid": OCC3D_GRID})
    read = [
        open_predictions(tmp_path / folder, world_samples, info, "surroundocc", world_dataset).read(world_samples[0])
        for folder in ("results", "labels")
    ]
    assert grid.shape == (200, 200, 16) and CAR in read[0]
    np.testing.assert_array_equal(*read)
    first = next((tmp_path / "results").glob("*/pred.npy"))
    np.save(first, np.array([[0.25, np.nan, 0.25, CAR]]))
    files = open_predictions(tmp_path / "results", world_samples, info, "surroundocc", world_dataset)
    with pytest.raises(DataError, match="expected metres and a class"):
        [files.read(sample) for sample in world_samples]


def test_lists_need_the_records_of_an_entry(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--source openoccupancy: .* name its entry with --dataset"):
        open_predictions(tmp_path, SAMPLES, INFO, "openoccupancy")


def test_samples_without_a_record_are_refused(world_dataset: DatasetSpec, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no record of sample token-0"):
        open_predictions(tmp_path, SAMPLES, INFO, "surroundocc", world_dataset)


def test_a_real_label_file_reads_as_a_prediction(real_occ3d: Path) -> None:
    """Occ3D's own file, in the arrangement in which Occ3D ships it."""
    token = "29796060110c4163b07f06eff4af0753"
    sample = SampleEntry(key="scene-1077-0000", token=token, scene="scene-1077", frame=0, members={})
    info = INFO.model_copy(update={"grid": OCC3D_GRID})
    labels = open_predictions(real_occ3d, [sample], info, "occ3d").read(sample)
    # Counted in the published file: 600,908 free voxels, 39,092 occupied ones.
    assert [int((labels == FREE).sum()), int((labels != FREE).sum())] == [600_908, 39_092]
    assert set(LAYOUTS["occ3d"].classes) == set(OCC3D.names)


SCANS = [
    SampleEntry(key=f"08-{frame:04d}", token=f"08-{5 * frame:06d}", scene="08", frame=frame, members={})
    for frame in range(2)
]


def test_submissions_of_semantickitti(tmp_path: Path) -> None:
    """Raw ids become classes by name; 252 is a moving car; the order is x, y, z with z fastest."""
    folder = tmp_path / "sequences/08/predictions"
    folder.mkdir(parents=True)
    for scan in ("000000", "000005"):
        (folder / f"{scan}.label").write_bytes(np.array([0, 10, 252, 40, *[0] * 7, 81], "<u2").tobytes())
    info = INFO.model_copy(update={"classes": SEMANTICKITTI})
    found = open_predictions(tmp_path, SCANS, info).read(SCANS[1])
    expected = np.zeros(GRID.shape, np.uint8)
    expected[0, 0, 1] = expected[0, 1, 0] = 1
    expected[0, 1, 1], expected[2, 1, 1] = 9, 19
    assert np.array_equal(found, expected)
    (folder / "000005.label").rename(folder / "000006.label")
    with pytest.raises(DataError, match=r"no file for 1 of 2 samples .*08-000005.*1 file of no sample.*000006.label"):
        open_predictions(tmp_path, SCANS, info)
    with pytest.raises(ConfigError, match="class 'other-vehicle', its class table has not"):
        open_predictions(tmp_path, SCANS, INFO)
