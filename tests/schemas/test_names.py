"""Names of people as names of files: plain ones stay, all others become different safe ones."""

from __future__ import annotations

import re

import pytest

from schemas.names import file_key, folder_of
from schemas.shards import image_member, sample_key

NAMES = ("run.2024.05.01", "run.2024.05.02", "2024/05/01", "..", ".", "", "A", "x" * 49, "x" * 5000, "ä", "\ud800", "=")


def test_plain_names_stay() -> None:
    assert [file_key(name) for name in ("scene-0061", "cam_front", "0")] == ["scene-0061", "cam_front", "0"]


@pytest.mark.parametrize("name", NAMES)
def test_other_names_become_safe(name: str) -> None:
    key = file_key(name)
    assert re.fullmatch(r"[a-z0-9_-]{0,32}=[0-9a-f]{10}", key), key


def test_different_names_have_different_keys() -> None:
    assert len({file_key(name) for name in (*NAMES, "a", "run-2024-05-01")}) == len(NAMES) + 2


def test_members_of_a_tar_have_one_dot() -> None:
    """Readers of WebDataset split names at the first dot: all members of a sample share what stands before it."""
    member = f"{sample_key('run.2024.05.01', 3)}.{image_member('camera/front.left')}"
    key, *rest = member.split(".")
    assert key.endswith("-0003") and len(rest) == 2 and rest[-1] == "jpg" and "/" not in member


def test_folders_of_label_sets_stay_inside() -> None:
    assert folder_of("2024/05/01 drive.a") == "2024/05/01 drive.a"
    for name in ("..", "a/../../b", "/etc", "", "a\0b"):
        assert not {"..", "/"} & set(folder_of(name).split("/")) and not folder_of(name).startswith("/")
