from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from protoocc.checkpoint import load_network
from protoocc.config import TrainConfig
from protoocc.data import ShardDataset, open_shards
from protoocc.evaluate import EvalConfig, score, score_predictions
from protoocc.inference import predict
from protoocc.scoring import WAITING, add_up
from protoocc.trainer import train
from schemas.errors import ConfigError, DataError
from schemas.settings import override
from schemas.shards import SampleEntry

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
    assert (report.samples, report.frames, report.baseline_split) == (2, 1, "train")
    # The LiDAR observes all 8 * 8 * 4 voxels, as no mask does; one of each sample is of unknown class.
    voxels = {mask: scores.voxels for mask, scores in report.row("model").masks.items()}
    assert voxels == {"camera": 384, "lidar": 510, "none": 510}
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
    row = json.loads(report.model_dump_json())["rows"][0]
    assert row["masks"]["camera"]["classes"]["bus"] is None
    assert set(row["masks"]["none"]["distances"]) == {"0-10 m"}
    assert list(row["masks"]["none"]["heights"]) == ["below 0.2 m", "0.2-1 m", "1-2 m", "2-4 m"]
    assert set(row["rays"]["at"]) == {"1 m", "2 m", "4 m"}


def test_same_checkpoint_gives_the_same_report_on_any_number_of_threads(run: Path, shards: Path) -> None:
    checkpoint = run / "checkpoints" / "step-000060"
    assert score(run, shards, "val", EvalConfig(workers=3)) == score(checkpoint, shards, "val")


class Files:
    """Predictions that are the labels of the shards themselves, changed by a function."""

    folder = Path("results")

    def __init__(self, shards: Path, split: str, change: Callable[[np.ndarray], np.ndarray] = lambda labels: labels):
        self.dataset = ShardDataset(open_shards(shards, split))
        self.tokens = [sample.token for _, sample in self.dataset.shards.samples]
        self.change = change

    def read(self, sample: SampleEntry) -> np.ndarray:
        return self.change(self.dataset.occupancy(self.tokens.index(sample.token))["semantics"])


def test_files_that_hold_the_labels_score_everything(shards: Path) -> None:
    report = score_predictions(Files(shards, "val"), shards, "val", EvalConfig(workers=2))
    row = report.row("predictions")
    assert [one.name for one in report.rows] == ["predictions", "frequent_class", "all_free"]
    for scores in row.masks.values():
        assert (scores.miou, scores.iou, scores.things_iou, scores.ground_iou) == (1, 1, 1, 1)
    assert row.rays is not None and row.rays.ray_iou == 1 and set(row.rays.at.values()) == {1}
    assert row.rays.classes["car"] == row.rays.classes["driveable_surface"] == 1
    assert (report.checkpoint, report.predictions, report.frames) == (None, "results", None)
    free = report.row("all_free").rays
    assert free is not None and free.ray_iou == 0 and free.rays == row.rays.rays > 0


def test_unknown_predictions_count_as_free_and_are_told(shards: Path) -> None:
    """The labels' own unknown voxel does not count; the road predicted as unknown is missed."""
    files = Files(shards, "val", lambda labels: np.where(labels == ROAD, np.uint8(255), labels))
    report = score_predictions(files, shards, "val")
    assert report.unknown_voxels == 2 * 64
    assert report.row("predictions").classes["driveable_surface"] == 0
    assert report.row("predictions").ground_iou == 0
    assert report.row("predictions").things_iou == 1


def test_files_of_another_shape_or_table_are_refused(shards: Path) -> None:
    with pytest.raises(DataError, match=r"results, sample token-5: \(8, 8, 3\) voxels"):
        score_predictions(Files(shards, "val", lambda labels: labels[:, :, 1:]), shards, "val")
    with pytest.raises(DataError, match="prediction holds class 18"):
        score_predictions(Files(shards, "val", lambda labels: np.full_like(labels, 18)), shards, "val")


def test_shards_without_the_lidar_have_all_scores_but_rays(shards: Path, shards_without_lidar: Path) -> None:
    with_rays, without = (
        score_predictions(Files(folder, "val"), folder, "val") for folder in (shards, shards_without_lidar)
    )
    assert without.without_rays is not None
    assert "scene-val-00000-0000 does not say where the LiDAR stands" in without.without_rays
    assert "protoocc pack --overwrite" in without.without_rays
    assert all(row.rays is None for row in without.rows)
    assert [row.masks for row in without.rows] == [row.masks for row in with_rays.rows]


def test_rays_may_be_left_out(run: Path, shards: Path) -> None:
    """All other scores are the same, and the report says that nobody asked."""
    whole, without = (score(run, shards, "val", EvalConfig(rays=rays)) for rays in (True, False))
    assert without.without_rays == "it was not asked for."
    assert [row.rays for row in without.rows] == [None] * 3
    assert [row.masks for row in without.rows] == [row.masks for row in whole.rows]


def test_split_without_training_labels_has_no_baseline(tmp_path: Path, write_tiny_shards: Callable[..., Path]) -> None:
    folder = write_tiny_shards(tmp_path / "shards", {"val": [2]})
    report = score_predictions(Files(folder, "val"), folder, "val")
    assert [row.name for row in report.rows] == ["predictions", "all_free"]
    assert report.baseline_split is None


def test_no_more_samples_wait_than_threads_can_take() -> None:
    """Memory stays the same however long the split is."""
    alive, most = 0, 0

    def job() -> dict:
        nonlocal alive
        alive -= 1
        return {}

    def jobs() -> Iterator[Callable[[], dict]]:
        nonlocal alive, most
        for _ in range(50):
            alive += 1
            most = max(most, alive)
            yield job

    done: list[int] = []
    assert add_up(jobs(), 2, done.append) == {}
    assert done == list(range(1, 51))
    assert most <= 2 * WAITING + 2


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
