"""Whole or absent: what a failed write leaves, and what a full disk says."""

from pathlib import Path

import pytest

from pipelines.files import remove_partials, sha256_of, write_bytes, write_json
from schemas.errors import DataError


def test_full_disk_is_named_and_keeps_the_old_file(tmp_path):
    """A device that is always full stands in for a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    path = tmp_path / "values.json"
    write_bytes(path, b"old")
    (tmp_path / "values.json.partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"values.json: the disk is full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["values.json"]


def test_json_is_sorted_and_the_same_again(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5]})
    write_json(tmp_path / "b.json", {"a": [1.5], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert sha256_of([tmp_path / "a.json"]) == sha256_of([tmp_path / "b.json"])


def test_leftovers_go(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("deep/x.tar.partial", "deep/x.tar"):
        (tmp_path / name).write_bytes(b"1")
    remove_partials(tmp_path)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.tar"]
