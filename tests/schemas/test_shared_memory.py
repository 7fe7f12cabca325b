"""Shared memory that is missing is one clear error before any process starts."""

from __future__ import annotations

import errno
import multiprocessing
import os

import pytest

from schemas.errors import SetupError
from schemas.shared_memory import check_shared_memory


def test_enough_of_it_says_nothing() -> None:
    check_shared_memory(2, "alone")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.EACCES, errno.ENOSYS])
def test_none_of_it_is_named_with_the_ways_out(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(multiprocessing, "Lock", refuse)
    with pytest.raises(SetupError) as caught:
        check_shared_memory(2, "run alone")
    for words in (os.strerror(number), "--shm-size=8g", ", or run alone."):
        assert words in str(caught.value)


def test_too_many_open_files_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(multiprocessing, "Lock", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        check_shared_memory(2, "run alone")
