"""A data set like SemanticKITTI: one camera, free space first, and a grid that begins at the vehicle.

The grid has KITTI's place and extent and coarser voxels; `test_full_size` has the real ones.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from protoocc.config import TrainConfig
from protoocc.data import ShardDataset, open_shards
from protoocc.eval_report import EvalReport
from protoocc.trainer import train
from schemas.classes import SEMANTICKITTI, ClassTable
from schemas.geometry import SEMANTICKITTI_GRID, VoxelGrid
from schemas.settings import override
from schemas.shards import MASKS_MEMBER, META_MEMBER, OCCUPANCY_MEMBER, image_member
from tests.protoocc.conftest import HEIGHT, WIDTH, make_config, write_shards

COARSE = VoxelGrid(minimum_m=(0.0, -25.6, -2.0), voxel_size_m=1.6, shape=(32, 32, 4))
CAMERA = "image_2"
ROAD, CAR = SEMANTICKITTI.index("road"), SEMANTICKITTI.index("car")


def semantics_of(number: int, grid: VoxelGrid) -> np.ndarray:
    """A road, and a car 12 to 16 m ahead whose place depends on the sample."""
    labels = np.full(grid.shape, SEMANTICKITTI.free, np.uint8)
    x, y, z = (round(1.6 / grid.voxel_size_m) * place for place in (8, 14 + number % 3, 1))
    labels[:, :, : max(z, 1)] = ROAD
    labels[x : x * 10 // 8, y : y * 16 // 14, z : 2 * z] = CAR
    labels[0, 0, -1] = SEMANTICKITTI.ignored
    return labels


def members_for(grid: VoxelGrid):
    def make(number: int, token: str, classes: ClassTable) -> dict[str, bytes]:
        random = np.random.default_rng(number)
        image = np.full((HEIGHT, WIDTH, 3), (30 * (number % 3), 90, 150), np.uint8)
        image += random.integers(0, 20, image.shape, np.uint8)
        segments = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) // 512 % 8
        mask = np.ones(grid.shape, np.uint8)
        mask[grid.shape[0] // 2 :, :4] = 0
        arrays = io.BytesIO()
        np.savez_compressed(arrays, semantics=semantics_of(number, grid), mask_lidar=mask, mask_camera=mask)
        meta = {
            "token": scan(number),
            "image_from_camera": [[[36.0, 0, 32], [0, 36.0, 16], [0, 0, 1]]],
            "camera_from_ego": [[[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, -0.27], [0, 0, 0, 1]]],
            "global_from_ego": [[1, 0, 0, 4.0 * number], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
            "cameras": [CAMERA],
            "segment_count": [4],
            "ego_from_lidar": np.eye(4).tolist(),
        }
        return {
            image_member(CAMERA): cv2.imencode(".jpg", image)[1].tobytes(),
            MASKS_MEMBER: cv2.imencode(".png", segments)[1].tobytes(),
            OCCUPANCY_MEMBER: arrays.getvalue(),
            META_MEMBER: json.dumps(meta).encode(),
        }

    return make


def scan(number: int) -> str:
    return f"08-{5 * number:06d}"


def write_kitti(folder: Path, grid: VoxelGrid, counts: dict[str, list[int]]) -> Path:
    """Shards whose samples are scans of sequence 08."""
    write_shards(folder, counts, SEMANTICKITTI, members_for(grid))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["dataset"] |= {"cameras": [CAMERA], "grid": grid.model_dump(mode="json")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for path in folder.glob("*.index.json"):
        index = json.loads(path.read_text())
        for sample in index["samples"]:
            sample |= {"token": scan(int(sample["token"].removeprefix("token-"))), "scene": "08"}
        path.write_text(json.dumps(index))
    return folder


def config_for(grid: VoxelGrid, steps: int) -> TrainConfig:
    fields = make_config().model.model_dump(mode="json") | {"grid": grid.model_dump(mode="json")}
    kernel = [grid.shape[0] // 8, grid.shape[1] // 8, grid.shape[2] // 2]
    fields |= {"query_shape": (8, 8, 2), "num_classes": SEMANTICKITTI.num_classes, "free": SEMANTICKITTI.free}
    fields["upsample"] = [{"kernel": kernel, "stride": kernel, "channels": 8}]
    config = make_config()
    config = config.model_copy(update={"model": type(config.model).model_validate(fields)})
    return override(config, [f"schedule.steps={steps}", f"checkpoint_every={steps}", "validation.every=null"])


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kitti(tmp_path_factory.mktemp("kitti") / "shards", COARSE, {"train": [3], "val": [2]})


@pytest.fixture(scope="module")
def run(kitti: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    summary = train(config_for(COARSE, 20), kitti, folder, device=torch.device("cpu"))
    assert summary.last["ce"] < summary.first["ce"]
    return folder


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def literal_iou(labels: list[np.ndarray], guesses: list[np.ndarray], inside: np.ndarray) -> tuple[float, float]:
    """IoU of occupied voxels and mIoU over the classes 1..19, sample by sample, voxel sets only."""
    both = either = 0
    met, joined = np.zeros(20), np.zeros(20)
    for label, guess in zip(labels, guesses, strict=True):
        scored = inside & (label != 255)
        both += (scored & (label > 0) & (guess > 0)).sum()
        either += (scored & ((label > 0) | (guess > 0))).sum()
        for number in range(20):
            met[number] += (scored & (label == number) & (guess == number)).sum()
            joined[number] += (scored & ((label == number) | (guess == number))).sum()
    return both / either, sum(met[n] / joined[n] if joined[n] else 0 for n in range(1, 20)) / 19


@pytest.fixture(scope="module")
def scores(kitti: Path, run: Path) -> tuple[str, EvalReport]:
    """What `eval` prints of the run, and the report that it keeps there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        printed = call("eval", "--run", run, "--shards", kitti, "--workers", 1)
    return printed, EvalReport.model_validate_json((run / "eval.json").read_text())


