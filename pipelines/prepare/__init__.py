"""Stages `records` and `geometry`: a raw nuScenes-format dataset becomes portable records and camera matrices."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

from pydantic import BaseModel

from pipelines.files import names_fingerprint, sha256_of, write_bytes
from pipelines.prepare.geometry import geometry_stage
from pipelines.prepare.keyframes import Keyframe, plan_keyframes
from pipelines.prepare.pose_jumps import find_jumps
from pipelines.prepare.raw_tables import load_devkit, table_folder, tables_fingerprint
from pipelines.prepare.sample_rows import LIDAR, SampleReader
from pipelines.prepare.sensor_files import check_files
from pipelines.stage import Layout, OnError, Origin, Runtime, Stage, StageSummary, Unit, UnitReport, run_stage
from schemas.datasets import DatasetSpec
from schemas.errors import DataError, disk_errors
from schemas.records import INDEX_FILE, RECORDS_FILE, SampleRecord, index_lines
from schemas.settings import Frozen

logger = logging.getLogger(__name__)

__all__ = ["prepare"]

DRAFTS = "drafts"
SCENES = "scenes"
RECORD_FIELDS = ("format", "version", "cameras", "lidar", "classes.names", "classes.free", "categories", "splits")
"""Fields of the dataset's entry that decide the records."""


class _Draft(Frozen):
    """A keyframe as the tables give it, before its files are checked."""

    token: str
    record: SampleRecord | None = None
    problem: str | None = None


def prepare(dataset: DatasetSpec, out: Path, runtime: Runtime) -> StageSummary:
    """Writes ``out/records`` and ``out/geometry.zarr``.

    The driver reads the tables once through nuscenes-devkit and leaves a draft per scene; the tasks (one per scene)
    check the sensor files and keep the good keyframes. Scenes that no split names are left out; keyframes that `every`
    or `limit` exclude are kept as neighbours in time, with empty `splits`.

    Args:
        dataset: the entry of `datasets.yaml`.
        out: work folder of the dataset.
        runtime: where to run and what to do with bad samples.

    Returns:
        Summary of the records, with the geometry's seconds and bytes added.

    Raises:
        ConfigError: a split names a scene that is not there, or the folder was made with another configuration.
        DataError: the root, the version or a table is missing or broken.
        StageError: keyframes are bad (names file, sample and remedy of each), or all were dropped.
    """
    folder = table_folder(dataset)
    keyframes = plan_keyframes(dataset, folder)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    records = run_stage(_records_stage(dataset, out, keyframes, runtime.on_error), runtime)
    quiet = replace(runtime, on_progress=lambda done, total: None)
    geometry = run_stage(geometry_stage(dataset, out), quiet)
    return replace(
        records,
        seconds=records.seconds + geometry.seconds,
        num_bytes=records.num_bytes + geometry.num_bytes,
        skipped=records.skipped and geometry.skipped,
    )


def _records_stage(dataset: DatasetSpec, out: Path, keyframes: Sequence[Keyframe], on_error: OnError) -> Stage:
    scenes = groupby(keyframes, key=lambda keyframe: keyframe.scene)
    units = [Unit(scene, sum(1 for _ in members)) for scene, members in scenes]
    folder = table_folder(dataset)
    return Stage(
        name="records",
        folder=out / "records",
        config={},
        inputs={"tables": tables_fingerprint(folder), "sweeps": names_fingerprint(dataset.root / "sweeps" / LIDAR)},
        units=units,
        work=partial(check_scene, dataset, on_error),
        create=partial(write_drafts, dataset, keyframes),
        finish=partial(join_scenes, [unit.name for unit in units]),
        layout=Layout(
            patterns=(RECORDS_FILE, INDEX_FILE, f"{DRAFTS}/*.jsonl", f"{SCENES}/*.jsonl"),
            joined=(RECORDS_FILE, INDEX_FILE),
        ),
        origin=Origin(
            dataset,
            fields=RECORD_FIELDS,
            read=tuple(sorted(folder.glob("*.json"))),
            command=f"protoocc prepare {dataset.name}",
        ),
    )


