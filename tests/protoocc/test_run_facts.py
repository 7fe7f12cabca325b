"""What a run folder tells about itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protoocc.run_facts import find_runs, read_run, shards_of
from schemas.errors import ConfigError, DataError
from schemas.lock import folder_lock


def make_run(folder: Path, rows: int = 20, steps: int | None = 20, **settings: object) -> Path:
    """A run whose loss falls by one a step and which is validated every fifth step."""
    (folder / "checkpoints" / f"step-{rows:06d}").mkdir(parents=True)
    schedule = {"steps": steps, "epochs": None if steps else 2}
    config = {"model": {"kind": "protoocc"}, "schedule": schedule, "data": {"batch_size": 2, "split": "train"}}
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    lines = []
    for step in range(1, rows + 1):
        row = {"step": step, "lr": 0.1, "ce": 100.0 - step, "total": 1.0, "gradient_norm": 2.0, "seconds": 0.5}
        scores = {"val_miou": 0.3 - abs(step - 10) / 100, "val_iou": 0.6} if step % 5 == 0 else {}
        lines.append(json.dumps({**row, **scores}) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def test_figures_by_hand(tmp_path: Path) -> None:
    """Twenty steps: a tenth are two, 99 and 98 at first, 81 and 80 at last; the best of four validations is at 10."""
    run = read_run(make_run(tmp_path / "run"))
    assert (run.name, run.kind, run.dataset, run.state) == ("run", "protoocc", "", "finished")
    assert (run.step, run.steps, run.seconds) == (20, 20, 10.0)
    assert (run.first, run.last) == ({"ce": 98.5, "total": 1.0}, {"ce": 80.5, "total": 1.0})
    assert (run.scores, run.scores_step) == ({"miou": 0.3, "iou": 0.6}, 10)
    assert run.settings["model.kind"] == "protoocc" and len(run.rows) == 20
    assert (run.evaluated, run.evaluated_split) == ({}, "")


def test_kept_scores_are_those_of_the_network(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    model = {"camera": {"miou": 0.2, "iou": None, "classes": {"car": 1}}, "none": {"miou": 0.1}}
    rows = [{"name": "frequent_class", "masks": {"camera": {"miou": 0.4}}}, {"name": "model", "masks": model}]
    (folder / "eval.json").write_text(json.dumps({"split": "val", "samples": 3, "rows": rows}))
    run = read_run(folder)
    assert (run.evaluated, run.evaluated_split) == ({"miou": 0.2, "iou": None, "ray_iou": None}, "val")


def test_states(tmp_path: Path) -> None:
    stopped = make_run(tmp_path / "stopped", rows=7)
    assert read_run(stopped).state == "stopped"
    with folder_lock(stopped):
        assert read_run(stopped).state == "running"
    empty = make_run(tmp_path / "empty", rows=0)
    assert read_run(empty).state == "empty" and read_run(empty).last == {}


def test_epochs_are_counted_on_the_shards(tmp_path: Path) -> None:
    """Two epochs of 5 samples in batches of 2 are 5 steps; without the shards nobody knows."""
    run, shards = make_run(tmp_path / "run", rows=5, steps=None), tmp_path / "shards"
    assert (read_run(run).steps, read_run(run).state, shards_of(run)) == (None, "stopped", None)
    shards.mkdir()
    lists = [{"split": "train", "nsamples": 3}, {"split": "train", "nsamples": 2}, {"split": "val", "nsamples": 9}]
    (shards / "manifest.json").write_text(json.dumps({"shardlist": lists}))
    (run / "trained_on.json").write_text(json.dumps({"dataset": "tiny", "shards": str(shards)}))
    found = read_run(run)
    assert (found.steps, found.state, found.dataset, shards_of(run)) == (5, "finished", "tiny", shards)


def test_runs_are_found_at_any_depth(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a" / "b"), make_run(tmp_path / "c")]
    (runs[0] / "checkpoints" / "step-000020" / "config.json").write_text("{}")  # no run of its own
    assert find_runs(tmp_path) == runs
    assert find_runs(runs[1]) == [runs[1]]
    with pytest.raises(ConfigError, match="no such folder"):
        find_runs(tmp_path / "nowhere")


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no run: it holds no config.json"):
        read_run(tmp_path)
    run = make_run(tmp_path / "run", schedule={"steps": "many"})
    with pytest.raises(DataError, match=r"config.json is damaged: steps is 'many', expected a whole number"):
        read_run(run)
    (run / "config.json").write_text("[1]")
    with pytest.raises(DataError, match=r"config.json"):
        read_run(run)