def test_eval_of_a_run_and_of_its_files_agree(
    kitti: Path, run: Path, scores: tuple[str, EvalReport], tmp_path: Path
) -> None:
    """The submission files hold what the network says, and score as the network does."""
    out = tmp_path / "out"
    call("predict", "--run", run, "--shards", kitti, "--predictions", out)
    files = sorted(path.relative_to(out / "semantickitti").as_posix() for path in out.rglob("*.label"))
    assert files == [f"sequences/08/predictions/{name}.label" for name in ("000015", "000020")]
    text = call("eval", "--predictions", out / "semantickitti", "--shards", kitti, "--json", "--workers", 1)
    of_run, of_files = scores[1], EvalReport.model_validate_json(text[text.index("{") :])
    model, predicted = of_run.row("model"), of_files.row("predictions")
    assert of_run.absent == "zero" and of_run.without_rays is None
    assert (model.masks, model.rays) == (predicted.masks, predicted.rays)
    dataset = ShardDataset(open_shards(kitti, "val"))
    numbers = {10: 1, 11: 2, 15: 3, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9, 44: 10, 48: 11, 49: 12, 50: 13}
    numbers |= {0: 0, 51: 14, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19}
    raw = [np.fromfile(out / "semantickitti" / name, "<u2").reshape(COARSE.shape) for name in files]
    guesses = [np.vectorize(numbers.__getitem__)(values) for values in raw]
    labels = [dataset.occupancy(index)["semantics"] for index in range(2)]
    mask = dataset.occupancy(0)["mask_camera"] != 0
    camera = model.masks["camera"]
    assert list(camera.ranges) == ["12.8 m", "25.6 m", "51.2 m"]
    for name, (depth, low, high) in {"12.8 m": (8, 12, 20), "25.6 m": (16, 8, 24), "51.2 m": (32, 0, 32)}.items():
        inside = np.zeros(COARSE.shape, bool)
        inside[:depth, low:high] = True
        iou, miou = literal_iou(labels, guesses, mask & inside)
        zone, official = camera.ranges[name], camera.conventions["official"][name]
        assert (zone.iou, zone.miou) == (pytest.approx(iou), pytest.approx(miou))
        assert (official.iou, official.miou) == (pytest.approx(iou), pytest.approx(miou))
    assert (camera.iou, camera.miou) == (camera.ranges["51.2 m"].iou, camera.ranges["51.2 m"].miou)


def test_table_has_ranges(scores: tuple[str, EvalReport]) -> None:
    printed, _ = scores
    for name in ("precision (occupied)", "recall (occupied)", "mIoU 12.8 m ahead", "recall 51.2 m ahead"):
        assert name in printed
    assert "count 0 in the mean" in " ".join(printed.split())


def test_pictures_and_reports(kitti: Path, run: Path, tmp_path: Path) -> None:
    """One camera fills the page; the commands that read a run know no other data set."""
    call("view", "--shards", kitti, "--run", run, "--pictures", tmp_path / "pictures", "--split", "val")
    pictures = sorted((tmp_path / "pictures").glob("*.png"))
    assert len(pictures) == 2
    assert cv2.imread(str(pictures[0])).shape[1] == 1920
    call("report", run)


@pytest.mark.slow
def test_full_size(tmp_path: Path) -> None:
    """Voxels of 0.2 m: a step of training, scores, and a submission by the rules of the server."""
    shards = write_kitti(tmp_path / "shards", SEMANTICKITTI_GRID, {"train": [1], "val": [1]})
    run = tmp_path / "run"
    train(
        override(config_for(SEMANTICKITTI_GRID, 1), ["data.batch_size=1", "schedule.warmup_steps=0"]),
        shards,
        run,
        device=torch.device("cpu"),
    )
    out = tmp_path / "out"
    call("predict", "--run", run, "--shards", shards, "--predictions", out, "--submission")
    assert (out / "submission.zip").is_file()
    text = call("eval", "--predictions", out / "semantickitti", "--shards", shards, "--json")
    report = EvalReport.model_validate_json(text[text.index("{") :])
    assert report.row("predictions").masks["camera"].ranges["12.8 m"].voxels == 64 * 64 * 32
