from __future__ import annotations

from pathlib import Path

import pytest
import torch

import protoocc
from protoocc.config import TrainConfig
from protoocc.run_folder import read_metrics
from protoocc.trainer import train
from protoocc.training_report import TIMES
from protoocc.validation import spread
from schemas.errors import ConfigError, DataError
from schemas.settings import override

CPU = torch.device("cpu")


def test_chosen_samples_are_spread() -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 50) == [0, 1, 2]
    assert spread(6019, 50)[:3] == [0, 120, 240]


def test_scores_are_those_of_eval_and_change_nothing(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    """All samples of the split after the last step; training gives the same numbers as without."""
    config = override(tiny_config, ["schedule.steps=4", "validation.every=3"])
    summary = train(config, shards, tmp_path / "scored", device=CPU)
    train(override(tiny_config, ["schedule.steps=4"]), shards, tmp_path / "plain", device=CPU)
    rows, plain = (read_metrics(tmp_path / name) for name in ("scored", "plain"))
    assert [row["step"] for row in rows if "val_miou" in row] == [3, 4]  # every third, and the last
    kept = [
        {name: value for name, value in row.items() if name not in TIMES and not name.startswith("val_")}
        for row in rows
    ]
    assert kept == [{name: value for name, value in row.items() if name not in TIMES} for row in plain]
    report = protoocc.score(tmp_path / "scored/checkpoints/step-000004", shards, "val")
    model = next(row for row in report.rows if row.name == "model")
    assert (rows[3]["val_miou"], rows[3]["val_iou"]) == (pytest.approx(model.miou), pytest.approx(model.iou))
    best = max(rows[2:], key=lambda row: row["val_miou"])
    assert (summary.best_miou, summary.best) == (
        best["val_miou"],
        tmp_path / f"scored/checkpoints/step-{int(best['step']):06d}",
    )


@pytest.mark.slow
def test_average_is_scored_in_place_of_the_weights(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = override(tiny_config, ["schedule.steps=3", "validation.every=3", "optimizer.ema=0.999"])
    train(config, shards, tmp_path / "run", device=CPU)
    report = protoocc.score(tmp_path / "run", shards, "val")  # what is stored is the average
    model = next(row for row in report.rows if row.name == "model")
    assert read_metrics(tmp_path / "run")[2]["val_iou"] == pytest.approx(model.iou)


def test_split_that_is_not_there_is_refused_first(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    config = override(tiny_config, ["validation.every=1", "validation.split=test"])
    with pytest.raises((DataError, ConfigError), match="test"):
        train(config, shards, tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()
