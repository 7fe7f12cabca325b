"""Labels do not depend on where they are made, nor on how often the run was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.occupancy import LidarConfig, make_occupancy
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from schemas.datasets import DatasetSpec
from tests.folders import files_below

ROOT = Path(__file__).parents[2]
RUN = """
import sys
from pathlib import Path
from pipelines.occupancy import LidarConfig, make_occupancy
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime
from schemas.datasets import DatasetSpec

if __name__ == "__main__":
    dataset = DatasetSpec.model_validate_json(sys.argv[1])
    make_occupancy(dataset, Path(sys.argv[2]), LidarConfig(), Runtime(scheduler=Scheduler(sys.argv[3], workers=2)))
"""

pytestmark = pytest.mark.slow


def work_folder(folder: Path, prepared: Path) -> Path:
    folder.mkdir()
    (folder / "records").symlink_to(prepared / "records")
    return folder


@pytest.fixture(scope="module")
def expected(world_dataset: DatasetSpec, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Store of a run in this thread."""
    work = work_folder(tmp_path_factory.mktemp("expected") / "work", prepared)
    make_occupancy(world_dataset, work, LidarConfig(), Runtime(scheduler=Scheduler(kind="sync")))
    return files_below(work / "occupancy.zarr")


@pytest.mark.parametrize(("kind", "workers"), [("threads", 1), ("threads", 2), ("processes", 1), ("processes", 2)])
def test_same_bytes_wherever_it_runs(
    world_dataset: DatasetSpec, prepared: Path, tmp_path: Path, expected: dict[str, bytes], kind: str, workers: int
) -> None:
    work = work_folder(tmp_path / "work", prepared)
    make_occupancy(world_dataset, work, LidarConfig(), Runtime(scheduler=Scheduler(kind=kind, workers=workers)))
    assert files_below(work / "occupancy.zarr") == expected


def test_same_bytes_on_a_running_cluster(
    world_dataset: DatasetSpec, prepared: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    from distributed import LocalCluster

    work = work_folder(tmp_path / "work", prepared)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with LocalCluster(**options) as cluster:
        runtime = Runtime(scheduler=Scheduler(kind=cluster.scheduler_address))
        assert runtime.scheduler.kind.startswith("tcp://")
        make_occupancy(world_dataset, work, LidarConfig(), runtime)
    assert files_below(work / "occupancy.zarr") == expected


def kill_when(path: Path, command: list[str]) -> None:
    """Starts a process group and kills all of it, without a warning, as soon as ``path`` is there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, f"the run ended before {path.name} was there"
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("kind", ["sync", "processes"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    world_dataset: DatasetSpec, prepared: Path, tmp_path: Path, expected: dict[str, bytes], kind: str
) -> None:
    """Killed twice: in the first scene, between two keyframes, and after the first scene's marker."""
    work = work_folder(tmp_path / "work", prepared)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), world_dataset.model_dump_json(), str(work), kind]
    store = work / "occupancy.zarr"
    first_chunk = min(name for name in expected if name.startswith("semantics/c/"))
    kill_when(store / first_chunk, command)
    assert not (store / "manifest.json").exists()
    for name in ("units/synth-0000.json", "units/synth-0001.json"):
        if not (store / name).exists():
            kill_when(store / name, command)
            break
    assert not (store / "manifest.json").exists()
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=240)
    assert files_below(store) == expected
