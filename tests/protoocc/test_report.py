"""The page of a run: whole, of one file, the same again."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import protoocc
from protoocc.config import TrainConfig
from protoocc.environment import environment
from protoocc.report import write_report
from protoocc.report.curves import MOST_POINTS, draw_curves, panels
from protoocc.report.page import page, table
from schemas.errors import DataError
from schemas.settings import override
from tests.protoocc.test_run_facts import make_run

VOID = {"meta", "img"}


class Balance(HTMLParser):
    """Refuses tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_whole(text: str) -> None:
    """Balanced, and nothing in it is fetched from elsewhere."""
    parser = Balance()
    parser.feed(text)
    assert not parser.open
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]{0,40})', text))
    outside = [link for link in re.findall(r"https?://[^\"'<> )]*", text) if not link.startswith("http://www.w3.org/")]
    assert not outside and not re.search(r"<script|<link|@import|url\((?!#)", text)


@pytest.fixture(scope="module")
def trained(shards: Path, make_tiny_config: type[TrainConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real steps."""
    run = tmp_path_factory.mktemp("trained") / "run & <b>"
    protoocc.train(override(make_tiny_config(), ["schedule.steps=3"]), shards, run)
    return run


def test_report_of_a_real_run(trained: Path, shards: Path) -> None:
    text = write_report(trained, shards, count=1).read_text()
    assert_whole(text)
    assert "<h1>run &amp; &lt;b&gt;</h1>" in text and "protoocc network, finished" in text
    for heading in ("Summary", "Curves", "Pictures", "Environment", "Settings"):
        assert f"<h2>{heading}</h2>" in text
    assert "<h2>Scores</h2>" not in text and "<h2>Validation during training</h2>" not in text
    assert text.count("<img ") == 1 and "val, scene-val-00000-0001" in text
    assert environment()["protoocc"] in text and "optimizer.lr" in text
    assert any(b"val/scene-val" in path.read_bytes() for path in (trained / "tensorboard").iterdir())


def test_same_bytes_again(trained: Path) -> None:
    first = write_report(trained, None, count=0).read_bytes()
    assert write_report(trained, None, count=0).read_bytes() == first


def test_missing_things_are_said(trained: Path, shards: Path, tmp_path: Path) -> None:
    assert "the shards that the run was trained on are not there" in write_report(trained, None).read_text()
    other = write_report(trained, shards, split="test").read_text()
    assert "None were drawn: " in other and "test" in other
    empty = write_report(make_run(tmp_path / "empty", rows=0), None).read_text()
    assert "No step is finished yet." in empty
    assert_whole(empty)


def test_validations_and_scores(tmp_path: Path) -> None:
    """Four validations in a table, the best in the summary; what eval printed has a column for each predictor."""
    run = make_run(tmp_path / "run")
    model = {"name": "model", "masks": {"camera": {"miou": 0.125, "classes": {"car": None, "road": 0.5}}}}
    rows = [model, {"name": "frequent_class", "masks": {"camera": {"miou": 0.1, "classes": {"road": 0.25}}}}]
    (run / "eval.json").write_text(json.dumps({"split": "val", "rows": rows}))
    text = write_report(run, None, count=0).read_text()
    assert_whole(text)
    assert "<tr><td>10</td><td>30.00</td><td>60.00</td></tr>" in text
    assert "miou 30.00, iou 60.00 (step 10)" in text and "<tr><td>ce</td><td>98.5</td><td>80.5</td></tr>" in text
    assert "<tr><th>%</th><th>model</th><th>frequent_class</th></tr>" in text
    assert "<tr><td>road</td><td>50.00</td><td>25.00</td></tr>" in text
    assert "<tr><td>car</td><td>-</td><td>-</td></tr>" in text
    assert "<h2>Pictures</h2>" not in text
    (run / "eval.json").write_text('{"rows": 3}')
    with pytest.raises(DataError, match="eval.json: 'rows' is no list"):
        write_report(run, None)
    (run / "eval.json").write_text("")
    with pytest.raises(DataError, match=r"eval.json.*Make it again with `protoocc eval`"):
        write_report(run, None)


def test_curves_have_means_of_many_steps() -> None:
    """1000 steps become 300 points; losses stand alone, scores together in percent."""
    rows = [{"step": n, "ce": float(n), "lr": 0.1, "seconds": 1.0, "data_seconds": 0.5} for n in range(1, 1001)]
    rows[99] |= {"val_miou": 0.2, "val_iou": 0.5}
    found = panels(rows)
    assert list(found) == ["ce", "validation, %", "learning rate", "seconds a step"]
    steps, values = found["ce"]["ce"]
    assert len(steps) == MOST_POINTS and steps == values and steps[0] == 2.5  # the mean of 1, 2, 3 and 4
    assert found["validation, %"] == {"miou": ([100.0], [20.0]), "iou": ([100.0], [50.0])}
    svg = draw_curves(rows)
    assert svg == draw_curves(rows) and svg.startswith("<svg") and svg.rstrip().endswith("</svg>")


def test_text_is_never_markup() -> None:
    assert_whole(page("<i>", "a & b", {"<u>": table([("<script>", "x")], ("</td>", "y"))}))
    assert table([]) == ""
