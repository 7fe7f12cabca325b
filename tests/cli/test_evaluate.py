"""`protoocc eval` on files of predictions: the table, JSON, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from cli.score_table import print_report, title_of
from protoocc.data import ShardDataset, open_shards
from protoocc.eval_report import EvalReport
from schemas.errors import ConfigError, DataError


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


@pytest.fixture(scope="module")
def files(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Submissions that hold the labels of the split `val`."""
    folder = tmp_path_factory.mktemp("results") / "submission"
    folder.mkdir()
    dataset = ShardDataset(open_shards(packed, "val"))
    for index, (_, sample) in enumerate(dataset.shards.samples):
        np.savez_compressed(folder / f"{sample.token}.npz", dataset.occupancy(index)["semantics"])
    return folder


@pytest.fixture(scope="module")
def report(packed: Path, files: Path) -> EvalReport:
    answer = evaluate("--shards", packed, "--predictions", files, "--json", "--workers", 2)
    assert answer.exit_code == 0, answer.output
    return EvalReport.model_validate_json(answer.stdout[answer.stdout.index("{") :])


def test_json_says_what_every_number_belongs_to(report: EvalReport, files: Path) -> None:
    assert (report.dataset, report.split, report.samples, report.frames) == ("tiny", "val", 2, None)
    assert report.predictions == str(files)
    assert report.code_version
    assert list(report.row("predictions").masks) == ["camera", "lidar", "none"]
    assert report.row("predictions").miou == 1


def test_table_has_masks_zones_and_rays(
    report: EvalReport, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_report(report)
    lines = capsys.readouterr().out.splitlines()
    assert "tiny, split val: 2 samples, unknown frames" in lines[0]
    assert report.code_version in lines[0]
    head = " ".join(lines[1:5]).split()
    assert [head.count(word) for word in ("predictions", "camera", "LiDAR", "mask")] == [3, 2, 2, 2]
    rows = {line[:26].strip(): line[26:].split() for line in lines[5:]}
    assert rows["mIoU"][:3] == ["100.00"] * 3
    for name in ("IoU (occupied)", "IoU of things", "IoU of ground", "driveable_surface", "mIoU 0-10 m away"):
        assert len(rows[name]) == 6, name
    assert len(rows["IoU below 0.2 m high"]) == 6
    for name in ("RayIoU", "RayIoU within 1 m", "RayIoU within 2 m", "RayIoU within 4 m"):
        assert rows[name][:4] == ["-", "-", "100.00", "-"]
    assert max(map(len, lines[:-1])) <= 100


def test_table_without_rays_says_why(report: EvalReport, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tuple(row.model_copy(update={"rays": None}) for row in report.rows)
    old = report.model_copy(update={"rows": rows, "without_rays": "nobody knows", "unknown_voxels": 1234})
    print_report(old)
    printed = capsys.readouterr().out
    assert "No RayIoU: nobody knows" in printed and "RayIoU within" not in printed
    assert "1,234 scored voxels are unknown in the predictions and count as free" in printed


def test_title_tells_frames(report: EvalReport) -> None:
    assert "2 samples, 1 frame, " in title_of(report.model_copy(update={"frames": 1}))
    assert "2 samples, 4 frames, " in title_of(report.model_copy(update={"frames": 4}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--source", "occ3d"), "--source does not apply: it says how --predictions are stored"),
        (("--predictions", "x", "--run", "y"), "--run does not apply"),
        (("--predictions", "x", "--source", "occ4d"), "--source occ4d: expected occ3d, .* Did you mean occ3d"),
        (("--predictions", "x", "--source", "surroundocc"), "--dataset instead of --shards"),
        (("--predictions", "x"), "no such folder"),
    ],
)
def test_what_does_not_apply(
    packed: Path, tmp_path: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "surroundocc" in arguments:
        Path("x").mkdir()
    answer = evaluate("--shards", packed, *arguments)
    assert isinstance(answer.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise answer.exception


def test_missing_file_is_one_message(packed: Path, files: Path) -> None:
    answer = evaluate("--shards", packed, "--predictions", files, "--split", "train")
    assert isinstance(answer.exception, DataError)
    assert "no file for 2 of 2 samples" in str(answer.exception)
    assert "2 files of no sample of the split" in str(answer.exception)


def test_numbers_are_plain_json(report: EvalReport) -> None:
    row = json.loads(report.model_dump_json())["rows"][0]
    assert row["masks"]["none"]["heights"]["below 0.2 m"]["iou"] == 1
    assert row["rays"]["at"] == {"1 m": 1, "2 m": 1, "4 m": 1}
