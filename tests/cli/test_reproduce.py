"""`protoocc reproduce`: killed and continued, refused, and whole on the smallest world."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli.model
import cli.runs
from cli.main import app
from cli.reproduce import Plan, Training, choose_rows, make_data, train_rounds
from cli.world import World, make_world
from pipelines.masks import SamConfig, SeedsConfig
from protoocc.ablations import rows_of
from protoocc.reproduced_table import ReproducedTable, TableFacts
from protoocc.training_report import StepReport
from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError, ProtoOccError
from schemas.settings import override
from tests.protoocc.conftest import make_config, write_shards

ROOT = Path(__file__).parents[2]
ROWS = ("none", "all")
FACTS = TableFacts(
    table="table4",
    split="test",
    samples=2,
    train_samples=3,
    steps=2,
    changes=(),
    world={"seed": 0},
    left_out={},
    command="protoocc reproduce table4",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with all three splits."""
    return write_shards(tmp_path_factory.mktemp("tiny") / "shards", {"train": [3], "val": [1], "test": [2]})


def planned(out: Path, seeds: int, **changes: object) -> list[dict[str, Training]]:
    """Two rows of table 4 with a network of some thousand parameters, 2 steps, a checkpoint after each."""
    rows, rounds = rows_of("table4"), []
    for seed in range(seeds):
        own = ["schedule.steps=2", "schedule.warmup_steps=0", "data.batch_size=1", "checkpoint_every=1", f"seed={seed}"]
        own += [f"{name}={value}" for name, value in changes.items()]
        configs = {name: override(make_config(), [*rows[name].changes, *own]) for name in ROWS}
        run = {name: out / f"runs/table4-{name}/seed-{seed}" for name in ROWS}
        rounds.append({name: Training(configs[name], run[name], "seeds-299") for name in ROWS})
    return rounds


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Run and number of every step that is made; without reports, which take seconds."""
    steps: list[tuple[str, int]] = []
    run = ""

    def note_shards(folder: Path, shards: Path) -> None:
        nonlocal run
        run = "/".join(folder.parts[-2:])

    def note_of(reports: Sequence[StepReport]) -> str:
        steps.append((run, reports[-1].step))
        return ""

    monkeypatch.setattr(cli.runs, "write_report_of", lambda run, *others, **options: run / "report.html")
    monkeypatch.setattr(cli.model, "note_of", note_of)
    monkeypatch.setattr(cli.model, "note_shards", note_shards)
    return steps


class KilledError(Exception):
    """Stands for a kill signal between two steps."""


def scores(table: ReproducedTable) -> list[Any]:
    return [[seed.scores for seed in row.seeds] for row in table.rows]


def test_killed_table_goes_on_where_it_was(
    tiny: Path, tmp_path: Path, trained: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the last of four steps: the three before are not made again. More seeds later cost only theirs."""
    shards, out = {"seeds-299": tiny}, tmp_path / "out"
    whole = train_rounds(planned(tmp_path / "whole", 1), shards, FACTS, tmp_path / "whole")
    expected = [(f"table4-{row}/seed-0", step) for row in ROWS for step in (1, 2)]
    assert trained == expected
    trained.clear()
    note_of = cli.model.note_of

    def kill(reports: Sequence[StepReport]) -> str:
        if len(trained) == 3:
            raise KilledError
        return note_of(reports)

    monkeypatch.setattr(cli.model, "note_of", kill)
    with pytest.raises(KilledError):
        train_rounds(planned(out, 1), shards, FACTS, out)
    assert not (out / "table4.json").exists()
    monkeypatch.setattr(cli.model, "note_of", note_of)
    again = train_rounds(planned(out, 1), shards, FACTS, out)
    assert trained == expected
    assert scores(again) == scores(whole)
    assert ReproducedTable.model_validate_json((out / "table4.json").read_text()) == again
    trained.clear()
    train_rounds(planned(out, 2), shards, FACTS, out)
    assert trained == [(f"table4-{row}/seed-1", step) for row in ROWS for step in (1, 2)]
    assert "over the training seeds 0, 1;" in (out / "table4.md").read_text()


