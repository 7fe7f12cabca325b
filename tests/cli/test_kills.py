"""The main job killed again and again, whatever it is doing: it ends in the bytes of one that was left alone."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAIN = "from cli.main import main; main()"
SIZE = ("--train-scenes", "3", "--val-scenes", "1", "--keyframes", "2", "--width", "208", "--steps", "8")
KILLS = 12
KEPT = ("world", "work", "run/checkpoints", "pictures")
"""Folders of the demo that must be the same."""
TIMED = ("plan.json", "units/")
"""Files of a stage that say when its raw files were written, and so differ between two worlds."""


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MAIN, "demo", "--out", "demo", *SIZE]
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that must be the same."""
    files = [path for kept in KEPT for path in sorted((folder / "demo" / kept).rglob("*")) if path.is_file()]
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {name: digest for name, digest in found.items() if not any(timed in name for timed in TIMED)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_demo_killed_at_random_moments_ends_in_the_same_bytes(seed: int, tmp_path: Path) -> None:
    """Data, labels, masks, shards, weights, optimiser and pictures; SIGKILL for the program and all its workers."""
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    alone.mkdir()
    killed.mkdir()
    started = time.monotonic()
    assert start(alone).wait(timeout=900) == 0
    longest = time.monotonic() - started
    draw, kills = random.Random(seed), 0
    while kills < KILLS:
        program = start(killed)
        try:
            assert program.wait(timeout=draw.uniform(1.0, longest * 0.6)) == 0, (killed / "said").read_text()
            break  # it was done before this kill came
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            kills += 1
    assert kills >= 3
    assert start(killed).wait(timeout=900) == 0, (killed / "said").read_text()
    expected, found = digests(alone), digests(killed)
    assert len(expected) > 100
    assert {name for name in expected | found if expected.get(name) != found.get(name)} == set()
