"""Programs where shared memory is small, as in containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_with(size: str, folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process whose /dev/shm has another size; skips the test where nobody may mount one."""
    if not _may_mount():
        pytest.skip("this machine lets nobody mount a small /dev/shm")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = _within(size, sys.executable, "-c", code, *arguments)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@cache
def _may_mount() -> bool:
    return shutil.which("unshare") is not None and not subprocess.run(_within("1m", "true"), check=False).returncode


def _within(size: str, *command: str) -> list[str]:
    mount = f'mount --make-rprivate / && mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *command]
