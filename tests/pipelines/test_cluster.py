"""Stages on a running cluster: the same bytes as here, with workers that die, and refusals of those that see less."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cluster import Site, difference
from pipelines.masks.network_workers import network_scheduler
from pipelines.scheduler import Scheduler, run_tasks
from pipelines.stage import Runtime, Stage, Unit, UnitReport, read_manifest, run_stage
from pipelines.synth import SynthConfig, generate_world
from pipelines.unit_files import Work
from schemas.errors import ConfigError, SetupError
from schemas.lock import folder_lock
from tests.pipelines.test_stage import SYNC, toy_stage
from tests.programs import Cluster, Program, command_line, digests, session, temporary_files, wait_for

STAGES = {
    "occupancy": ("occupancy.zarr", "occupancy", "--source", "lidar"),
    "masks": ("masks-seeds.zarr", "masks"),
    "pack": ("shards", "pack", "--samples-per-shard", "4"),
}
"""Command -> its folder and arguments."""
DATASETS = """
tiny:
  format: nuscenes
  root: world
  version: v1.0-synth
  image: {resize: [200, 112], crop: [0, 8, 200, 104]}
  splits: {train: {scenes: [synth-0000, synth-0001]}, val: {scenes: [synth-0002, synth-0003]}}
  work: work
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster")
    yield cluster
    cluster.stop()


def run(folder: Path, *arguments: str) -> None:
    assert command_line(folder, *arguments).wait(600) == 0, (folder / "said").read_text()


@pytest.mark.slow
def test_occupancy_masks_and_pack_survive_the_loss_of_a_worker(cluster: Cluster, tmp_path: Path) -> None:
    """One of two workers is killed in the middle of every stage, with its nanny, and never comes back."""
    generate_world(tmp_path / "world", SynthConfig(scenes=4, keyframes=9, image_width=160, sweeps_per_keyframe=0), SYNC)
    (tmp_path / "datasets.yaml").write_text(DATASETS)
    for work in ("here", "there"):
        run(tmp_path, "prepare", "tiny", "--out", work, "--scheduler", "sync")
    cluster.start_worker()
    for folder, *command in STAGES.values():
        run(tmp_path, *command, "--out", "here", "--scheduler", "sync")
        victim = cluster.start_worker()
        driver = command_line(tmp_path, *command, "--out", "there", "--scheduler", cluster.address)
        wait_for(lambda folder=folder: any((tmp_path / "there" / folder / "units").glob("*.json")))
        assert not (tmp_path / "there" / folder / "manifest.json").exists()
        victim.kill_all()
        assert driver.wait(600) == 0, driver.said.read_text()
        assert digests(tmp_path / "there" / folder) == digests(tmp_path / "here" / folder)
    assert temporary_files(tmp_path / "there") == []
    assert b"dashboard: http://127.0.0.1:" in (tmp_path / "said").read_bytes()


def slow_toy(folder: Path, flag: Path, seconds: float) -> Stage:
    """Toy stage whose second unit takes its time once, and says with a file that it has begun."""
    return replace(toy_stage(folder), work=Slow(toy_stage(folder).work, flag, seconds))


class Slow:
    """Work that waits in one unit."""

    def __init__(self, work: Work, flag: Path, seconds: float) -> None:
        self.work, self.flag, self.seconds = work, flag, seconds

    def __call__(self, folder: Path, unit: Unit) -> UnitReport:
        if unit.name == "part-00001" and not self.flag.exists():
            self.flag.touch()
            time.sleep(self.seconds)
        return self.work(folder, unit)


DRIVER = """
import sys
from pathlib import Path
from pipelines.stage import Runtime, run_stage
from pipelines.scheduler import Scheduler
from tests.pipelines.test_cluster import slow_toy
run_stage(slow_toy(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[4])), Runtime(Scheduler(sys.argv[3])))
"""


def start_driver(folder: Path, cluster: Cluster, seconds: float) -> Program:
    """A driver whose second unit is being made."""
    flag = folder / "begun"
    arguments = (str(folder / "toy"), str(flag), cluster.address, str(seconds))
    driver = Program(folder, sys.executable, "-c", DRIVER, *arguments)
    wait_for(lambda: flag.exists() or not session(driver.pid))
    return driver


