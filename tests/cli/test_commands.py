"""The commands as a user types them: the way through on a tiny world, and what bad input says."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from contextvars import copy_context
from pathlib import Path

import pytest
import yaml

from cli import main
from cli.progress import make_scheduler
from schemas.settings import override
from tests.protoocc.conftest import tiny_occ3d_config

ROOT = Path(__file__).parents[2]


MAIN = "from cli.main import main; main()"


def protoocc(
    *arguments: object, expect: int = 0, file_limit: int | None = None, code: str = MAIN
) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own; fails the test with its output on another exit code."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "2"}
    if file_limit is not None:
        command = ["prlimit", f"--fsize={file_limit}", *command]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def in_process(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the command in this process, which saves the seconds of starting one."""
    command, out, err = ["protoocc", *map(str, arguments)], io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        patch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as ended:
            copy_context().run(main.run)
    assert ended.value.code == expect, f"exit {ended.value.code}\n{out.getvalue()}\n{err.getvalue()}"
    return subprocess.CompletedProcess(command, expect, out.getvalue(), err.getvalue())


Say = Callable[..., str]


@pytest.fixture
def here() -> Say:
    """Runs a command in this process; gives what it said on standard error."""
    return lambda *arguments, expect=0: in_process(*arguments, expect=expect).stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`protoocc demo` in this process, on the smallest world and with a tiny network in place of its preset's.

    The world is drawn by worker processes, as by default; to start others for each later stage would take seconds.
    """
    out = tmp_path_factory.mktemp("demo") / "out"
    size = ("--train-scenes", 1, "--val-scenes", 1, "--keyframes", 1, "--width", 208, "--pictures", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protoocc.read_preset", lambda name, changes: override(tiny_occ3d_config(), changes))
        patch.setattr("cli.data.make_scheduler", lambda *words: make_scheduler("sync"))
        done = in_process("demo", "--out", out, *size, "--steps", 2)
    assert "mIoU" in done.stdout
    assert str(out / "pictures") in done.stdout
    return out


@pytest.fixture(scope="module")
def whole_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`protoocc demo` with its own network, in a process of its own."""
    out = tmp_path_factory.mktemp("whole") / "out"
    size = ("--train-scenes", 1, "--val-scenes", 1, "--keyframes", 2, "--steps", 3, "--pictures", 1)
    done = protoocc("demo", "--out", out, *size)
    assert "mIoU" in done.stdout
    assert str(out / "pictures") in done.stdout
    return out


@pytest.mark.slow
def test_pretrained_features_start_a_training(whole_demo: Path, tmp_path: Path) -> None:
    """Image targets from the LiDAR of the demo's world, three steps on them, a training that starts from the file."""
    entry = ("--datasets", whole_demo / "datasets.yaml")
    made = protoocc("pretrain", "targets", *entry, "--source", "lidar", "--scheduler", "sync")
    assert "pixels: 4 samples" in made.stderr
    targets = whole_demo / "work/pixels"
    few = ("--set", "schedule.steps=3", "--set", "schedule.warmup_steps=1", "--set", "batch_size=1")
    run = tmp_path / "pretrained"
    done = protoocc("pretrain", "images", "--targets", targets, "--run", run, *few, "--json")
    assert "3 / 3 steps" in done.stderr and "depth off by" in done.stderr
    assert json.loads(done.stdout)["images"] == 12
    weights = run / "image_features.safetensors"
    assert weights.stat().st_size < 4_000_000
    assert str(tmp_path) not in (run / "image_features.json").read_text()
    start = ("--weights", weights, "--run", tmp_path / "run", "--set", "schedule.steps=1")
    assert "stored in 16 bits" in protoocc("train", *entry, *start).stderr
    refused = protoocc("pretrain", "targets", *entry, "--source", "lidr", expect=2)
    assert "truth or lidar" in refused.stderr and "Traceback" not in refused.stderr
    refused = protoocc("pretrain", "images", "--targets", whole_demo / "work/shards", expect=2)
    assert "holds occupancy shards" in refused.stderr


