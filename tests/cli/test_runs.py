"""`protoocc runs`, `report` and `train --plan` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from schemas.errors import ConfigError
from tests.protoocc.test_run_facts import make_run


def answer(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs that differ in their seed and length."""
    monkeypatch.setenv("COLUMNS", "250")
    scores = {"split": "val", "rows": [{"name": "model", "masks": {"camera": {"miou": 0.125, "iou": None}}}]}
    (make_run(tmp_path / "one", seed=0) / "eval.json").write_text(json.dumps(scores))
    make_run(tmp_path / "two", rows=7, seed=1)
    return tmp_path


def test_list(runs: Path) -> None:
    lines = answer("runs", runs).splitlines()
    assert lines[0].split() == ["run", "network", "steps", "state", "losses", "best", "validation", "eval", "time"]
    assert [line.split()[1:6] for line in lines[1:]] == [
        ["protoocc", "20", "/", "20", "finished"],
        ["protoocc", "7", "/", "20", "stopped"],
    ]
    assert "mIoU 12.50, IoU - on val" in lines[1]
    assert "ce 80.5, total 1" in lines[1] and "mIoU 30.00, IoU 60.00 at 10" in lines[1] and "0:00:10" in lines[1]


def test_json(runs: Path) -> None:
    one, two = json.loads(answer("runs", runs, "--json"))
    assert (one["name"], one["step"], one["scores"]["miou"], two["state"]) == ("one", 20, 0.3, "stopped")
    assert "rows" not in one
    both = json.loads(answer("runs", runs / "one", runs / "two", "--json"))
    assert both["differing_settings"] == {"seed": [0, 1]} and both["runs"] == [one, two]


def test_comparison(runs: Path) -> None:
    """Only what differs, then the figures; a setting that a run does not know is no null."""
    make_run(runs / "three", seed=0, weights=None)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in compared(runs).splitlines()]
    rows = {row[0]: row[1:] for row in cells if row}
    assert rows["seed"] == ["0", "1", "0"] and rows["weights"] == ["-", "-", "null"]
    assert "model.kind" not in rows and "schedule.steps" not in rows
    assert rows["steps"] == ["20 / 20", "7 / 20", "20 / 20"]
    assert rows["eval on"] == ["val", "-", "-"] and rows["eval miou, %"] == ["12.50", "-", "-"]
    assert rows["ce"][0] == "98.5 -> 80.5" and rows["best miou, %"] == ["30.00", "25.00", "30.00"]


def compared(runs: Path) -> str:
    return answer("runs", runs / "one", runs / "two", runs / "three")


def test_a_folder_without_runs(tmp_path: Path) -> None:
    assert "no runs in" in answer("runs", tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        answer("runs", tmp_path / "nowhere")


def test_report(runs: Path) -> None:
    path = Path(answer("report", runs / "one", "--count", 0).strip())
    assert path == runs / "one" / "report.html" and "miou 30.00" in path.read_text()
    with pytest.raises(ConfigError, match="--split does not apply: --count 0"):
        answer("report", runs / "one", "--count", 0, "--split", "train")


def test_plan() -> None:
    text = answer("train", "--plan", "--samples", 80)
    assert "400 steps of 1 samples" in text and "23c221d" in text
    plan = json.loads(answer("train", "--plan", "--preset", "panoocc-small", "--samples", 28130, "--json"))
    assert (plan["steps"], plan["costs"][0]["memory_gb"], plan["costs"][0]["hours"]) == (42195, 10.9, None)
    with pytest.raises(ConfigError, match="--hardware does not apply"):
        answer("train", "--hardware", "cpu")
    with pytest.raises(ConfigError, match="--resume does not apply: --plan trains nothing"):
        answer("train", "--plan", "--resume", "--samples", 3)
