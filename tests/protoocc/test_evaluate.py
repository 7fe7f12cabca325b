from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from protoocc.checkpoint import load_network
from protoocc.config import TrainConfig
from protoocc.data import open_shards
from protoocc.evaluate import score
from protoocc.inference import predict
from protoocc.trainer import train
from schemas.errors import ConfigError, DataError
from schemas.settings import override

ROAD, FREE = 11, 17


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A run that is long enough to learn the road."""
    config: TrainConfig = request.getfixturevalue("make_tiny_config")()
    folder = tmp_path_factory.mktemp("runs") / "learned"
    long = override(config, ["schedule.steps=60", "schedule.warmup_steps=5", "checkpoint_every=100"])
    summary = train(long, shards, folder)
    assert summary.last["ce"] < 0.5 * summary.first["ce"]
    return folder


def test_report_scores_model_and_baselines(run: Path, shards: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = score(run, shards, "val", on_progress=lambda done, total: seen.append((done, total)))
    assert [row.name for row in report.rows] == ["model", "frequent_class", "all_free"]
    # x 2..7 is observed: 6 * 8 * 4 = 192 voxels in each of 2 samples, none of them unknown.
    assert (report.samples, report.voxels, report.mask, report.baseline_split) == (2, 384, "camera", "train")
    # Votes: road everywhere, never a car -> road IoU 1, car 0 -> mIoU 0.5; 96 of 96 + 2 occupied voxels.
    frequent = report.row("frequent_class")
    assert (frequent.miou, frequent.classes["driveable_surface"], frequent.classes["car"]) == (0.5, 1.0, 0.0)
    assert frequent.iou == pytest.approx(96 / 98)
    # The vote never risks a car: no thing of the 2 is found; the ground is all road.
    assert (frequent.things_iou, frequent.ground_iou) == (0.0, 1.0)
    assert frequent.classes["bus"] is None
    assert (report.row("all_free").miou, report.row("all_free").iou) == (0.0, 0.0)
    road = report.row("model").classes["driveable_surface"]
    assert road is not None and road > 0.8
    assert seen == [(done, 7) for done in range(1, 8)]
    assert report.checkpoint.endswith("step-000060")
    assert json.loads(report.model_dump_json())["rows"][0]["classes"]["bus"] is None


def test_same_checkpoint_gives_the_same_report(run: Path, shards: Path) -> None:
    assert score(run, shards, "train") == score(run / "checkpoints" / "step-000060", shards, "train")


def test_predict_yields_keyframes_in_order(run: Path, shards: Path) -> None:
    train = open_shards(shards, "train")
    pairs = list(predict(load_network(run)[0], train, limit=3))
    assert [keyframe.token for keyframe, _ in pairs] == ["token-0", "token-1", "token-2"]
    assert all(prediction.shape == (8, 8, 4) and prediction.dtype == np.uint8 for _, prediction in pairs)
    assert all(prediction.max() <= FREE for _, prediction in pairs)
    assert len(list(predict(load_network(run)[0], train))) == 5


def test_shards_of_another_grid_are_refused(run: Path, own_shards: Path) -> None:
    manifest = json.loads((own_shards / "manifest.json").read_text())
    manifest["dataset"]["grid"]["minimum_m"] = [0.0, 0.0, 0.0]
    (own_shards / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="the network's grid is"):
        score(run, own_shards, "val")


def test_unknown_split_is_refused(run: Path, shards: Path) -> None:
    with pytest.raises(DataError, match="no split 'test'"):
        score(run, shards, "test")