def test_demo_leaves_summary_and_pictures(demo):
    summary = json.loads((demo / "summary.json").read_text())
    assert summary["seconds"] > 0
    figures = ("miou", "iou", "things_iou")
    assert set(summary["val"]) >= {*figures, *(f"frequent_class_{name}" for name in figures), "ground_iou"}
    assert "plain" not in summary["val"]
    assert 0 <= summary["val"]["miou"] <= 1
    assert summary["val"]["all_free_miou"] == 0
    assert summary["val"]["samples"] == 1
    assert [(demo / picture).read_bytes()[:4] for picture in summary["pictures"]] == [b"\x89PNG"]
    assert (demo / "run/config.json").is_file()


@pytest.mark.slow
def test_yardstick_is_trained_and_scored_beside_the_demo(whole_demo):
    """A preset of any name stands in for the yardstick's own; one that is not there is refused at once."""
    main = (
        "import dataclasses, cli.demo; shown = cli.demo.DEMOS; from cli.main import main; "
        "shown['nuscenes'] = dataclasses.replace(shown['nuscenes'], yardstick={!r}); main()"
    )
    size = ("--out", whole_demo, "--train-scenes", 1, "--val-scenes", 1, "--keyframes", 2, "--steps", 3, "--yardstick")
    message = one_message(protoocc("demo", *size, code=main.format("simple"), expect=2).stderr)
    assert "no preset 'simple'" in message
    protoocc("demo", *size, code=main.format("demo"))
    summary = json.loads((whole_demo / "summary.json").read_text())
    plain = summary["val"]["demo"]
    assert set(plain) == {"miou", "iou", "things_iou"}
    assert plain["iou"] == summary["val"]["iou"]


@pytest.mark.slow
def test_demo_in_the_form_of_semantickitti(tmp_path: Path) -> None:
    """One camera, official file layout, LiDAR depth: the same stages, table, summary, pictures, status."""
    out = tmp_path / "out"
    size = ("--train-scenes", 1, "--val-scenes", 1, "--keyframes", 1, "--width", 240, "--pictures", 1, "--steps", 2)
    done = protoocc("demo", "--dataset", "semantickitti", "--out", out, *size, "--yardstick")
    assert (out / "world/dataset/sequences/08/voxels/000000.label").is_file()
    assert "bicyclist" in done.stdout and "sem_scal" in done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["val"]["proposals"]) == {"miou", "iou", "things_iou"}
    assert {"ce", "sem_scal", "geo_scal", "cls"} <= set(summary["losses"])
    assert (out / summary["pictures"][0]).is_file()
    printed = protoocc("status", "--datasets", out / "datasets.yaml", "--runs", out).stdout
    assert "run run" in printed and "protoocc eval" in printed
    refused = protoocc("demo", "--dataset", "kitti", "--out", tmp_path / "other", expect=2)
    assert "--dataset kitti: expected nuscenes or semantickitti" in one_message(refused.stderr)


@pytest.mark.slow
def test_demo_again_continues_and_changes_nothing(whole_demo):
    before = (whole_demo / "eval.json").read_bytes()
    protoocc("demo", "--out", whole_demo, "--train-scenes", 1, "--val-scenes", 1, "--keyframes", 2, "--steps", 3)
    assert (whole_demo / "eval.json").read_bytes() == before
    assert json.loads((whole_demo / "summary.json").read_text())["continued"]