def test_rows_of_other_settings_or_shards_are_refused(
    tiny: Path, tmp_path: Path, trained: list[tuple[str, int]]
) -> None:
    """Also by whoever trains, where the command's own look was passed by."""
    train_rounds(planned(tmp_path, 1), {"seeds-299": tiny}, FACTS, tmp_path)
    before = (tmp_path / "table4.json").read_bytes()
    with pytest.raises(ConfigError, match="loss.lambda_cls: was 0.1, now 0.5"):
        train_rounds(
            planned(tmp_path, 1, **{"loss.lambda_cls": 0.5, "schedule.steps": 3}), {"seeds-299": tiny}, FACTS, tmp_path
        )
    other = write_shards(tmp_path / "other", {"train": [3], "val": [1], "test": [3]})
    with pytest.raises(ConfigError, match="was trained on other shards"):
        train_rounds(planned(tmp_path, 1), {"seeds-299": other}, FACTS, tmp_path)
    assert (tmp_path / "table4.json").read_bytes() == before


@pytest.mark.slow
def test_search_on_val_leaves_the_table_of_test(tiny: Path, tmp_path: Path, trained: list[tuple[str, int]]) -> None:
    train_rounds(planned(tmp_path, 1), {"seeds-299": tiny}, FACTS, tmp_path)
    before = (tmp_path / "table4.md").read_bytes()
    trained.clear()
    train_rounds(planned(tmp_path, 1), {"seeds-299": tiny}, FACTS.model_copy(update={"split": "val"}), tmp_path)
    assert trained == []
    assert (tmp_path / "table4.md").read_bytes() == before
    assert "Scored on split `val`" in (tmp_path / "table4-val.md").read_text()


WORLD = World({"train": 16, "val": 4, "test": 8}, 5, 288, 0)


def test_command_names_every_size() -> None:
    plan = Plan("table6", ("r2",), 400, 3, "val", ("loss.lambda_cls=0.5",), WORLD)
    assert plan.command() == (
        "protoocc reproduce table6 --train-scenes 16 --val-scenes 4 --test-scenes 8 --keyframes 5 --width 288 "
        "--world-seed 0 --steps 400 --seeds 3 --split val --row r2 --set loss.lambda_cls=0.5"
    )


def test_row_of_segment_anything_is_left_out_and_said_so() -> None:
    rows, left_out = choose_rows(Plan("table7", (), 400, 3, "test", (), WORLD))
    assert list(rows) == ["none", "seeds-91", "seeds-299"]
    assert list(left_out) == ["sam"] and "--sam-checkpoint" in left_out["sam"]
    with pytest.raises(ConfigError, match="--row sam: it needs --sam-checkpoint"):
        choose_rows(Plan("table7", ("sam",), 400, 3, "test", (), WORLD))


