"""The run: keyframes in parallel, tables last, one rename at the end; a killed run continues where it stopped."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.files import remove_partials, write_json
from pipelines.scheduler import start_resource_tracker
from pipelines.synth.config import SynthConfig, SynthSummary
from pipelines.synth.keyframe import make_keyframe
from pipelines.synth.rig import build_rig
from pipelines.synth.tables import VERSION, KeyframeReport, Row, fixed_tables, scene_tables
from schemas.classes import OCC3D
from schemas.errors import DataError, StageError, disk_errors
from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import JSON_BYTES
from schemas.shared_memory import check_shared_memory

logger = logging.getLogger(__name__)

MANIFEST = "synth.json"
_REPORTS = "reports"


def generate_world(out: Path, config: SynthConfig, *, on_keyframe: Callable[[], None] | None = None) -> SynthSummary:
    """Writes a generated driving world in nuScenes format with its exact truth.

    Below ``out``: the tables (`v1.0-synth/`), `samples/`, `sweeps/`, `maps/`, `lidarseg/`, exact occupancy in Occ3D
    format (`gts/<scene>/<sample token>/labels.npz`) and exact pixels (`truth/<scene>/<sample token>/<camera>.png`,
    16 bit: Occ3D class * 2048 + number of the thing; `truth/<scene>/things.json` names the things; with
    ``config.depth`` also `<camera>-depth.png`, see `schemas.pixels`). Work goes on in ``out``.partial until all is
    there. The same configuration gives the same bytes, whatever the number of workers.

    Args:
        out: folder to make; it may exist if it is empty or holds this very world.
        config: what to generate.
        on_keyframe: called after each keyframe, for a progress bar.

    Raises:
        DataError: ``out`` holds something else, or cannot be written.
        StageError: a worker process died.
        SetupError: shared memory is too small for the worker processes.
    """
    started = time.monotonic()
    manifest = _finished(out, config)
    if manifest is not None:
        return _summary(out, manifest, started, is_skipped=True)
    partial = out.absolute().with_name(out.absolute().name + ".partial")
    _prepare_partial(partial, config)
    _run(partial, config, on_keyframe)
    manifest = _write_tables(partial, config)
    with disk_errors(out):
        shutil.rmtree(partial / _REPORTS)
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    summary = _summary(out, manifest, started, is_skipped=False)
    logger.info("synth: %d keyframes in %.1f s", summary.keyframes, summary.seconds)
    return summary


def _bytes_config(config: SynthConfig) -> dict[str, Any]:
    """What decides the bytes; without depth as before there was any, so that older worlds stay the same."""
    return config.model_dump(mode="json", exclude={"workers"} if config.depth else {"workers", "depth"})


def _finished(out: Path, config: SynthConfig) -> dict[str, Any] | None:
    """Manifest of a finished world of this configuration, or none where there is room for it."""
    path = out / MANIFEST
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out} exists and is not a generated world. Choose another folder or empty this one.")
        return None
    source = Source(str(path), f"Remove {out} and run again.")
    manifest = parse_json(source, read_bytes(source, path, JSON_BYTES))
    old = manifest.get("config")
    if not isinstance(old, dict):
        raise source.damaged("it names no `config`")
    new = _bytes_config(config)
    changed = [
        f"{key} is {old.get(key)}, asked for {new.get(key)}"
        for key in sorted(new | old)
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise DataError(f"{out} holds another world: {'; '.join(changed)}. Choose another folder or remove this one.")
    return manifest


def _prepare_partial(partial: Path, config: SynthConfig) -> None:
    """Keeps what a killed run of the same configuration left, and clears away anything else."""
    marker = partial / _REPORTS / "config.json"
    with disk_errors(partial):
        if partial.exists():
            if _holds(marker, config):
                remove_partials(partial)
                return
            if any(partial.iterdir()) and not (partial / _REPORTS).is_dir():
                raise DataError(f"{partial} is in the way and no unfinished world. Move it or choose another folder.")
            shutil.rmtree(partial)
    write_json(marker, _bytes_config(config))


def _holds(marker: Path, config: SynthConfig) -> bool:
    """Whether an unfinished world is of this configuration."""
    source = Source(str(marker))
    try:
        return parse_json(source, read_bytes(source, marker, JSON_BYTES)) == _bytes_config(config)
    except DataError:
        return False


def _report_path(partial: Path, scene: int, keyframe: int) -> Path:
    return partial / _REPORTS / f"{scene:04d}-{keyframe:05d}.json"


def _run(partial: Path, config: SynthConfig, on_keyframe: Callable[[], None] | None) -> None:
    open_keyframes = []
    for scene in range(config.scenes):
        for keyframe in range(config.keyframes):
            if not _report_path(partial, scene, keyframe).is_file():
                open_keyframes.append((scene, keyframe))
            elif on_keyframe is not None:
                on_keyframe()
    if min(config.workers, len(open_keyframes)) <= 1:
        for unit in open_keyframes:
            _make_keyframes(partial, config, [unit])
            if on_keyframe is not None:
                on_keyframe()
        return
    check_shared_memory(config.workers, "make it in this process alone: --workers 1")
    start_resource_tracker()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(config.workers, len(open_keyframes)), mp_context=context) as pool:
        _run_pool(pool, partial, config, open_keyframes, on_keyframe)


def _run_pool(
    pool: Executor,
    partial: Path,
    config: SynthConfig,
    open_keyframes: list[tuple[int, int]],
    on_keyframe: Callable[[], None] | None,
) -> None:
    parts = _parts(open_keyframes, config.workers)
    futures = [pool.submit(_make_keyframes, partial, config, part) for part in parts]
    try:
        for future in as_completed(futures):
            for _ in range(future.result()):
                if on_keyframe is not None:
                    on_keyframe()
    except BrokenProcessPool as error:
        raise StageError(
            "a worker process died, most likely for lack of memory. "
            "Run again with fewer workers; finished keyframes stay."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _parts(open_keyframes: list[tuple[int, int]], workers: int) -> list[list[tuple[int, int]]]:
    """What one process does in one go: a whole scene, which it then builds once; the last scenes keep all of them busy.

    Args:
        open_keyframes: (scene, keyframe), in order.
        workers: number of processes.
    """
    scenes = [list(group) for _, group in groupby(open_keyframes, key=itemgetter(0))]
    whole, last = scenes[:-workers], scenes[-workers:]
    return whole + [[keyframe] for scene in last for keyframe in scene]


def _make_keyframes(partial: Path, config: SynthConfig, keyframes: list[tuple[int, int]]) -> int:
    """Makes keyframes (scene, keyframe) one after the other; says how many they were."""
    for scene, keyframe in keyframes:
        make_keyframe(partial, _report_path(partial, scene, keyframe), config, scene, keyframe)
    return len(keyframes)


def _write_tables(partial: Path, config: SynthConfig) -> dict[str, Any]:
    tables: dict[str, list[Row]] = fixed_tables(config.seed)
    voxels = dict.fromkeys(OCC3D.occupied, 0)
    for scene in range(config.scenes):
        paths = [_report_path(partial, scene, keyframe) for keyframe in range(config.keyframes)]
        reports = [KeyframeReport.model_validate_json(path.read_text()) for path in paths]
        rig = build_rig(config.image_size, np.random.default_rng([config.seed, scene]))
        for name, rows in scene_tables(config.seed, rig, reports, config.image_size).items():
            tables.setdefault(name, []).extend(rows)
        for report in reports:
            for name, count in zip(voxels, report.voxels, strict=True):
                voxels[name] += count
    for name, rows in tables.items():
        write_json(partial / VERSION / f"{name}.json", rows)
    files = sorted(path for path in partial.rglob("*") if path.is_file() and path.parent.name != _REPORTS)
    manifest = {
        "config": _bytes_config(config),
        "version": VERSION,
        "voxels": {name: count for name, count in voxels.items() if count},
        "num_bytes": sum(path.stat().st_size for path in files),
    }
    write_json(partial / MANIFEST, manifest)
    return manifest


def _summary(out: Path, manifest: dict[str, Any], started: float, *, is_skipped: bool) -> SynthSummary:
    config = manifest["config"]
    return SynthSummary(
        root=out,
        version=manifest["version"],
        scenes=config["scenes"],
        keyframes=config["scenes"] * config["keyframes"],
        voxels=manifest["voxels"],
        seconds=time.monotonic() - started,
        num_bytes=manifest["num_bytes"],
        is_skipped=is_skipped,
    )
