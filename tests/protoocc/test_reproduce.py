"""Rows of the paper's tables as settings of the small network, and what a run of one tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from protoocc.ablations import ABLATIONS, Ablation, rows_of
from protoocc.config import TrainConfig
from protoocc.data import open_shards
from protoocc.hosts import build_network
from protoocc.model.prototypes import cluster
from protoocc.presets import read_preset
from protoocc.reproduce import check_changes, check_settings, is_scored, is_trained, read_result, row_config, run_name
from schemas.errors import ConfigError, DataError
from schemas.settings import override
from tests.protoocc.test_run_facts import make_run

TABLES = ("table2", "table4", "table5", "table6", "table7")


def config_of(row: Ablation) -> TrainConfig:
    return row_config(row, steps=400, seed=0)


def parameters(row: Ablation) -> dict[str, int]:
    """Size of each parameter of the row's network."""
    with torch.device("meta"):
        network = build_network(config_of(row).model)
    return {name: parameter.numel() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_a_table_differ(table: str) -> None:
    rows = rows_of(table)
    meanings = [(config_of(row).model_dump_json(), row.masks) for row in rows.values()]
    assert len(rows) >= 4
    assert len(set(meanings)) == len(rows)


def test_first_rows_are_what_others_are_compared_with() -> None:
    assert [next(iter(rows_of(table))) for table in TABLES] == ["proposals-as-is", "none", "dropout", "r2", "none"]
    assert list(rows_of("table7")) == ["none", "seeds-91", "seeds-299", "sam"]
    assert [row.published_miou for row in rows_of("table4").values()] == [35.78, 35.80, 36.55, 37.25, 37.80]


def test_rows_of_table_4_have_the_parts_that_they_name() -> None:
    """Prototypes are a learned mapping in each layer, X has two scalars, views share one decoder."""
    rows = rows_of("table4")
    none, mapping, optimised, decoding, every = (parameters(row) for row in rows.values())
    assert not [name for name in none if "mapping" in name or "pixel_features" in name]
    assert {name.split(".")[3] for name in mapping.keys() - none.keys()} == {"mapping"}
    assert {name.split(".")[1] for name in optimised.keys() - mapping.keys()} == {"pixel_features"}
    assert (decoding, every) == (none, optimised)
    views = {name: config_of(row).model.views for name, row in rows.items()}
    assert views == {"none": 1, "mapping": 1, "mapping-optimisation": 1, "decoding": 3, "all": 3}


def test_rows_have_the_views_of_the_paper_and_see_through_queries_alone() -> None:
    model = config_of(ABLATIONS["table4-all"]).model
    assert model.augmentations == ("dropout", "gaussian")
    assert (model.voxel_detail, model.lifted_shape) == (False, model.query_shape)
    single = config_of(ABLATIONS["table5-dropout"])
    assert (single.model.augmentations, single.loss.lambda_cons) == (("dropout",), 0)
    assert config_of(ABLATIONS["table5-dropout-consistent"]).loss.lambda_cons > 0


def test_number_of_prototypes_of_table_6() -> None:
    """Images of 160 x 288 with their padding have 40 x 72 cells of 4 pixels; the paper has 1440, 350, 144 and 91."""
    models = [config_of(row).model for row in rows_of("table6").values()]
    assert {model.clustering_stride for model in models} == {4}
    numbers = [cluster(torch.ones(1, 4, 40, 72), model.prototype_cell, 0).shape[1] for model in models]
    assert numbers == [720, 336, 120, 84]


def test_rows_of_table_6_have_the_cells_of_the_paper_in_its_networks() -> None:
    rows = [name for name in ABLATIONS if name.startswith("table6")]
    assert [read_preset("protoocc-small", ablation=row).model.prototype_cell for row in rows] == [2, 4, 6, 8]
    assert [read_preset("protoocc-mini", ablation=row).model.prototype_cell for row in rows] == [2, 3, 5, 6]


def test_steps_seed_and_changes() -> None:
    config = row_config(ABLATIONS["table6-r8"], steps=40, seed=2, changes=["loss.lambda_cls=0.5"])
    assert (config.schedule.steps, config.schedule.warmup_steps, config.seed) == (40, 1, 2)
    assert (config.loss.lambda_cls, config.model.prototype_cell) == (0.5, 6)


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("table4-all", "table4-all"),
        ("table6-r4", "table4-all"),
        ("table7-seeds-299", "table4-all"),
        ("table7-none", "table4-decoding"),
        ("table5-dropout-gaussian-consistent", "table4-decoding"),
        ("table7-seeds-91", "table7-seeds-91"),
        ("table7-sam", "table7-sam"),
        ("table6-r8", "table6-r8"),
    ],
)
def test_rows_that_mean_the_same_are_one_training(name: str, shared: str) -> None:
    assert run_name(name) == shared


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("table4", "seed=3"),
        ("table4", "schedule.steps=9"),
        ("table4", "schedule={}"),
        ("table4", "data.split=test"),
        ("table4", "model.multi_perspective=false"),
        ("table5", "loss.lambda_cons=2"),
        ("table6", "model.prototype_cell=3"),
    ],
)
def test_changes_that_would_be_ignored_are_refused(table: str, change: str) -> None:
    with pytest.raises(ConfigError, match=f"--set {change.partition('=')[0]}: the rows of the table"):
        check_changes(rows_of(table), ["optimizer.lr=1e-3", change])


