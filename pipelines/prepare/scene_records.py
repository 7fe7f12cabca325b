"""Stage `records`: the driver leaves the drafts of each scene, a task per scene checks and links them, and all join.

Neither the driver nor a task holds more than one scene.
"""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from pipelines.files import sha256_of, write_blocks, write_bytes
from pipelines.prepare.image_sizes import check_image_sizes
from pipelines.prepare.map_windows import RASTERS, WINDOWS, Raster, cut_window, unpack_maps
from pipelines.prepare.pose_jumps import find_jumps
from pipelines.prepare.source import FileCheck, Hole, Keyframe, Source
from pipelines.stage import Layout, OnError, Origin, Stage, Unit, UnitReport
from schemas.datasets import DatasetSpec
from schemas.errors import DataError, disk_errors
from schemas.names import file_key
from schemas.records import (
    INDEX_FILE,
    RECORDS_FILE,
    LidarRecord,
    MapWindow,
    SampleRecord,
    index_lines,
    shift_index,
    uncollected,
)
from schemas.settings import Frozen
from schemas.workfolder import MANIFEST

_DRAFTS: Final = "drafts"
_SCENES: Final = "scenes"
_LAYOUT: Final = Layout(
    patterns=(RECORDS_FILE, INDEX_FILE, f"{WINDOWS}/*.png", f"{RASTERS}/*", f"{_DRAFTS}/*.json*", f"{_SCENES}/*"),
    joined=(RECORDS_FILE, INDEX_FILE, f"{WINDOWS}/*.png"),
)
FIELDS: Final = (
    *("format", "version", "cameras", "lidar", "point_columns", "classes.names", "classes.free"),
    *("categories", "projection", "splits"),
)
"""Fields of the dataset's entry that decide the records."""


class _Draft(Frozen):
    """A keyframe as the source gives it, before its files are checked."""

    token: str
    record: SampleRecord | None = None
    problem: str | None = None


def records_stage(dataset: DatasetSpec, folder: Path, source: Source, *, on_error: OnError, overwrite: bool) -> Stage:
    """The stage that writes ``folder``; where it has finished before, the source is asked for its fingerprint alone."""
    is_finished = (folder / MANIFEST).is_file() and not overwrite
    keyframes = [] if is_finished else source.keyframes()
    units = [Unit(file_key(scene), sum(1 for _ in members)) for scene, members in _by_scene(keyframes)]
    return Stage(
        name="records",
        folder=folder,
        config={},
        inputs=source.fingerprint(),
        units=units,
        work=partial(check_scene, source.file_check(), on_error),
        create=partial(write_drafts, dataset, source, keyframes),
        finish=partial(join_scenes, [unit.name for unit in units]),
        layout=_LAYOUT,
        origin=Origin(
            dataset,
            fields=FIELDS,
            read=tuple(source.raw_files()),
            command=shlex.join(["protoocc", "prepare", dataset.name]),
        ),
    )


def _by_scene(keyframes: Sequence[Keyframe]) -> Iterator[tuple[str, Iterator[Keyframe]]]:
    return groupby(keyframes, key=lambda keyframe: keyframe.scene)


def write_drafts(dataset: DatasetSpec, source: Source, keyframes: Sequence[Keyframe], folder: Path) -> None:
    """Reads all keyframes; writes a file of drafts per scene, in which problems wait, and the maps as rasters.

    Maps come first: what is wrong with the dataset as a whole then shows before anything is written.

    Raises:
        ConfigError: an image does not fit the entry's resize and crop.
        DataError: tables or a map's mask are broken.
    """
    rasters = unpack_maps(source, [scene for scene, _ in _by_scene(keyframes)], folder)
    with disk_errors(folder):
        (folder / "units").mkdir(parents=True, exist_ok=True)
    for scene, members in _by_scene(keyframes):
        _write_lines(
            folder / _DRAFTS / f"{file_key(scene)}.jsonl", (_draft(dataset, source, member) for member in members)
        )
        if scene in rasters:
            write_bytes(_raster_file(folder, file_key(scene)), rasters[scene].model_dump_json().encode())


def _draft(dataset: DatasetSpec, source: Source, keyframe: Keyframe) -> _Draft:
    try:
        record = source.read(keyframe)
    except DataError as error:
        return _Draft(token=keyframe.token, problem=str(error))
    check_image_sizes(dataset, record)
    return _Draft(token=keyframe.token, record=record)


def _raster_file(folder: Path, unit: str) -> Path:
    return folder / _DRAFTS / f"{unit}.map.json"


