"""How good finished pseudo masks are: numbers and sizes of segments, and how they fit exact ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from jaxtyping import Integer, UInt16
from pydantic import Field

from pipelines.images import take_and_crop
from pipelines.lineage import check_origin
from pipelines.mask_quality import Fit, fit_of
from pipelines.pixel_truth import has_truth, read_things
from pipelines.scheduler import Scheduler, run_tasks
from pipelines.stage import Origin, Unit, read_manifest, units_of
from pipelines.zarr_io import StoreRows
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.records import RecordEntry, read_index, read_records
from schemas.settings import Frozen
from schemas.workfolder import WorkFolder

KEYFRAMES: Final = 200
"""Read at most, spread evenly over the dataset."""
_AT_ONCE: Final = 4
_QUANTILES: Final = (0.05, 0.5, 0.95)


class MaskFigures(Frozen):
    """What the masks of one generator are like. Sizes are pixels of the network's image."""

    generator: str = Field(description="`seeds`, `sam`, ...")
    settings: dict[str, Any] = Field(description="Of the generator.")
    keyframes: int = Field(description="Read ones.")
    images: int = Field(description="Of these keyframes.")
    segments: float = Field(description="Mean number of segments of an image, within the crop.")
    fewest: int = Field(description="Segments of the image with the fewest.")
    most: int = Field(description="Segments of the image with the most.")
    uncovered: float | None = Field(
        description="Share of all pixels of all images that no mask covered, 0..1; null in stores that do not count it."
    )
    single: int = Field(description="Images of one segment, such as dark ones.")
    size_5: float = Field(description="A twentieth of all segments is smaller.")
    size_50: float = Field(description="Half of all segments are smaller.")
    size_95: float = Field(description="A twentieth of all segments is larger.")
    largest: float = Field(description="Mean share of an image that its largest segment takes, 0..1.")
    fit: dict[str, float] | None = Field(
        description="Means over images of `pipelines.mask_quality.Fit`; null without exact segments."
    )


@dataclass(frozen=True)
class _Image:
    """One image."""

    sizes: np.ndarray
    fit: Fit | None


def measure_masks(
    dataset: DatasetSpec,
    generator: str,
    *,
    scheduler: Scheduler,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> MaskFigures:
    """Reads some finished masks; the same masks give the same figures with any number of workers.

    Args:
        dataset: the entry of `datasets.yaml`.
        generator: whose masks.
        scheduler: where to run.
        on_progress: called with finished and total keyframes.

    Raises:
        DataError: the store is not finished, holds nothing or is damaged, or a file of exact classes is.
        ConfigError: store, records and the dataset's entry do not belong together.
    """
    work = WorkFolder(dataset.work)
    store = work.masks(generator)
    check_origin(Origin(dataset, stores={"records": work.records, "masks": store}))
    units = units_of(chosen_keyframes(work, generator), _AT_ONCE)
    total, done = sum(unit.size for unit in units), 0
    parts: dict[int, list[_Image]] = {}
    for unit, outcome in run_tasks(partial(_read_unit, dataset, generator), units, scheduler):
        if isinstance(outcome, Exception):
            raise outcome
        parts[unit.entries[0].row] = outcome
        done += unit.size
        on_progress(done, total)
    images = [image for row in sorted(parts) for image in parts[row]]
    figures = _figures(images)
    manifest = read_manifest(store)
    counts = manifest.counts
    return MaskFigures(
        generator=generator,
        settings=manifest.config.get("settings", {}),
        keyframes=total,
        uncovered=counts["uncovered"] / counts["images"] if "uncovered" in counts else None,
        **figures,
    )


def chosen_keyframes(work: WorkFolder, generator: str, most: int = KEYFRAMES) -> list[RecordEntry]:
    """Keyframes that have masks, at most so many, evenly spread over the dataset.

    Raises:
        DataError: `prepare` or the masks are not finished, or no keyframe has masks.
    """
    dropped = read_manifest(work.masks(generator)).dropped
    entries = [entry for entry in read_index(work.records) if entry.splits and entry.token not in dropped]
    if not entries:
        raise DataError(f"{work.masks(generator)} holds masks of no keyframe; check `splits` in datasets.yaml")
    count = min(most, len(entries))
    return [entries[(2 * number + 1) * len(entries) // (2 * count)] for number in range(count)]


def _read_unit(dataset: DatasetSpec, generator: str, unit: Unit) -> list[_Image]:
    work = WorkFolder(dataset.work)
    store = StoreRows(work.masks(generator), "masks")
    images = []
    for entry, record in zip(unit.entries, read_records(work.records, unit.entries), strict=True):
        segments: UInt16[np.ndarray, "V H W"] = store.read(entry.row, entry.token)["segment_id"]
        knows = has_truth(dataset, record)
        for channel, labels in zip(dataset.cameras, segments, strict=True):
            exact = take_and_crop(read_things(dataset, record, channel), dataset.image_of(channel)) if knows else None
            images.append(_read_image(labels, exact))
    return images


def _read_image(segments: UInt16[np.ndarray, "H W"], exact: Integer[np.ndarray, "H W"] | None) -> _Image:
    sizes = np.bincount(segments.ravel())
    return _Image(sizes[sizes > 0], None if exact is None else fit_of(segments, exact))


def _figures(images: Sequence[_Image]) -> dict[str, Any]:
    """What is measured on single images, by field."""
    counts = [len(image.sizes) for image in images]
    small, median, large = np.quantile(np.concatenate([image.sizes for image in images]), _QUANTILES).tolist()
    fits = [astuple(image.fit) for image in images if image.fit is not None]
    return {
        "images": len(images),
        "segments": float(np.mean(counts)),
        "fewest": min(counts),
        "most": max(counts),
        "single": counts.count(1),
        "size_5": small,
        "size_50": median,
        "size_95": large,
        "largest": float(np.mean([image.sizes.max() / image.sizes.sum() for image in images])),
        "fit": dict(zip(Fit.__annotations__, np.mean(fits, axis=0).tolist(), strict=True)) if fits else None,
    }