@pytest.mark.slow
def test_rerun_waits_for_what_a_killed_driver_left_running(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_worker()
    start_driver(tmp_path, cluster, 8.0).kill_all()
    notes: list[str] = []
    run_stage(toy_stage(tmp_path / "toy"), Runtime(Scheduler(cluster.address), on_note=notes.append))
    run_stage(toy_stage(tmp_path / "here"), SYNC)
    assert digests(tmp_path / "toy") == digests(tmp_path / "here")
    assert [note for note in notes if "for an earlier run" in note]


@pytest.mark.slow
@pytest.mark.parametrize("at_s", [0.0, 2.0])
def test_lost_scheduler_is_one_message(cluster: Cluster, tmp_path: Path, at_s: float) -> None:
    """While an answer is on its way, and while none is expected."""
    cluster.start_worker()
    driver = start_driver(tmp_path, cluster, 600.0)
    wait_for((tmp_path / "toy/units/part-00000.json").is_file)
    time.sleep(at_s)
    cluster.scheduler.kill_all()
    assert driver.wait(120) == 1
    assert "distributed.client: " not in driver.said.read_text()
    assert driver.said.read_text().splitlines()[-1].startswith("schemas.errors.StageError: the connection to tcp://")
    cluster.stop()
    run_stage(toy_stage(tmp_path / "toy"), SYNC)
    assert read_manifest(tmp_path / "toy").done == 7


@pytest.mark.slow
def test_cluster_without_workers_waits_for_one(cluster: Cluster, tmp_path: Path) -> None:
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        if "no worker has joined" in text:
            cluster.start_worker()

    run_stage(toy_stage(tmp_path / "toy"), Runtime(Scheduler(cluster.address), on_note=note))
    assert any("no worker has joined" in text for text in notes)


WITHOUT_PROGRAM = (
    "-c",
    "import sys; sys.modules['pipelines'] = None; from distributed.cli.dask_worker import main; main()",
    "--no-nanny",
)


@pytest.mark.slow
def test_worker_without_the_program_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_worker(dask=WITHOUT_PROGRAM)
    with pytest.raises(SetupError, match=r"the worker tcp://\S+ lacks this program, or .*No module named 'pipelines"):
        run_stage(toy_stage(tmp_path / "toy"), Runtime(Scheduler(cluster.address)))
    assert not (tmp_path / "toy").exists() and temporary_files(tmp_path) == []


@pytest.mark.slow
def test_worker_with_a_disk_of_its_own_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """The folder has the same path on it, as on machines that share no disk; one that joins late meets the same."""
    (tmp_path / "work").mkdir()
    mount = f'mount --make-rprivate / && mount -t tmpfs tmpfs {tmp_path / "work"} && exec "$@"'
    within = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    if shutil.which("unshare") is None or subprocess.run([*within, "true"], check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    stage = toy_stage(tmp_path / "work/toy")

    def join_late(text: str) -> None:
        if "no worker has joined" in text:
            threading.Timer(3.0, cluster.start_worker, kwargs={"within": within}).start()

    runtime = Runtime(Scheduler(cluster.address), on_note=join_late)
    message = r"the worker {} does not see .*/work/toy as the driver does\. Put it on a disk"
    for where in (r"on \S+", r"tcp://\S+"):
        with pytest.raises(SetupError, match=message.format(where)):
            run_stage(stage, runtime)
        assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
def test_gpu_goes_to_the_worker_that_has_one(cluster: Cluster, tmp_path: Path) -> None:
    scheduler = network_scheduler(Scheduler(cluster.address), "cuda", Path("weights.pth"))
    cluster.start_worker()
    tasks = [Unit(f"part-{number}", 1) for number in range(4)]
    with pytest.raises(ConfigError, match=r"no worker of tcp://\S+ offers a GPU.*--resources"):
        list(run_tasks(process_number, tasks, scheduler))
    gpu = cluster.start_worker("--resources", "GPU=1")
    numbers = {number for _, number in run_tasks(process_number, tasks, scheduler)}
    assert numbers <= set(session(gpu.pid)) and len(numbers) == 1


def process_number(unit: Unit) -> int:
    return os.getpid()


def test_local_worker_has_a_gpu_for_such_a_task() -> None:
    tasks = [Unit(f"part-{number}", 1) for number in range(3)]
    scheduler = Scheduler("threads", workers=2, needs_gpu=True)
    assert {number for _, number in run_tasks(process_number, tasks, scheduler)} == {os.getpid()}


def test_what_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.cluster.PATIENCE_S", 0.0)
    (tmp_path / "raw").mkdir()
    with folder_lock(tmp_path / "toy"):
        site = Site.here(tmp_path / "toy", tmp_path / "raw")
        assert difference(site) is None
        (tmp_path / "raw/more").touch()
        assert "raw as the driver does. Mount the raw data" in str(difference(site))
        assert "other bytes" in str(difference(replace(site, versions=(("Python", "2.7"), *site.versions[1:]))))
    assert "toy as the driver does. Put it on a disk that all machines mount" in str(difference(site))
    with folder_lock(tmp_path / "toy"):  # of the same name, by another process
        assert "toy as the driver does" in str(difference(replace(site, holder=b"of somebody else")))
