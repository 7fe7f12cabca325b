"""Every stage killed at random moments, its driver, a worker or both: the rerun ends in the bytes of a calm run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.cli.stages import DATASETS, STAGES
from tests.programs import Program, command_line, digests, session, temporary_files, wait_for

KINDS = ("driver", "worker", "all", "SIGINT", "SIGTERM")
ROUNDS = 2
"""Kills of each kind in each stage: 50 in all."""
CODES = {"driver": {-9}, "all": {-9}, "SIGINT": {130}, "SIGTERM": {143}, "worker": {0, 2}}
"""How the program ends where it was not done already. A worker that dies while it starts ends it with a message."""


def strike(kind: str, program: Program) -> bool:
    """Ends a running program in one way; says whether there was something to end."""
    if kind == "worker":
        victims = program.workers()
        if victims:
            os.kill(victims[-1], signal.SIGKILL)
        return bool(victims)
    if kind == "all":
        program.kill_all()
    elif kind == "driver":
        os.kill(program.pid, signal.SIGKILL)
    else:
        wait_for(lambda: program.catches_signals or not program.is_running)
    if kind == "SIGINT":
        os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    elif kind == "SIGTERM":
        os.kill(program.pid, signal.SIGTERM)
    return True


def wait_for_moment(draw: random.Random, program: Program, folders: list[Path], files: int, seconds: float) -> str:
    """Waits some time, or for some file to appear, as drawn; says for what."""
    if draw.random() < 0.4:
        moment_s = draw.uniform(0.5, 0.95 * seconds)
        program.ends_within(moment_s)
        return f"after {moment_s:.2f} s"
    count = draw.randrange(1, files)
    while program.is_running and sum(len(digests(folder)) for folder in folders) < count:
        time.sleep(0.002)
    return f"at file {count} of {files}"


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_stage_ends_in_the_same_bytes(stage: str, calm: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    """Killed in five ways in a row, so that what one run left is killed again, then run to its end; twice."""
    folder, seconds = calm
    made, command = STAGES[stage]
    draw = random.Random(stage)
    expected = {name: digests(folder / name) for name in made}
    files = sum(map(len, expected.values()))
    (tmp_path / "datasets.yaml").write_text(DATASETS.format(root=folder / "world"))
    for earlier in list(STAGES)[1 : list(STAGES).index(stage)]:
        for name in STAGES[earlier][0]:
            shutil.copytree(folder / name, tmp_path / name)
    places = [tmp_path / name for name in made]
    watched = [place.with_name(place.name + ending) for place in places for ending in ("", ".new", ".partial")]
    for _ in range(ROUNDS):
        for kind in draw.sample(KINDS, len(KINDS)):
            program = command_line(tmp_path, *command)
            moment = wait_for_moment(draw, program, watched, files, seconds[stage])
            hit = program.is_running and strike(kind, program)
            code = program.wait(300)
            where = f"{stage}: {kind} {moment} {'hit' if hit else 'missed'}, exit code {code}"
            print(where)
            assert code in (CODES[kind] | {0} if hit else {0}), (where, program.said.read_text())
            wait_for(lambda pid=program.pid: not session(pid), 15.0)
            if code == 0:
                assert {name: digests(tmp_path / name) for name in made} == expected, where
                for place in places:
                    shutil.rmtree(place)
        assert command_line(tmp_path, *command).wait(300) == 0, (tmp_path / "said").read_text()
        assert {name: digests(tmp_path / name) for name in made} == expected
        assert temporary_files(tmp_path) == []
        for place in places:
            shutil.rmtree(place)