def test_each_kind_of_masks_has_shards_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {}

    def make_shards(dataset: DatasetSpec, masks: SeedsConfig | SamConfig) -> Path:
        made[dataset.name] = masks
        return dataset.work / "shards"

    monkeypatch.setattr("cli.synth.synth", lambda *arguments, **options: None)
    monkeypatch.setattr("cli.reproduce.make_shards", make_shards)
    plan = Plan("table7", (), 400, 3, "test", (), WORLD, tmp_path / "sam.pth")
    rows, left_out = choose_rows(plan)
    assert (rows, left_out) == (rows_of("table7"), {})
    shards = make_data(plan, rows, tmp_path)
    assert shards == {name: tmp_path / f"work-{name}/shards" for name in ("seeds-299", "seeds-91", "sam")}
    assert (made["seeds-299"], made["seeds-91"]) == (SeedsConfig(segments=299), SeedsConfig(segments=91))
    assert isinstance(made["sam"], SamConfig) and made["sam"].checkpoint == tmp_path / "sam.pth"
    assert plan.command().endswith("--split test --sam-checkpoint sam.pth")
    assert list(make_data(plan, rows_of("table6"), tmp_path)) == ["seeds-299"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("table3",), "TABLE table3: expected table2, table4, table5, table6 or table7"),
        (("table4", "--split", "train"), "--split train: expected test or val"),
        (("table4", "--row", "everything"), "--row everything: expected none, mapping"),
        (("table4", "--set", "seed=1"), "--set seed: the rows of the table, --steps or --seeds decide it"),
        (("table4", "--set", "optimizer.speed=1"), "unknown field 'speed'"),
        (("table7", "--sam-checkpoint", "sam.pth"), "SAM checkpoint sam.pth does not exist"),
        (("table4", "--sam-checkpoint", "sam.pth"), "--sam-checkpoint does not apply: only table7 has a row"),
    ],
)
def test_bad_words_are_refused_before_anything_is_made(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["reproduce", *words, "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, ProtoOccError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_other_numbers_of_scenes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the number of all scenes is the same, so that the world itself would fit."""
    monkeypatch.setattr("cli.synth.synth", lambda *arguments, **options: None)
    make_world(tmp_path, WORLD, {"seeds-299": "work"})
    entry = make_world(tmp_path, WORLD, {"seeds-299": "work"})["seeds-299"]
    assert [len(split.scenes or ()) for split in entry.splits.values()] == [16, 4, 8]
    assert entry.splits["test"].scenes == tuple(f"synth-{number:04d}" for number in range(20, 28))
    with pytest.raises(
        ConfigError, match="it has scenes for train 16, val 4, test 8; asked for train 15, val 5, test 8"
    ):
        make_world(tmp_path, World({"train": 15, "val": 5, "test": 8}, 5, 288, 0), {"seeds-299": "work"})


def test_a_finished_world_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tables share one world at the same time: two that write its entries anew get in each other's way."""
    monkeypatch.setattr("cli.synth.synth", lambda *arguments, **options: None)
    make_world(tmp_path, WORLD, {"seeds-299": "work"})
    written = (tmp_path / "datasets.yaml").stat().st_ino
    make_world(tmp_path, WORLD, {"seeds-299": "work"})
    assert (tmp_path / "datasets.yaml").stat().st_ino == written
    make_world(tmp_path, WORLD, {"seeds-299": "elsewhere"})
    assert "elsewhere" in (tmp_path / "datasets.yaml").read_text()


def protoocc(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
def test_whole_command_on_the_smallest_world(tmp_path: Path) -> None:
    """Table 7, then table 6, whose row r = 4 is there already; other settings are one message."""
    out = tmp_path / "out"
    size = ("--train-scenes", 1, "--val-scenes", 1, "--test-scenes", 1, "--keyframes", 1, "--seeds", 1, "--out", out)
    table = json.loads(protoocc("reproduce", "table7", *size, "--steps", 1, "--json").stdout)
    assert [row["name"] for row in table["rows"]] == ["none", "seeds-91", "seeds-299"]
    assert (table["split"], table["samples"], table["train_samples"]) == ("test", 1, 1)
    assert json.loads((out / "table7.json").read_text()) == table
    assert "- Left out: sam: it needs --sam-checkpoint" in (out / "table7.md").read_text()
    names = ["table4-all", "table4-decoding", "table7-seeds-91"]
    assert sorted(path.name for path in (out / "runs").iterdir()) == names
    packed = [
        json.loads((out / f"data/work-{name}/shards/manifest.json").read_text()) for name in ("seeds-299", "seeds-91")
    ]
    assert packed[0]["shardlist"] != packed[1]["shardlist"]
    printed = protoocc("reproduce", "table6", *size, "--steps", 1, "--row", "r4").stdout
    assert printed.startswith("# Table 6 on a generated world") and "| r4 | " in printed
    assert sorted(path.name for path in (out / "runs").iterdir()) == names
    refused = protoocc("reproduce", "table7", *size, "--steps", 2, expect=2)
    assert "schedule.steps: was 1, now 2" in refused.stderr and "--data" in refused.stderr
    assert "Traceback" not in refused.stderr