@pytest.mark.slow
def test_each_command_by_itself(whole_demo, tmp_path):
    """The same way with single commands, a work folder of its own and labels made from sweeps."""
    common = ("--datasets", whole_demo / "datasets.yaml", "--out", tmp_path / "work")
    protoocc("prepare", "demo", *common)
    occupancy = protoocc("occupancy", "--source", "lidar", *common)
    assert "occupied voxels by source" in occupancy.stderr
    protoocc("masks", "--generator", "seeds", "--segments", 91, *common)
    packed = json.loads(protoocc("pack", *common, "--json").stdout)
    assert packed["done"] == 4
    shards = tmp_path / "work/shards"
    run = tmp_path / "run"
    protoocc("train", "--preset", "demo", "--shards", shards, "--run", run, "--set", "schedule.steps=2")
    report = json.loads(protoocc("eval", "--shards", shards, "--run", run, "--json").stdout)
    assert [row["name"] for row in report["rows"]] == ["model", "frequent_class", "all_free"]
    assert json.loads((run / "eval.json").read_text()) == report
    assert "<h2>Scores</h2>" in (run / "report.html").read_text()
    paths = protoocc("view", "--shards", shards, "--run", run, "--count", 1, "--pictures", tmp_path / "pictures").stdout
    assert Path(paths.strip()).is_file()
    rows = json.loads(protoocc("status", *common, "--runs", tmp_path, "--json").stdout)
    assert {row["stage"]: row["state"] for row in rows} == dict.fromkeys(
        ("records", "geometry", "occupancy", "masks-seeds", "shards", "run run"), "done"
    )
    assert f"--shards {shards}" in rows[-1]["next_command"]
    protoocc("train", "--shards", shards, "--run", run, "--resume")


def one_message(said: str) -> str:
    assert "Traceback" not in said
    assert said.count("error:") == 1
    return " ".join(said.split())


@pytest.fixture
def entry(demo: Path, tmp_path: Path) -> dict:
    """The demo's entry with absolute folders, to be damaged and written by `write`."""
    fields = yaml.safe_load((demo / "datasets.yaml").read_text())["demo"]
    return {**fields, "root": str(demo / "world"), "work": str(tmp_path / "work")}


def write(folder: Path, entry: dict) -> Path:
    path = folder / "datasets.yaml"
    path.write_text(yaml.safe_dump({"demo": entry}))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"root": "/nowhere/at/all"}, ("/nowhere/at/all",)),
        ({"version": "v1.0-trainvall"}, ("v1.0-trainvall", "v1.0-synth")),
        ({"verson": "v1.0-synth"}, ("demo", "verson")),
        ({"splits": {"train": {"scenes": ["scene-9999"]}}}, ("scene-9999",)),
        ({"cameras": ["CAM_FRONT", "CAM_SIDE"]}, ("CAM_SIDE",)),
    ],
)
def test_bad_entry_is_one_message_and_leaves_nothing(entry, tmp_path, here, change, words):
    path = write(tmp_path, {**entry, **change})
    message = one_message(here("prepare", "demo", "--datasets", path, "--scheduler", "sync", expect=2))
    assert all(word in message for word in words)
    assert not (tmp_path / "work/records/manifest.json").exists()


def test_unknown_dataset_names_the_known_ones(demo, here):
    said = here("prepare", "waymo", "--datasets", demo / "datasets.yaml", expect=2)
    assert "known: demo" in one_message(said)


def test_root_of_prepare_is_remembered(demo, entry, tmp_path, here):
    """`prepare --root` names the raw data for all later stages; another root later is refused."""
    path = write(tmp_path, {**entry, "root": "/nowhere"})
    where = ("--datasets", path, "--scheduler", "sync")
    here("prepare", "demo", "--root", demo / "world", *where)
    here("masks", *where)
    again = one_message(here("masks", *where, "--root", tmp_path, expect=2))
    assert f"protoocc prepare demo --root {tmp_path}" in again
    here("prepare", "--dataset", "demo", *where)


def test_read_only_caches():
    """Numba refuses to load where it can keep nothing; a temporary place is enough for one run."""
    script = "from cli.caches import ready_caches; ready_caches(); import os; print(os.environ['NUMBA_CACHE_DIR'])"
    place = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": "/proc/nothing"}
    done = subprocess.run([sys.executable, "-c", script], env=place, capture_output=True, text=True, timeout=900)
    assert "protoocc-numba-" in done.stdout, done.stderr


