"""Counts predictions of a split beside the baselines, a bounded number of samples at a time, and reports the scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from protoocc.baselines import all_free, frequent_class
from protoocc.completion import CONVENTIONS, completion_scores
from protoocc.data import ShardDataset, ShardSet
from protoocc.eval_report import EvalReport, EvalRow, MaskScores, Parts, RayFigures
from protoocc.metrics import AbsentRule, benchmark_rule
from protoocc.ray_iou import cast_rays
from protoocc.ray_places import RayPlaces
from protoocc.tally import MASKS, Mask, Tally, Truth
from protoocc.zones import Zones
from schemas.settings import Frozen
from schemas.version import code_version

WAITING: Final = 2
"""Samples that wait or are counted for each thread; memory does not grow with the split."""

Volume = UInt8[np.ndarray, "X Y Z"]
Progress = Callable[[int, int], None]
Tallies = dict[str, Tally]


class EvalConfig(Frozen):
    """How to score; `workers` changes nothing but the time."""

    absent: AbsentRule | None = Field(None, description="Which classes means leave out; null: as the benchmark.")
    workers: int = Field(1, ge=1, description="Threads that count voxels and cast rays.")
    rays: bool = Field(True, description="Whether RayIoU is computed.")


@dataclass(frozen=True)
class Scoring:
    """What all samples of a split share while they are scored."""

    dataset: ShardDataset
    """The evaluated split."""
    voted: ShardSet | None
    """Split whose labels voted for the most frequent class; None: no such baseline."""
    constants: Mapping[str, Volume]
    """Baselines that predict the same for every sample."""
    zones: Zones
    places: RayPlaces | None
    """None: no RayIoU."""
    without_rays: str | None
    """Why there is none."""

    @classmethod
    def of(cls, evaluated: ShardSet, voted: ShardSet | None, config: EvalConfig, on_progress: Progress) -> Scoring:
        """Reads the poses of the evaluated split and the labels of the voting one.

        Args:
            evaluated: the split to score.
            voted: see above.
            config: how to score.
            on_progress: called with finished and total samples, those to be evaluated among them.

        Raises:
            DataError: a sample is damaged.
        """
        grid, classes = evaluated.dataset.grid, evaluated.dataset.classes
        constants = {"all_free": all_free(grid.shape, classes)}
        if voted is not None:
            total = len(voted.samples) + len(evaluated.samples)
            frequent = frequent_class(ShardDataset(voted), lambda done, _: on_progress(done, total))
            constants = {"frequent_class": frequent, **constants}
        dataset = ShardDataset(evaluated)
        return cls(dataset, voted, constants, Zones.of(grid), *_ray_places(dataset, config))

    def truth(self, index: int) -> Truth:
        """Labels of a sample.

        Raises:
            DataError: it is damaged.
        """
        arrays = self.dataset.occupancy(index)
        return Truth(arrays["semantics"], arrays["mask_camera"] != 0, arrays["mask_lidar"] != 0)

    def count(self, name: str, index: int, truth: Truth, prediction: Volume) -> Tallies:
        """Counts one sample.

        Args:
            name: of the predictor.
            index: of the sample in the split.
            truth: its labels.
            prediction: class of each voxel.

        Raises:
            DataError: a class outside the table.
        """
        info = self.dataset.shards.dataset
        volumes = {name: prediction, **self.constants}
        tallies = {key: Tally(info.classes, self.zones) for key in volumes}
        for key, volume in volumes.items():
            tallies[key].add(volume, truth)
        if self.places is not None:
            places_m = self.places.of(index)
            labels = np.where(truth.semantics == info.classes.ignored, np.uint8(info.classes.free), truth.semantics)
            expected = cast_rays(labels, places_m, info.classes, info.grid)
            for key, volume in volumes.items():
                tallies[key].rays.add(cast_rays(volume, places_m, info.classes, info.grid), expected)
        return tallies

    def report(self, tallies: Tallies, absent: AbsentRule | None) -> EvalReport:
        """Scores of everything that was counted; who predicted is to be filled in."""
        shards = self.dataset.shards
        rule = absent or benchmark_rule(shards.dataset.classes)
        return EvalReport(
            dataset=shards.dataset.name,
            split=shards.split,
            samples=len(shards.samples),
            frames=None,
            absent=rule,
            baseline_split=None if self.voted is None else self.voted.split,
            checkpoint=None,
            predictions=None,
            unknown_voxels=next(iter(tallies.values())).unknown,
            without_rays=self.without_rays,
            code_version=code_version(),
            rows=tuple(_row(name, tally, rule, has_rays=self.places is not None) for name, tally in tallies.items()),
        )


def _ray_places(dataset: ShardDataset, config: EvalConfig) -> tuple[RayPlaces, None] | tuple[None, str]:
    """Where rays start, or why there are none.

    Raises:
        DataError: a sample is damaged.
    """
    if not config.rays:
        return None, "it was not asked for."
    places = RayPlaces(dataset)
    lacking = places.missing
    if lacking is None:
        return places, None
    return None, (
        f"the metadata of sample {lacking} does not say where the LiDAR stands (ego_from_lidar), and rays start there. "
        "Shards packed before that was stored get it with `protoocc pack --overwrite`; logs without a LiDAR have none."
    )


def add_up(jobs: Iterable[Callable[[], Tallies]], workers: int, on_done: Callable[[int], None]) -> Tallies:
    """Runs jobs on threads and adds up what they count; the sums do not depend on the number of threads.

    Args:
        jobs: made one by one as threads get free, in this thread.
        workers: threads.
        on_done: called with the number of finished jobs.

    Raises:
        DataError: what a job raised.
    """
    sums: Tallies = {}
    waiting: deque[Future[Tallies]] = deque()
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > WAITING * workers:
                done = _take(waiting, sums, done, on_done)
        while waiting:
            done = _take(waiting, sums, done, on_done)
    return sums


def _take(waiting: deque[Future[Tallies]], sums: Tallies, done: int, on_done: Callable[[int], None]) -> int:
    """Adds the counts of the oldest job to ``sums``; returns how many jobs are finished."""
    for name, tally in waiting.popleft().result().items():
        if name in sums:
            sums[name] += tally
        else:
            sums[name] = tally
    on_done(done + 1)
    return done + 1


def _row(name: str, tally: Tally, absent: AbsentRule, *, has_rays: bool) -> EvalRow:
    masks = {mask: _mask_scores(tally, mask, absent) for mask in MASKS}
    return EvalRow(name=name, masks=masks, rays=RayFigures.of(tally.rays.scores()) if has_rays else None)


def _mask_scores(tally: Tally, mask: Mask, absent: AbsentRule) -> MaskScores:
    """Scores of the voxels of a mask; the means of rings and bands leave absent classes out, which many lack."""
    zones, whole = tally.zones, tally.confusion(mask)
    inside = "original" if absent == "zero" else absent
    ranges = {zone: tally.confusion(mask, within=number) for number, zone in enumerate(zones.ranges)}
    is_completion = benchmark_rule(tally.classes) == "zero"
    return MaskScores.of_parts(
        whole.scores(absent),
        Parts(
            distances={zone: tally.confusion(mask, ring=n).scores(inside) for n, zone in enumerate(zones.rings)},
            heights={zone: tally.confusion(mask, band=n).scores(inside) for n, zone in enumerate(zones.bands)},
            ranges={zone: confusion.scores(absent) for zone, confusion in ranges.items()},
            conventions={
                program: {zone: completion_scores(one, convention) for zone, one in (ranges or {"all": whole}).items()}
                for program, convention in (CONVENTIONS.items() if is_completion else ())
            },
        ),
    )