@uncollected()
def check_scene(check_files: FileCheck, on_error: OnError, folder: Path, unit: Unit) -> UnitReport:
    """Checks the files of one scene's keyframes; writes ``scenes/<unit>.jsonl``, its index and the map's window.

    Raises:
        DataError: a keyframe is bad and ``on_error`` is `fail`.
    """
    kept: list[SampleRecord] = []
    dropped: dict[str, str] = {}
    holes = Counter({"sweeps_missing": 0, "point_labels_missing": 0})
    with (folder / _DRAFTS / f"{unit.name}.jsonl").open("rb") as lines:
        drafts = [_Draft.model_validate_json(line) for line in lines]
    jumps = find_jumps([draft.record for draft in drafts if draft.record is not None])
    for draft in drafts:
        try:
            record, found = _checked(check_files, draft, jumps)
            problems = [hole for hole in found if not hole.expected]
            if problems and on_error == "fail":
                raise DataError(_explain(problems))
            kept.append(_without(record, found) if found else record)
            holes.update(f"{hole.kind}_missing" for hole in found)
        except DataError as error:
            if on_error == "fail":
                raise
            dropped[draft.token] = str(error)
    window, outside = _window(folder, unit.name, kept)
    linked = _complete(kept, window)
    path = folder / _SCENES / f"{unit.name}.jsonl"
    written = [record.model_dump_json().encode() + b"\n" for record in linked]
    write_blocks(path, written)
    write_blocks(_index_of(path), index_lines(zip(linked, written, strict=True)))
    return UnitReport(
        done=len(linked), dropped=dropped, counts=_counts(linked) | dict(holes) | {"outside_map": float(outside)}
    )


def _checked(check_files: FileCheck, draft: _Draft, jumps: Mapping[str, str]) -> tuple[SampleRecord, Sequence[Hole]]:
    if draft.record is None:
        raise DataError(draft.problem or f"sample {draft.token}: no record")
    if draft.token in jumps:
        raise DataError(jumps[draft.token])
    return draft.record, check_files(draft.record)


def _explain(holes: Sequence[Hole]) -> str:
    rest = f" ({len(holes) - 1} more of this sample)" if len(holes) > 1 else ""
    return f"{holes[0].problem} The keyframe itself is whole{rest}: --on-error drop leaves out this file alone."


def _without(record: SampleRecord, holes: Sequence[Hole]) -> SampleRecord:
    """The record without the sweeps and point labels that are not there."""
    sweeps = {hole.token for hole in holes if hole.kind == "sweeps"}
    labels = {hole.token for hole in holes if hole.kind == "point_labels"}

    def kept(lidar: LidarRecord) -> LidarRecord:
        return lidar.model_copy(update={"labels_path": None}) if lidar.token in labels else lidar

    return record.model_copy(
        update={
            "lidar": None if record.lidar is None else kept(record.lidar),
            "sweeps": tuple(kept(sweep) for sweep in record.sweeps if sweep.token not in sweeps),
        }
    )


def _window(folder: Path, unit: str, records: Sequence[SampleRecord]) -> tuple[MapWindow | None, int]:
    """Window of a scene, and how many of its keyframes lie beside the map."""
    path = _raster_file(folder, unit)
    if not records or not path.is_file():
        return None, 0
    raster = Raster.model_validate_json(path.read_bytes())
    return cut_window(raster, records, folder), sum(not raster.covers(record) for record in records)


def _complete(records: Sequence[SampleRecord], window: MapWindow | None) -> list[SampleRecord]:
    """Fills in the window and, as `previous` and `next`, the neighbours that were kept."""
    tokens: list[str | None] = [None, *(record.token for record in records), None]
    return [
        record.model_copy(update={"previous": tokens[index], "next": tokens[index + 2], "map_window": window})
        for index, record in enumerate(records)
    ]


def _counts(records: Sequence[SampleRecord]) -> dict[str, float]:
    counts = {
        "boxes": sum(len(record.boxes) for record in records),
        "sweeps": sum(len(record.sweeps) for record in records),
        "point_labels": sum(record.lidar is not None and record.lidar.labels_path is not None for record in records),
        "without_lidar": sum(record.lidar is None for record in records),
        "without_map": sum(record.map_window is None for record in records),
        "without_boxes": sum(not record.boxes for record in records),
        "outside_splits": sum(not record.splits for record in records),
    }
    for record in records:
        for split in record.splits:
            counts[f"split_{split}"] = counts.get(f"split_{split}", 0) + 1
    return {name: float(count) for name, count in counts.items()}


def join_scenes(scenes: Sequence[str], folder: Path) -> dict[str, str]:
    """Joins the scenes in order of name to `samples.jsonl`; a rerun after a kill finds either of both.

    Returns:
        The SHA-256 of `samples.jsonl`, its index and the map windows, for the manifest.
    """
    path, index = folder / RECORDS_FILE, folder / INDEX_FILE
    if not index.is_file():
        files = [folder / _SCENES / f"{scene}.jsonl" for scene in scenes]
        write_blocks(path, (file.read_bytes() for file in files))
        write_blocks(index, _joined_index(files))
    for leftover in (_SCENES, _DRAFTS, RASTERS):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    return {"sha256": sha256_of([path, index, *sorted((folder / WINDOWS).glob("*.png"))])}


def _joined_index(files: Sequence[Path]) -> Iterator[bytes]:
    offset = 0
    for file in files:
        yield from shift_index(_index_of(file).read_bytes().splitlines(), offset)
        offset += file.stat().st_size


def _index_of(path: Path) -> Path:
    return path.with_suffix(".index")


def _write_lines(path: Path, models: Iterable[BaseModel]) -> None:
    write_blocks(path, (model.model_dump_json().encode() + b"\n" for model in models))
