"""Every stage killed at random moments, its driver, a worker or both: the rerun ends in the bytes of a calm run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.programs import Program, command_line, digests, session, temporary_files, wait_for

WORLD = ("--scenes", "2", "--keyframes", "3", "--width", "160", "--sweeps", "1", "--workers", "2")
WORKERS = ("--workers", "2", "--memory-limit", "2GiB")
STAGES = {
    "synth": (("world", "world.partial"), ("synth", "world", *WORLD)),
    "prepare": (("work/records", "work/geometry.zarr"), ("prepare", *WORKERS)),
    "occupancy": (("work/occupancy.zarr",), ("occupancy", "--source", "lidar", *WORKERS)),
    "masks": (("work/masks-seeds.zarr",), ("masks", *WORKERS)),
    "pack": (("work/shards",), ("pack", "--samples-per-shard", "1", *WORKERS)),
}
"""Stage -> what it makes, and the command with at least two tasks, except one of masks, all in worker processes."""
DATASETS = """
tiny:
  format: nuscenes
  root: {root}
  version: v1.0-synth
  image: {{resize: [200, 112], crop: [0, 8, 200, 104]}}
  splits: {{train: {{scenes: [synth-0000]}}, val: {{scenes: [synth-0001]}}}}
  work: work
"""
KINDS = ("driver", "worker", "all", "SIGINT", "SIGTERM")
ROUNDS = 2
"""Kills of each kind in each stage: 50 in all."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """Folder of a run that was left alone, and how long each stage took, seconds."""
    folder, seconds = tmp_path_factory.mktemp("calm"), {}
    (folder / "datasets.yaml").write_text(DATASETS.format(root="world"))
    for stage, (_, command) in STAGES.items():
        started = time.monotonic()
        assert command_line(folder, *command).wait(600) == 0, (folder / "said").read_text()
        seconds[stage] = time.monotonic() - started
    return folder, seconds


def lie_in_wait(kind: str, program: Program) -> bool:
    """Ends a running program in one way; says whether it was there to be ended."""
    if kind == "worker":
        victims = program.workers()
        if victims:
            os.kill(victims[-1], signal.SIGKILL)
        return bool(victims)
    if kind == "all":
        program.kill_all()
    elif kind == "driver":
        os.kill(program.pid, signal.SIGKILL)
    elif kind == "SIGINT":
        os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    else:
        os.kill(program.pid, signal.SIGTERM)
    return True


CODES = {"driver": {-9}, "all": {-9}, "SIGINT": {130}, "SIGTERM": {143}, "worker": {0, 2}}
"""A worker that dies while it starts ends the run with a message; later its task is tried again."""


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_stage_ends_in_the_same_bytes(stage: str, calm: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    folder, seconds = calm
    made, command = STAGES[stage]
    draw = random.Random(stage)
    expected = {name: digests(folder / name) for name in made if (folder / name).exists()}
    (tmp_path / "datasets.yaml").write_text(DATASETS.format(root=folder / "world"))
    before = list(STAGES)[1 : list(STAGES).index(stage)]
    for name in (name for earlier in before for name in STAGES[earlier][0]):
        shutil.copytree(folder / name, tmp_path / name)
    for kind in KINDS * ROUNDS:
        for name in made:
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        moment_s = draw.uniform(0.5, 0.95 * seconds[stage])
        program = command_line(tmp_path, *command)
        time.sleep(moment_s)
        where = f"{kind} after {moment_s:.2f} of {seconds[stage]:.2f} s"
        hit = program.ends_within(0) is False and lie_in_wait(kind, program)
        code = program.wait(300)
        assert code in (CODES[kind] if hit else {0}), f"{where}: exit code {code}\n{program.said.read_text()}"
        wait_for(lambda pid=program.pid: not session(pid), 15.0)
        assert command_line(tmp_path, *command).wait(300) == 0, f"{where}\n{(tmp_path / 'said').read_text()}"
        found = {name: digests(tmp_path / name) for name in expected}
        assert found == expected, where
        assert temporary_files(tmp_path) == [], where
        with (tmp_path / "kills").open("a") as kills:
            kills.write(f"{stage}: {where}, {'hit' if hit else 'missed'}, exit code {code}\n")
