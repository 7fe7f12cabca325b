"""Every stage on machines that fail: full and read-only disks, few files, two drivers. One message, then a rerun."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.stages import DATASETS, STAGES
from tests.programs import MAIN, ROOT, command_line, digests, temporary_files

PAGE = 4096
pytestmark = pytest.mark.slow

INSIDE = """
mount --make-rprivate / && mount -t tmpfs -o size={size} tmpfs disk && cp -a before/. disk && cd disk || exit 99
{fault}
timeout 200 "$@" 2> ../said; code=$?
mount -o remount,rw,size=2g . && ulimit -Sn $(ulimit -Hn)
"$@" 2> ../again || exit 98
cp -a . ../after
exit $code
"""


class Disk:
    """A small disk of its own that holds what a stage reads; it can be full or read-only."""

    def __init__(self, folder: Path, calm: Path, stage: str) -> None:
        self.made, self._command = STAGES[stage]
        self.folder = folder
        before = folder / "before"
        (before / "work").mkdir(parents=True)
        (folder / "disk").mkdir()
        (before / "datasets.yaml").write_text(DATASETS.format(root=calm / "world"))
        for earlier in list(STAGES)[1 : list(STAGES).index(stage)]:
            for name in STAGES[earlier][0]:
                shutil.copytree(calm / name, before / name)
        self.expected = {name: digests(calm / name) for name in self.made}
        self.bytes_before = _bytes(before)
        self.bytes_made = sum(_bytes(calm / name) for name in self.expected)

    def run(self, size: int, fault: str) -> tuple[int, str]:
        """Exit code and words of the command under the fault; runs it once more afterwards, with all it needs."""
        script = INSIDE.format(size=size, fault=fault)
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, sys.executable, "-c", MAIN, *self._command], cwd=self.folder, env=environment, check=False,
            timeout=600, capture_output=True, text=True,
        )  # fmt: skip
        again = (self.folder / "again").read_text() if (self.folder / "again").is_file() else ""
        assert done.returncode != 98, again
        return done.returncode, (self.folder / "said").read_text()

    def check(self) -> None:
        """The rerun has made the same bytes and left nothing else."""
        after = self.folder / "after"
        assert {name: digests(after / name) for name in self.expected} == self.expected
        assert temporary_files(after) == []


def _bytes(folder: Path) -> int:
    """Pages that files take on a tmpfs."""
    return sum(PAGE * math.ceil(path.stat().st_size / PAGE) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def disk(tmp_path: Path, calm: tuple[Path, dict[str, float]]) -> Callable[[str], Disk]:
    test = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    if shutil.which("unshare") is None or subprocess.run(test, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    return lambda stage: Disk(tmp_path, calm[0], stage)


def one_message(code: int, said: str) -> str:
    """The message of a program that ended with one."""
    assert code == 2, said
    assert said.count("error: ") == 1 and "Traceback" not in said, said
    return said[said.index("error: ") :]


@pytest.mark.parametrize("share", [0.05, 0.6])
@pytest.mark.parametrize("stage", STAGES)
def test_full_disk(stage: str, share: float, disk: Callable[[str], Disk]) -> None:
    place = disk(stage)
    message = one_message(*place.run(place.bytes_before + int(share * place.bytes_made), ":"))
    assert "the disk is full; free space" in message and "--on-error" not in message
    place.check()


@pytest.mark.parametrize("stage", STAGES)
def test_read_only_disk(stage: str, disk: Callable[[str], Disk]) -> None:
    place = disk(stage)
    message = one_message(*place.run(1 << 30, "mount -o remount,ro ."))
    assert "read-only" in message
    place.check()


@pytest.mark.parametrize("limit", [24, 64])
@pytest.mark.parametrize("stage", STAGES)
def test_few_file_descriptors(stage: str, limit: int, disk: Callable[[str], Disk]) -> None:
    place = disk(stage)
    code, said = place.run(1 << 30, f"ulimit -Sn {limit}")
    if code:
        message = one_message(code, said)
        assert "too many open files; raise the limit (ulimit -n 4096)" in message
    place.check()


@pytest.mark.parametrize("stage", STAGES)
def test_two_drivers_on_one_output(stage: str, tmp_path: Path, calm: tuple[Path, dict[str, float]]) -> None:
    place = Disk(tmp_path, calm[0], stage)
    drivers = [command_line(tmp_path / "before", *STAGES[stage][1]) for _ in range(2)]
    codes = sorted(driver.wait(300) for driver in drivers)
    said = (tmp_path / "before/said").read_text()
    assert codes in ([0, 0], [0, 2]), said
    assert codes == [0, 0] or ("being written by process" in said and said.count("error: ") == 1), said
    (tmp_path / "before").rename(tmp_path / "after")
    place.check()
