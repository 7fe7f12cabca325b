"""Submissions: names, numbers and order of SemanticKITTI's files, the zip by the rules of its server, and Occ3D's."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from protoocc.submission import (
    Benchmark,
    benchmark_numbers,
    benchmark_of,
    check_submission,
    lacking_sequences,
    submission_bytes,
    submission_file,
    write_submission,
)
from schemas.classes import OCC3D, SEMANTICKITTI, ClassTable
from schemas.completion_files import read_prediction
from schemas.errors import ConfigError, DataError
from schemas.geometry import OCC3D_GRID, SEMANTICKITTI_GRID, VoxelGrid

SMALL = VoxelGrid(minimum_m=(0.0, 0.0, 0.0), voxel_size_m=1.0, shape=(3, 2, 2))
TOKENS = ["08-000005", "08-000000", "09-000010"]
RAW_IDS = (0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)
"""`learning_map_inv` of semantic-kitti.yaml."""


def write_files(folder: Path, benchmark: Benchmark, tokens: list[str], volume: np.ndarray) -> None:
    for token in tokens:
        path = folder / benchmark / submission_file(benchmark, token)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(submission_bytes(benchmark, volume))


def test_names_and_order_of_semantickitti() -> None:
    assert str(submission_file("semantickitti", "08-000005")) == "sequences/08/predictions/000005.label"
    volume = np.zeros(SEMANTICKITTI_GRID.shape, np.uint8)
    volume[3, 200, 17], volume[0, 0, 1], volume[255, 255, 31] = 9, 1, 19
    raw = submission_bytes("semantickitti", volume)
    assert len(raw) == 256 * 256 * 32 * 2
    values = np.frombuffer(raw, "<u2")
    found = {int(place): int(values[place]) for place in np.flatnonzero(values)}
    assert found == {1: 10, (3 * 256 + 200) * 32 + 17: 40, 256 * 256 * 32 - 1: 81}


def test_every_class_has_its_raw_id_and_comes_back(tmp_path: Path) -> None:
    volume = np.arange(20, dtype=np.uint8).reshape(5, 2, 2)
    raw = np.frombuffer(submission_bytes("semantickitti", volume), "<u2")
    assert tuple(raw.tolist()) == RAW_IDS
    (tmp_path / "f.label").write_bytes(raw.tobytes())
    assert np.array_equal(read_prediction(tmp_path / "f.label", "08-000000", (5, 2, 2)), volume)
    moving = np.array([252, 258, 259, 256, 257, 254, 253, 255, 60, 16], "<u2")  # moving-car .. lane-marking, on-rails
    (tmp_path / "f.label").write_bytes(moving.tobytes())
    assert read_prediction(tmp_path / "f.label", "08-000000", (5, 2, 1)).ravel().tolist() == [
        1,
        4,
        *[5] * 3,
        *range(6, 10),
        5,
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([52], "holds 52 in 1 voxels, an id without a scored class"),
        ([1, 99], "an id without a scored class"),
        ([2], "holds 2 in 1 voxels, no id of SemanticKITTI"),
    ],
)
def test_numbers_at_which_the_published_program_stops(tmp_path: Path, values: list[int], message: str) -> None:
    raw = np.zeros(12, "<u2")
    raw[: len(values)] = values
    (tmp_path / "f.label").write_bytes(raw.tobytes())
    with pytest.raises(DataError, match=message):
        read_prediction(tmp_path / "f.label", "08-000000", SMALL.shape)
    (tmp_path / "f.label").write_bytes(bytes(22))
    with pytest.raises(DataError, match="has 22 bytes, expected 24"):
        read_prediction(tmp_path / "f.label", "08-000000", SMALL.shape)


def test_zip_follows_the_rules_of_the_server(tmp_path: Path) -> None:
    """The rules: folders are members of their own, one file of 256 * 256 * 32 uint16 a scan, nothing else."""
    write_files(tmp_path, "semantickitti", TOKENS, np.full(SEMANTICKITTI_GRID.shape, 15, np.uint8))
    path = write_submission(tmp_path, "semantickitti", TOKENS, SEMANTICKITTI_GRID)
    assert path == tmp_path / "submission.zip"
    with zipfile.ZipFile(path) as archive:
        folders = [info.filename for info in archive.infolist() if info.is_dir()]
        sizes = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
        assert set(np.frombuffer(archive.read("sequences/09/predictions/000010.label"), "<u2").tolist()) == {70}
    assert folders == [
        *("sequences/", "sequences/08/", "sequences/08/predictions/"),
        *("sequences/09/", "sequences/09/predictions/"),
    ]
    names = ["08/predictions/000000", "08/predictions/000005", "09/predictions/000010"]
    assert sizes == {f"sequences/{name}.label": 4194304 for name in names}
    before = path.read_bytes()
    assert write_submission(tmp_path, "semantickitti", TOKENS, SEMANTICKITTI_GRID).read_bytes() == before


def test_incomplete_and_foreign_files_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, "semantickitti", TOKENS[:2], np.zeros(SMALL.shape, np.uint8))
    with pytest.raises(DataError, match=r"1 files are missing, such as sequences/09/predictions/000010.label"):
        write_submission(tmp_path, "semantickitti", TOKENS, SMALL)
    with pytest.raises(DataError, match=r"1 files are of no sample, such as sequences/08/predictions/000005.label"):
        write_submission(tmp_path, "semantickitti", TOKENS[1:2], SMALL)
    (tmp_path / "semantickitti/sequences/08/predictions/000000.label").write_bytes(b"\x34\x00" * 12)
    with pytest.raises(DataError, match=r"000000.label \(sample 08-000000\): holds 52"):
        write_submission(tmp_path, "semantickitti", TOKENS[:2], SMALL)
    assert not list(tmp_path.glob("submission.zip*"))


def test_server_wants_all_test_sequences() -> None:
    assert lacking_sequences(f"{number}-000000" for number in range(11, 22)) == ()
    assert lacking_sequences(f"{number}-000000" for number in range(11, 21)) == ("21",)
    assert lacking_sequences(TOKENS) == ()


def test_occ3d_has_its_own_form(tmp_path: Path) -> None:
    write_files(tmp_path, "occ3d", ["a", "b"], np.full(SMALL.shape, 17, np.uint8))
    with zipfile.ZipFile(write_submission(tmp_path, "occ3d", ["b", "a"], SMALL)) as archive:
        assert archive.namelist() == ["a.npz", "b.npz"]
        with archive.open("a.npz") as file:
            assert np.array_equal(np.load(file)["arr_0"], np.full(SMALL.shape, 17))
    write_files(tmp_path, "occ3d", ["a"], np.full(SMALL.shape, 18, np.uint8))
    with pytest.raises(DataError, match=r"is uint8 \(3, 2, 2\) up to 18, expected uint8 \(3, 2, 2\) up to 17"):
        write_submission(tmp_path, "occ3d", ["a", "b"], SMALL)


def test_the_classes_decide_the_benchmark() -> None:
    assert (benchmark_of(OCC3D), benchmark_of(SEMANTICKITTI)) == ("occ3d", "semantickitti")
    other = ClassTable(names=("road", "empty", "pole"), colors=((0, 0, 0),) * 3, free=1)
    assert benchmark_of(other) == "semantickitti"
    assert benchmark_numbers("semantickitti", other).tolist() == [9, 0, 18]
    with pytest.raises(ConfigError, match="SemanticKITTI files know no class 'barrier' of the network"):
        benchmark_numbers("semantickitti", OCC3D)
    with pytest.raises(ConfigError, match="a submission to SemanticKITTI has the grid"):
        check_submission("semantickitti", SEMANTICKITTI, OCC3D_GRID)
    check_submission("semantickitti", SEMANTICKITTI, SEMANTICKITTI_GRID)
    with pytest.raises(DataError, match="sample 'token-1': expected <sequence>-<scan>"):
        submission_file("semantickitti", "token-1")