def test_row_with_a_length_of_its_own() -> None:
    """Proposals as they are have nothing to learn but the most frequent class."""
    lengths = {name: config_of(row).schedule.steps for name, row in rows_of("table2").items()}
    assert lengths.pop("proposals-as-is") == 20
    assert set(lengths.values()) == {400} and len(lengths) == 4


def test_changes_of_everything_else_are_taken() -> None:
    check_changes(rows_of("table4"), ["model.prototype_cell=3", "loss.lambda_cls=0.2", "data.batch_size=2"])


def test_other_settings_are_refused_with_the_remedy(tmp_path: Path, tiny_config: TrainConfig) -> None:
    check_settings(tmp_path / "new", tiny_config)
    (tmp_path / "config.json").write_text(tiny_config.model_dump_json())
    check_settings(tmp_path, override(tiny_config, ["data.workers=2"]))
    with pytest.raises(ConfigError) as refused:
        check_settings(tmp_path, override(tiny_config, ["loss.lambda_cls=0.5", "seed=4"]))
    assert "loss.lambda_cls: was 0.1, now 0.5" in str(refused.value)
    assert "seed: was 3, now 4" in str(refused.value)
    assert "a new folder with --out and the same --data" in str(refused.value)


def scored_run(folder: Path, **facts: object) -> Path:
    """A finished run of 20 steps, 0.5 s each, with kept scores."""
    run = make_run(folder)
    (run / "checkpoints/step-000020/model.safetensors").write_bytes(b"")
    rows = [
        {"name": "model", "masks": {"camera": {"miou": 0.25, "iou": 0.5, "things_iou": None}}},
        {"name": "frequent_class", "masks": {"camera": {"miou": 0.0625, "iou": 0.75, "things_iou": 0.0}}},
    ]
    about = {"split": "test", "checkpoint": "/elsewhere/checkpoints/step-000020", "code_version": "1+b", **facts}
    (run / "eval.json").write_text(json.dumps({**about, "rows": rows}))
    (run / "environment.json").write_text(json.dumps({"protoocc": "1+a", "GPUs": "none", "CPU": "Z80", "torch": "2"}))
    return run


def test_result_of_a_run(tmp_path: Path) -> None:
    result = read_result(scored_run(tmp_path / "run"), 5)
    assert (result.seed, result.train_seconds, result.commits) == (5, 10.0, ("1+a", "1+b"))
    assert result.hardware == "Z80; torch 2"
    assert result.scores.model_dump() == {"miou": 0.25, "iou": 0.5, "things_iou": None}
    assert result.frequent_class.iou == 0.75


def test_scores_count_for_their_split_and_checkpoint(tmp_path: Path) -> None:
    """A folder that moved keeps its scores."""
    run = scored_run(tmp_path / "run")
    assert is_scored(run, "test")
    assert not is_scored(run, "val")
    older = scored_run(tmp_path / "older", checkpoint="/elsewhere/checkpoints/step-000010")
    assert not is_scored(older, "test")
    (run / "eval.json").unlink()
    assert not is_scored(run, "test")
    with pytest.raises(DataError, match=r"eval\.json is missing\. Run the same command again"):
        read_result(run, 0)


def test_unfinished_runs_are_to_be_trained(tmp_path: Path, shards: Path, tiny_config: TrainConfig) -> None:
    assert not is_trained(tmp_path / "absent", tiny_config, open_shards(shards, "train"))
    run = make_run(tmp_path / "run", rows=7)
    assert not is_trained(run, tiny_config, open_shards(shards, "train"))


def test_damaged_checkpoint_is_left_to_the_trainer(tmp_path: Path, shards: Path, tiny_config: TrainConfig) -> None:
    """Which sets it aside and makes the lost steps again."""
    run, split = make_run(tmp_path / "run"), open_shards(shards, "train")
    state = run / "checkpoints/step-000020/state.pt"
    torch.save({"shards": split.fingerprint}, state)
    assert is_trained(run, tiny_config, split)
    torch.save({"shards": "other"}, state)
    with pytest.raises(ConfigError, match="was trained on other shards"):
        is_trained(run, tiny_config, split)
    state.write_bytes(state.read_bytes()[:50])
    assert not is_trained(run, tiny_config, split)
