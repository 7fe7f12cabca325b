from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from protoocc.checkpoint import load_network
from protoocc.config import TrainConfig
from protoocc.data import ShardDataset, open_shards
from protoocc.model import ProtoOcc
from protoocc.optimizer import lr_factor, make_optimizer, set_learning_rate
from protoocc.presets import read_preset
from protoocc.run_checks import describe_missing_earlier
from protoocc.run_folder import open_run, read_metrics
from protoocc.trainer import train
from protoocc.training_report import TIMES, StepReport
from schemas.errors import CheckpointError, ConfigError, DataError, StageError
from schemas.lock import folder_lock
from schemas.settings import override


class KilledError(Exception):
    """Stands for a kill signal."""


def losses_of(run: Path) -> list[dict[str, int | float]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in read_metrics(run)]


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """An uninterrupted run of 8 steps."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(request.getfixturevalue("base_config"), shards, run)
    return run


@pytest.fixture(scope="module")
def base_config(request: pytest.FixtureRequest) -> TrainConfig:
    return request.getfixturevalue("make_tiny_config")()


def test_run_folder_holds_everything(finished: Path, base_config: TrainConfig) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoints",
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "tensorboard",
    ]
    stored = TrainConfig.model_validate_json((finished / "config.json").read_text())
    assert stored == base_config.model_copy(update={"image_shape": (32, 64)})
    # Every 3 steps and the last one; the last two stay.
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["step-000006", "step-000008"]
    rows = read_metrics(finished)
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert set(rows[0]) >= {"lr", "ce", "lovasz", "cls", "cons", "total", "gradient_norm", "seconds"}
    # Warm-up of 2 steps up to 0.01.
    assert [row["lr"] for row in rows[:2]] == [0.005, 0.01]
    assert load_network(finished)[1] == stored


def test_summary_and_reports(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    reports: list[StepReport] = []
    summary = train(tiny_config, shards, tmp_path / "run", on_step=reports.append)
    assert [report.step for report in reports] == list(range(1, 9))
    assert {report.steps for report in reports} == {8}
    assert (summary.steps, summary.samples) == (8, 5)
    assert summary.checkpoint == tmp_path / "run" / "checkpoints" / "step-000008"
    # A tenth of 8 steps is at least one step.
    assert summary.first["ce"] == pytest.approx(reports[0].losses["ce"])
    assert summary.last["total"] == pytest.approx(reports[-1].losses["total"])


@pytest.mark.parametrize(
    "kill_at", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)]
)
def test_killed_and_resumed_run_gives_the_same_bytes(
    shards: Path, tmp_path: Path, finished: Path, base_config: TrainConfig, kill_at: int
) -> None:
    def kill(report: StepReport) -> None:
        if report.step == kill_at:
            raise KilledError

    run = tmp_path / "run"
    with pytest.raises(KilledError):
        train(base_config, shards, run, on_step=kill)
    torch.manual_seed(99)
    train(base_config, shards, run, resume=True)
    assert losses_of(run) == losses_of(finished)
    for name in ("step-000006", "step-000008"):
        weights = [(path / "checkpoints" / name / "model.safetensors").read_bytes() for path in (run, finished)]
        assert weights[0] == weights[1]


def test_workers_do_not_change_the_numbers(
    shards: Path, tmp_path: Path, finished: Path, base_config: TrainConfig
) -> None:
    config = override(base_config, ["data.workers=1"])
    train(config, shards, tmp_path / "run")
    assert losses_of(tmp_path / "run") == losses_of(finished)


@pytest.mark.parametrize("name", ["state.pt", "model.safetensors", "config.json", "SHA256SUMS"])
def test_damaged_last_checkpoint_is_set_aside(
    shards: Path, tmp_path: Path, finished: Path, base_config: TrainConfig, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps 7 and 8 come from step 6 again, and the bytes are those of the whole run."""
    run = shutil.copytree(finished, tmp_path / "run")
    checkpoints = run / "checkpoints"
    last = checkpoints / "step-000008"
    (last / name).write_bytes((last / name).read_bytes()[:100])
    train(base_config, shards, run, resume=True)
    assert "step-000008.damaged; the checkpoint before is used" in caplog.text
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000006", "step-000008", "step-000008.damaged"]
    assert (last / "model.safetensors").read_bytes() == (
        finished / "checkpoints/step-000008/model.safetensors"
    ).read_bytes()
    assert losses_of(run) == losses_of(finished)


def test_run_without_a_whole_checkpoint_says_what_to_remove(
    shards: Path, tmp_path: Path, finished: Path, base_config: TrainConfig
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "state.pt").unlink()
    with pytest.raises(CheckpointError, match="Remove .*step-000006 to start this run again"):
        train(base_config, shards, run, resume=True)


