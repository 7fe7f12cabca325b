"""Sets of shards that strangers publish, damaged 10,000 times by hypothesis and read by every reader.

Each mutant is read in a process of its own. It ends in an error of `schemas.errors` or in data within the limits, in
less than 5 s and 500 MB, and nothing is written, changed or removed outside the folders that the readers were given.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protoocc.shards.joined import JOINED
from tests.mutations.drawn import damaged_bytes, damaged_headers, damaged_json, seeded
from tests.mutations.isolated import Outcome, run_isolated
from tests.mutations.joined import BARE, make_joined
from tests.mutations.published import CACHE, NEW, PULLED, SET, TOP, make_published
from tests.mutations.targets import Target

MUTANTS = 10_000
SECONDS, EXTRA_MB = 5.0, 500.0
KINDS = (
    "set manifest", "set index", "set index, untold", "set tar", "set tar, untold", "set cam_front.jpg",
    "set masks.png", "set occupancy.npz", "set depth.npz", "set meta.json", "set README.md", "set croissant.json",
    "set SHA256SUMS", "set train-00000.idx", "part of a pull", "mirror remote.json", "mirror manifest", "mirror index",
    "cached sample", "set tar, headers", "bare manifest", "bare meta.json", "bare images.json", "camera file",
)  # fmt: skip
EACH = -(-MUTANTS // len(KINDS))
OWN = (NEW, CACHE, f"{BARE}/{JOINED}")
"""What readers write; `read_joined` says in it where the camera files lie."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Target]]:
    folder = tmp_path_factory.mktemp("published") / "whole"
    folder.mkdir()
    return folder, {target.name: target for target in (*make_published(folder), *make_joined(folder))}


def damaged(kind: str, target: Target, whole: bytes) -> st.SearchStrategy[bytes]:
    """All damage of a kind of file."""
    if kind == "set tar, headers":
        return damaged_headers(whole)
    drawn = [damaged_bytes(whole, blocks="tar" in target.name)]
    if target.name.endswith(("json", "manifest", "index", "untold")) and whole.startswith(b"{"):
        drawn = [damaged_json(whole), damaged_json(whole), *drawn]
    return st.one_of(*drawn, seeded(target.mutators, whole))


def listing(folder: Path) -> dict[str, tuple[str, int]]:
    """All that lies there but in the folders that readers write."""
    own = tuple(str(folder / "place" / name) for name in OWN)
    paths = [path for path in sorted(folder.rglob("*")) if not str(path).startswith(own)]
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "", path.lstat().st_mode)
        for path in paths
    }


def measured(target: Target, place: Path) -> Outcome:
    """Reads once, and again where it took long: other programs may have the processor."""
    for _ in range(3):
        outcome = run_isolated(lambda: target.read(place))
        if outcome.wall_s <= SECONDS:
            break
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_mutant_escapes(published: tuple[Path, dict[str, Target]], kind: str, tmp_path: Path) -> None:
    whole, targets = published
    target = targets[kind.removesuffix(", headers")]
    original = (whole / target.file).read_bytes() if target.original is None else target.original
    torch.set_num_threads(1)
    target.read(whole)
    place, counts, worst = tmp_path / "place", Counter[str](), {"s": 0.0, "MB": 0.0}
    for canary in (tmp_path, place):
        canary.mkdir(exist_ok=True)
        (canary / "canary.txt").write_text("untouched")

    @settings(max_examples=EACH, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck)
    @given(damaged(kind, target, original))
    @example(original)
    def try_one(mutant: bytes) -> None:
        shutil.rmtree(place / TOP, ignore_errors=True)
        shutil.copytree(whole / TOP, place / TOP)
        if target.install is None:
            (place / target.file).write_bytes(mutant)
        else:
            target.install(place, mutant)
        before = listing(tmp_path)
        outcome = measured(target, place)
        worst.update(s=max(worst["s"], outcome.wall_s), MB=max(worst["MB"], outcome.extra_mb))
        counts[outcome.kind] += 1
        assert outcome.kind in ("accepted", "refused"), outcome.detail
        assert outcome.wall_s <= SECONDS and outcome.extra_mb <= EXTRA_MB, outcome
        assert listing(tmp_path) == before, "something outside the folders of the readers was changed"

    try_one()
    print(f"{kind}: {dict(counts)}, at most {worst['s']:.1f} s and {worst['MB']:.0f} MB")
    assert sum(counts.values()) >= EACH, counts
    assert counts["refused"] or target.is_copied, counts
    assert (place / SET).is_dir() and (place / PULLED).is_dir()
