"""Files are whole or absent, also where several processes write the same one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import lock
from schemas.errors import DataError
from schemas.files import PARTIAL, write_blocks, write_bytes

ROOT = Path(__file__).parents[2]

WRITE = """
import sys
from pathlib import Path
from schemas.files import write_blocks
letter = sys.argv[2].encode()
for _ in range(200):
    write_blocks(Path(sys.argv[1]), (letter * 1000 for _ in range(20)))
"""


def test_two_processes_write_one_file_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    write_bytes(path, b"c" * 20_000)
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, path, letter], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for letter in "ab"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        data = path.read_bytes()
        assert len(data) == 20_000
        assert len(set(data)) == 1
        seen.add(data[:1])
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    assert seen >= {b"a", b"b"}
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / f"eval.json{PARTIAL}").write_bytes(b"half of something longer")
    write_bytes(tmp_path / "eval.json", b"whole")
    assert (tmp_path / "eval.json").read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_system_without_locks_of_files_writes_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    write_bytes(tmp_path / "eval.json", b"whole")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


def test_a_failing_source_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"first"
        raise FileNotFoundError("gone")

    path = tmp_path / "records"
    write_bytes(path, b"before")
    with pytest.raises(FileNotFoundError, match="gone"):
        write_blocks(path, blocks())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_way_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="a folder stands where a file is wanted"):
        write_bytes(tmp_path / "folder", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