def test_resuming_a_finished_run_does_nothing(
    shards: Path, tmp_path: Path, finished: Path, base_config: TrainConfig
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    steps: list[StepReport] = []
    summary = train(base_config, shards, run, resume=True, on_step=steps.append)
    assert (summary.steps, steps) == (8, [])
    assert losses_of(run) == losses_of(finished)


def test_run_folder_of_another_run_is_refused(
    shards: Path, tmp_path: Path, finished: Path, base_config: TrainConfig
) -> None:
    other = override(base_config, ["optimizer.lr=0.5"])
    with pytest.raises(ConfigError, match=r"optimizer.lr: was 0.01, now 0.5"):
        train(other, shards, finished)
    with pytest.raises(ConfigError, match=r"optimizer.lr: was 0.01, now 0.5"):
        train(other, shards, finished, resume=True)
    with pytest.raises(ConfigError, match="Continue it with --resume"):
        train(base_config, shards, finished)
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 'letters.txt' and no config.json"):
        train(base_config, shards, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_resume_refuses_other_shards(
    own_shards: Path, tmp_path: Path, finished: Path, base_config: TrainConfig
) -> None:
    manifest = json.loads((own_shards / "manifest.json").read_text())
    (own_shards / "manifest.json").write_text(json.dumps({**manifest, "name": "other"}))
    run = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(ConfigError, match="was trained on other shards"):
        train(base_config, own_shards, run, resume=True)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.grid.voxel_size_m=0.5", "the network's grid is"),
        ("model.num_classes=20", "the network has 20 classes, .* has 18"),
        (
            "schedule.warmup_steps=9",
            r"warm-up of 9 steps is longer than the run of 8 steps \(5 samples in batches of 2\)",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(
    shards: Path, tmp_path: Path, tiny_config: TrainConfig, assignment: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(override(tiny_config, [assignment]), shards, tmp_path / "run", device=torch.device("cpu"))
    assert not (tmp_path / "run").exists()


def test_shards_without_masks_need_the_loss_off(own_shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    manifest = json.loads((own_shards / "manifest.json").read_text())
    (own_shards / "manifest.json").write_text(json.dumps({**manifest, "masks": None}))
    with pytest.raises(ConfigError, match="cannot train on .*: the shards hold no pseudo masks"):
        train(tiny_config, own_shards, tmp_path / "run")
    config = override(tiny_config, ["model.prototype_optimisation=false", "schedule.steps=2"])
    assert train(config, own_shards, tmp_path / "run").last["cls"] == 0.0


def test_loss_that_is_not_finite_names_the_samples(
    shards: Path, tmp_path: Path, tiny_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"total": torch.tensor(float("nan"), requires_grad=True), "ce": torch.tensor(1.0)}
    monkeypatch.setattr("protoocc.train_step.compute_losses", lambda *arguments: broken)
    with pytest.raises(StageError, match=r"step 1: total not finite with samples token-\d, token-\d"):
        train(tiny_config, shards, tmp_path / "run")


def test_epochs_become_steps(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    # 2 epochs of 5 samples in batches of 2: 10 / 2 = 5 steps.
    config = override(tiny_config, ["schedule.steps=null", "schedule.epochs=2"])
    assert train(config, shards, tmp_path / "run").steps == 5


def test_training_leaves_the_callers_state_alone(shards: Path, tmp_path: Path, tiny_config: TrainConfig) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(override(tiny_config, ["schedule.steps=2"]), shards, tmp_path / "run")
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()


def test_learning_rate_by_hand(tiny_config: TrainConfig) -> None:
    schedule = tiny_config.schedule.model_copy(update={"warmup_steps": 4, "final_lr_factor": 0.1})
    # 4 steps of warm-up: 1/4 .. 4/4; then a cosine over steps 4..8: 1, ..., middle (1 + 0.1) / 2, ..., 0.1.
    shares = [lr_factor(step, 9, schedule) for step in range(9)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[6] == pytest.approx(0.55)
    assert shares[8] == pytest.approx(0.1)
    assert lr_factor(0, 1, schedule.model_copy(update={"warmup_steps": 0})) == 1.0


def test_parameter_groups(tiny_config: TrainConfig) -> None:
    model = ProtoOcc(tiny_config.model)
    config = tiny_config.optimizer.model_copy(update={"backbone_lr_factor": 0.1, "weight_decay": 0.01})
    optimizer = make_optimizer(model, config)
    set_learning_rate(optimizer, 1.0)
    places = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(places) == len(list(model.parameters()))
    assert len(optimizer.param_groups) == 4
    named = {name: places[id(parameter)] for name, parameter in model.named_parameters()}
    assert named["image_features.resnet.conv1.weight"]["lr"] == pytest.approx(0.1)
    assert named["image_features.resnet.conv1.weight"]["weight_decay"] == 0.01
    assert named["image_features.resnet.bn1.weight"]["weight_decay"] == 0.0
    assert named["decoder.classifier.2.weight"]["lr"] == 1.0
    assert named["decoder.classifier.2.bias"]["weight_decay"] == 0.0
    assert named["voxel_queries.table"]["weight_decay"] == 0.0


def test_run_of_an_older_release_can_be_resumed(tiny_config: TrainConfig, tmp_path: Path) -> None:
    """A stored configuration without a field that came later counts as its default."""
    open_run(tmp_path / "run", tiny_config, resume=False)
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    del stored["model"]["pillar_heights"]
    path.write_text(json.dumps(stored))
    open_run(tmp_path / "run", tiny_config, resume=True)
    stored["optimizer"]["lr"] = 0.5
    path.write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=r"optimizer.lr: was 0.5"):
        open_run(tmp_path / "run", tiny_config, resume=True)


@pytest.mark.parametrize("damaged", ['{"schedule": 7}', '{"schedule": {"extended": 7}}'])
def test_damaged_settings_are_another_run(tiny_config: TrainConfig, tmp_path: Path, damaged: str) -> None:
    """Settings that are valid JSON of another shape are refused as others, also where a prolonged run might go on."""
    open_run(tmp_path / "run", tiny_config, resume=False)
    (tmp_path / "run" / "config.json").write_text(damaged)
    for config in (tiny_config, override(tiny_config, ["schedule.extended=[4]"])):
        with pytest.raises(ConfigError, match="holds a run with another configuration"):
            open_run(tmp_path / "run", config, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("semantics", 255),
            "none of its 5 samples has a voxel .*5 samples without a known class, 0 without an observed",
        ),
        (
            ("mask_camera", 0),
            "none of its 5 samples has a voxel .*0 samples without a known class, 5 without an observed",
        ),
    ],
)
def test_split_that_teaches_nothing_is_refused(
    shards: Path,
    tmp_path: Path,
    tiny_config: TrainConfig,
    change: tuple[str, int],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Labels that are all unknown or all unseen give a loss of zero at every step."""
    whole, (name, value) = ShardDataset.occupancy, change
    monkeypatch.setattr(
        ShardDataset, "occupancy", lambda self, index: whole(self, index) | {name: np.full((8, 8, 4), value, np.uint8)}
    )
    with pytest.raises(DataError, match=message):
        train(tiny_config, shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_earlier_frames_are_told(own_shards: Path, tmp_path: Path) -> None:
    """Of frames 0, 1, 2 and 0, 1 the split keeps 0, 2 and 0: one of one keyframe before frame 2 is missing."""
    for name, dropped in (("train-00000", [1]), ("train-00001", [1])):
        path = own_shards / f"{name}.index.json"
        index = json.loads(path.read_text())
        index["samples"] = [sample for sample in index["samples"] if sample["frame"] not in dropped]
        path.write_text(json.dumps(index))
    manifest = json.loads((own_shards / "manifest.json").read_text())
    for shard, count in zip(manifest["shardlist"], (2, 1), strict=False):
        shard["nsamples"] = count
    (own_shards / "manifest.json").write_text(json.dumps(manifest))
    split = open_shards(own_shards, "train")
    assert describe_missing_earlier(ShardDataset(split)) is None
    text = describe_missing_earlier(ShardDataset(split, frames=2, interval=1))
    assert text is not None
    assert r"1 of 1 earlier keyframes (100 %) that the network reads (1 before each) are not in the split" in text
    assert describe_missing_earlier(ShardDataset(split, frames=2, interval=2)) is None


def test_fewer_steps_shrink_the_warm_up_of_a_preset() -> None:
    # 15 of 400 steps: 15 * 200 / 400 = 7.
    assert read_preset("demo", ["schedule.steps=200"]).schedule.warmup_steps == 7
    assert read_preset("demo", ["schedule.steps=1200"]).schedule.warmup_steps == 15
    assert read_preset("demo", ["schedule.steps=200", "schedule.warmup_steps=150"]).schedule.warmup_steps == 150


def test_two_trainings_never_share_a_run_folder(base_config: TrainConfig, shards: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run"), pytest.raises(ConfigError, match="being written by process"):
        train(base_config, shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()
