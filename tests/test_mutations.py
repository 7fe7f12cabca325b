"""Damaged and hostile files: the readers refuse them with errors of `schemas.errors`, or take what is possible.

Each mutant is read in a process of its own, which counts time and memory. The fast tests take a few of each kind, the
slow one over 5,000; a failure names the kind and the seed, which make the same bytes again.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from tests.mutations.isolated import Outcome, run_isolated
from tests.mutations.originals import Target, make_originals

SECONDS, EXTRA_MB = 6.0, 300.0
"""Of one mutant. The checks of types in tests look at each value of a list: 2 s without them are up to 6 s here."""
FAST, SLOW = 3, 200
"""Mutants of each kind."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Target]]:
    folder = tmp_path_factory.mktemp("originals") / "whole"
    folder.mkdir()
    return folder, make_originals(folder)


def outcomes(whole: Path, place: Path, target: Target, seeds: Sequence[int]) -> Iterator[tuple[int, Outcome]]:
    """What became of each mutant; the folder is made whole again after each."""
    original = (whole / target.file).read_bytes() if target.original is None else target.original
    top = target.file.split("/")[0]
    for seed in seeds:
        _restore(whole / top, place / top)
        random_ = random.Random(f"{target.name} {seed}")
        mutant = random_.choice(target.mutators)(random_, original)
        if target.install is None:
            (place / target.file).write_bytes(mutant)
        else:
            target.install(place, mutant)
        yield seed, run_isolated(lambda: target.read(place))


def _restore(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def check(whole: Path, place: Path, target: Target, seeds: Sequence[int]) -> Counter[str]:
    """Reads the whole file, then mutants; fails with the seeds of those that no reader may let through.

    The whole file is read in this process first, so that nothing is imported or compiled in those that are measured.
    """
    torch.set_num_threads(1)
    target.read(whole)
    expected = run_isolated(lambda: target.read(whole))
    assert expected.kind == "accepted", expected.detail
    counts: Counter[str] = Counter()
    escapes = []
    for seed, outcome in outcomes(whole, place, target, seeds):
        is_same = outcome.kind == "accepted" and outcome.detail == expected.detail
        counts["the same" if is_same else outcome.kind] += 1
        bounded = outcome.seconds <= SECONDS and outcome.extra_mb <= EXTRA_MB
        if outcome.kind not in ("accepted", "refused") or not bounded:
            figures = f"{outcome.seconds:.1f} s, {outcome.extra_mb:.0f} MB"
            escapes.append(f"{target.name}, seed {seed}: {outcome.kind}, {figures}: {outcome.detail[-1500:]}")
    assert not escapes, f"{len(escapes)} of {len(seeds)} mutants escape:\n" + "\n".join(escapes[:3])
    return counts


NAMES = (
    "shard manifest", "shard index", "tar", "member cam_front.jpg", "member masks.png", "member occupancy.npz",
    "member depth.npz", "member meta.json", "set manifest", "set index", "set index, untold", "set tar",
    "set tar, untold", "set cam_front.jpg", "set masks.png", "set occupancy.npz", "set depth.npz", "set meta.json",
    "set README.md", "set croissant.json", "set SHA256SUMS", "set train-00000.idx", "part of a pull",
    "mirror remote.json", "mirror manifest", "mirror index", "cached sample", "bare manifest", "bare meta.json",
    "bare images.json", "camera file", "records", "record index",
    "checkpoint weights", "checkpoint settings", "checkpoint state", "torch weights", "legacy torch weights",
    "SAM weights", "labels", "datasets.yaml",
    "run settings", "metrics", "chunk", "array", "array, checksum told", "store checksums", "stage manifest", "plan",
    "marker",
)  # fmt: skip


def test_every_kind_is_listed(originals: tuple[Path, list[Target]]) -> None:
    assert tuple(target.name for target in originals[1]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_some_mutants(originals: tuple[Path, list[Target]], name: str, tmp_path: Path) -> None:
    target = next(target for target in originals[1] if target.name == name)
    counts = check(originals[0], tmp_path, target, range(FAST))
    assert counts["refused"] > 0 or target.is_copied


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_mutants(originals: tuple[Path, list[Target]], name: str, tmp_path: Path) -> None:
    target = next(target for target in originals[1] if target.name == name)
    counts = check(originals[0], tmp_path, target, range(SLOW))
    print(f"{name}: {dict(counts)}")
    assert counts["refused"] > 0 or target.is_copied