@pytest.mark.slow
def test_training_that_is_shared_and_prolonged(whole_demo: Path, tmp_path: Path) -> None:
    """Two processes by `--nproc` and by torchrun give the same losses; one of them is prolonged by one process."""
    few = ("--set", "schedule.steps=2", "--set", "schedule.warmup_steps=1", "--set", "data.batch_size=2")
    common = ("--shards", whole_demo / "work/shards", "--run", tmp_path / "run")
    done = protoocc("train", *common, *few, "--nproc", 2)
    assert "2 / 2 steps" in done.stderr and "% waiting for data" in done.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--", "cli.main", "train"]
    command = [*torchrun, *map(str, (*common[:3], tmp_path / "other", *few)), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    other = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=True)
    assert other.stderr.count("train: 2 steps on 2 samples") == 1
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert json.loads(other.stdout)["first"]["total"] == pytest.approx(rows[0]["total"], rel=1e-5)
    protoocc("train", *common, "--extend", 1)
    schedule = json.loads((tmp_path / "run/config.json").read_text())["schedule"]
    assert (schedule["steps"], schedule["extended"]) == (3, [2])
    refused = protoocc("train", *common, "--resume", "--set", "data.batch_size=3", "--nproc", 2, expect=2)
    assert "multiple of 2" in one_message(refused.stderr)


def test_stage_before_its_input(demo, tmp_path, here):
    said = here("occupancy", "--datasets", demo / "datasets.yaml", "--out", tmp_path / "empty", expect=2)
    assert "protoocc prepare" in one_message(said)


def test_sam_without_checkpoint_names_the_published_files(demo, here):
    said = here("masks", "--generator", "sam", "--datasets", demo / "datasets.yaml", expect=2)
    message = one_message(said)
    assert "sam_vit_b_01ec64.pth" in message
    assert "--checkpoint" in message


def test_checkpoint_of_another_shape(demo, tmp_path, here):
    other = shutil.copytree(demo / "run", tmp_path / "other")
    path = other / "checkpoints/step-000002/config.json"
    config = json.loads(path.read_text())
    config["model"]["channels"] = 32
    path.write_text(json.dumps(config))
    said = here("eval", "--shards", demo / "work/shards", "--run", other, expect=2)
    assert "damaged" in one_message(said)


def test_disk_that_takes_no_more_is_one_message(demo, tmp_path):
    """A limit on the size of files stands in for a full disk; the shards of the demo are larger."""
    work = tmp_path / "work"
    shutil.copytree(demo / "work", work, ignore=shutil.ignore_patterns("shards"))
    command = ("pack", "--datasets", demo / "datasets.yaml", "--out", work, "--scheduler", "sync")
    done = protoocc(*command, expect=2, file_limit=100_000)
    assert "cannot write" in one_message(done.stderr)
    assert not [path for path in (work / "shards").rglob("*") if path.name.endswith((".tar", ".partial"))]
    protoocc(*command)
    assert (work / "shards/val-00000.tar").read_bytes() == (demo / "work/shards/val-00000.tar").read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--preset", "huge"),
        ("train", "--set", "optimizer.speed=3"),
        ("occupancy", "--source", "radar"),
        ("masks", "--segments", "77"),
        ("pack", "--on-error", "ignore"),
        ("pack", "--scheduler", "slurm"),
        ("pack", "--memory-limit", "much"),
        ("prepare", "--memory-limit", "10MB"),
        ("occupancy", "--check", "--memory-limit", "twice"),
    ],
)
def test_unknown_words(demo, tmp_path, here, arguments):
    work = demo / "work"
    extra = ("--shards", work / "shards", "--run", tmp_path / "run") if arguments[0] == "train" else ()
    out = () if arguments[0] == "train" else ("--out", tmp_path / "work")
    if out:
        shutil.copytree(work, tmp_path / "work", ignore=shutil.ignore_patterns("shards", "masks-*", "occupancy.zarr"))
        if arguments[0] == "pack":
            for name in ("masks-seeds.zarr", "occupancy.zarr"):
                shutil.copytree(work / name, tmp_path / "work" / name)
    entry = () if arguments[0] == "train" else ("--datasets", demo / "datasets.yaml")
    said = here(*arguments, *entry, *extra, *out, expect=2)
    assert arguments[-1].split("=")[0].split(".")[-1] in one_message(said)