def write_drafts(dataset: DatasetSpec, keyframes: Sequence[Keyframe], folder: Path) -> None:
    """Reads all keyframes from the tables and writes ``drafts/<scene>.jsonl``; problems wait in the draft."""
    reader = SampleReader(load_devkit(dataset), dataset)
    if not reader.has_sweeps:
        logger.warning("%s has no sweeps/LIDAR_TOP: records get no sweeps between keyframes", dataset.root)
    with disk_errors(folder):
        (folder / "units").mkdir(parents=True, exist_ok=True)
    for scene, members in groupby(keyframes, key=lambda keyframe: keyframe.scene):
        _write_lines(folder / DRAFTS / f"{scene}.jsonl", (_draft(reader, keyframe) for keyframe in members))


def _draft(reader: SampleReader, keyframe: Keyframe) -> _Draft:
    try:
        return _Draft(token=keyframe.token, record=reader.read(keyframe))
    except DataError as error:
        return _Draft(token=keyframe.token, problem=str(error))


def check_scene(dataset: DatasetSpec, on_error: OnError, folder: Path, unit: Unit) -> UnitReport:
    """Checks the files of one scene's keyframes and writes ``scenes/<scene>.jsonl`` with the good ones.

    Raises:
        DataError: a keyframe is bad and ``on_error`` is `fail`.
    """
    kept: list[SampleRecord] = []
    dropped: dict[str, str] = {}
    lines = (folder / DRAFTS / f"{unit.name}.jsonl").read_text().splitlines()
    drafts = [_Draft.model_validate_json(line) for line in lines]
    jumps = find_jumps([draft.record for draft in drafts if draft.record is not None])
    for draft in drafts:
        try:
            kept.append(_checked(dataset.root, draft, jumps))
        except DataError as error:
            if on_error == "fail":
                raise
            dropped[draft.token] = str(error)
    linked = _link(kept)
    _write_lines(folder / SCENES / f"{unit.name}.jsonl", linked)
    return UnitReport(done=len(linked), dropped=dropped, counts=_counts(linked))


def _checked(root: Path, draft: _Draft, jumps: Mapping[str, str]) -> SampleRecord:
    if draft.record is None:
        raise DataError(draft.problem or f"sample {draft.token}: no record")
    if draft.token in jumps:
        raise DataError(jumps[draft.token])
    check_files(root, draft.record)
    return draft.record


def _link(records: Sequence[SampleRecord]) -> list[SampleRecord]:
    """Fills `previous` and `next` with the neighbours that were kept."""
    tokens: list[str | None] = [None, *(record.token for record in records), None]
    return [
        record.model_copy(update={"previous": tokens[index], "next": tokens[index + 2]})
        for index, record in enumerate(records)
    ]


def _counts(records: Sequence[SampleRecord]) -> dict[str, float]:
    counts = {
        "boxes": sum(len(record.boxes) for record in records),
        "sweeps": sum(len(record.sweeps) for record in records),
        "point_labels": sum(record.lidar.labels_path is not None for record in records),
        "outside_splits": sum(not record.splits for record in records),
    }
    for record in records:
        for split in record.splits:
            counts[f"split_{split}"] = counts.get(f"split_{split}", 0) + 1
    return {name: float(count) for name, count in counts.items()}


def join_scenes(scenes: Sequence[str], folder: Path) -> dict[str, str]:
    """Joins the scenes in order of name to `samples.jsonl`; a rerun after a kill finds either of both.

    Returns:
        The SHA-256 of `samples.jsonl`, for the manifest.
    """
    path, index = folder / RECORDS_FILE, folder / INDEX_FILE
    if not index.is_file():
        lines = [
            line for scene in scenes for line in (folder / SCENES / f"{scene}.jsonl").read_bytes().splitlines(True)
        ]
        write_bytes(path, b"".join(lines))
        write_bytes(index, b"".join(index_lines((SampleRecord.model_validate_json(line), line) for line in lines)))
    for leftover in (folder / SCENES, folder / DRAFTS):
        shutil.rmtree(leftover, ignore_errors=True)
    return {"sha256": sha256_of([path, index])}


def _write_lines(path: Path, models: Iterable[BaseModel]) -> None:
    write_bytes(path, "".join(model.model_dump_json() + "\n" for model in models).encode())
