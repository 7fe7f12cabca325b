"""The run: keyframes in parallel, tables last, one rename at the end; a killed run continues where it stopped.

Formats differ in what a keyframe writes and in what is written after all of them; the rest is the same.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial as bound
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cluster import Site
from pipelines.files import remove_partials, write_json
from pipelines.scheduler import available_cores, run_tasks
from pipelines.stage import Runtime
from pipelines.synth import keyframe as nuscenes
from pipelines.synth import kitti
from pipelines.synth.config import KittiConfig, SynthConfig, SynthSummary
from pipelines.synth.rig import build_rig
from pipelines.synth.tables import VERSION, KeyframeReport, Row, fixed_tables, scene_tables
from schemas.classes import OCC3D, SEMANTICKITTI
from schemas.errors import DataError, StageError, disk_errors
from schemas.lock import folder_lock
from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import JSON_BYTES

logger = logging.getLogger(__name__)

MANIFEST = "synth.json"
_REPORTS = "reports"
Config = SynthConfig | KittiConfig


@dataclass(frozen=True)
class _Part:
    """Keyframes of one scene that one task makes."""

    scene: int
    keyframes: tuple[int, ...]

    @property
    def name(self) -> str:
        """For messages: `0003-00007` is the scene and the first keyframe."""
        return f"{self.scene:04d}-{self.keyframes[0]:05d}"


def generate_world(out: Path, config: Config, runtime: Runtime | None = None) -> SynthSummary:
    """Writes a generated driving world in nuScenes or SemanticKITTI format with its exact truth.

    nuScenes, below ``out``: the tables (`v1.0-synth/`), `samples/`, `sweeps/`, `maps/`, `lidarseg/`, exact occupancy
    in Occ3D format (`gts/<scene>/<sample token>/labels.npz`) and exact pixels
    (`truth/<scene>/<sample token>/<camera>.png`, 16 bit: Occ3D class * 2048 + number of the thing;
    `truth/<scene>/things.json` names the things; with ``config.depth`` also `<camera>-depth.png`, see
    `schemas.pixels`).

    SemanticKITTI: `dataset/sequences/NN/` with `calib.txt`, `poses.txt`, `times.txt`, all scans in `velodyne/` and
    `labels/`, every fifth one in `image_2/` and `voxels/`; exact pixels as above (`truth/NN/NN-FFFFFF/`, classes of
    `SEMANTICKITTI`, unknown ones 31).

    Work goes on in ``out``.partial until all is there. The same configuration gives the same bytes, whatever the
    number of workers.

    Args:
        out: folder to make; it may exist if it is empty or holds this very world.
        config: what to generate.
        runtime: where to run (local processes by default) and whom to tell of keyframes; the rest of it is for stages.

    Raises:
        ConfigError: another process writes ``out``.
        DataError: ``out`` holds something else, or cannot be written.
        StageError: a worker process died again and again.
        SetupError: shared memory is too small for the worker processes.
    """
    started = time.monotonic()
    manifest = _finished(out, config)
    if manifest is not None:
        return _summary(out, manifest, started, is_skipped=True)
    with folder_lock(out):
        partial = out.absolute().with_name(out.absolute().name + ".partial")
        manifest = _complete(partial, config)
        if manifest is None:
            _prepare_partial(partial, config)
            _run(partial, out, config, runtime or Runtime())
            manifest = _finish(partial, config)
        _exchange(partial, out)
    summary = _summary(out, manifest, started, is_skipped=False)
    logger.info("synth: %d keyframes in %.1f s", summary.keyframes, summary.seconds)
    return summary


def _bytes_config(config: Config) -> dict[str, Any]:
    """What decides the bytes; without depth as before there was any, so that older worlds stay the same."""
    return config.model_dump(mode="json", exclude=set() if config.depth else {"depth"})


def _complete(partial: Path, config: Config) -> dict[str, Any] | None:
    """Manifest of a world that only a rename is missing: a run was killed in its last moments."""
    return json.loads((partial / MANIFEST).read_text()) if _holds(partial / MANIFEST, config, "config") else None


def _exchange(partial: Path, out: Path) -> None:
    with disk_errors(out):
        shutil.rmtree(partial / _REPORTS, ignore_errors=True)
        if out.is_dir():
            out.rmdir()
        partial.rename(out)


def _finished(out: Path, config: Config) -> dict[str, Any] | None:
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


def _prepare_partial(partial: Path, config: Config) -> None:
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


def _holds(marker: Path, config: Config, key: str | None = None) -> bool:
    """Whether an unfinished world is of this configuration, which its file holds, below ``key`` if there is one."""
    source = Source(str(marker))
    try:
        values = parse_json(source, read_bytes(source, marker, JSON_BYTES))
        return (values if key is None else values.get(key)) == _bytes_config(config)
    except DataError:
        return False


def _report_path(partial: Path, scene: int, keyframe: int) -> Path:
    return partial / _REPORTS / f"{scene:04d}-{keyframe:05d}.json"


def _run(partial: Path, out: Path, config: Config, runtime: Runtime) -> None:
    total = config.scenes * config.keyframes
    open_keyframes = [
        (scene, keyframe)
        for scene in range(config.scenes)
        for keyframe in range(config.keyframes)
        if not _report_path(partial, scene, keyframe).is_file()
    ]
    done = total - len(open_keyframes)
    runtime.on_progress(done, total)
    parts = _parts(open_keyframes, runtime.scheduler.workers or available_cores())
    work = bound(_make_part, partial, config)
    site = bound(Site.here, out, None)
    with closing(run_tasks(work, parts, runtime.scheduler, site, runtime.on_note)) as outcomes:
        for _, outcome in outcomes:
            if isinstance(outcome, StageError):
                raise StageError(f"synth, {outcome}") from outcome
            if isinstance(outcome, Exception):
                raise outcome
            done += outcome
            runtime.on_progress(done, total)


def _parts(open_keyframes: list[tuple[int, int]], workers: int) -> list[_Part]:
    """What one process does in one go: a whole scene, which it then builds once; the last scenes keep all of them busy.

    Args:
        open_keyframes: (scene, keyframe), in order.
        workers: number of processes.
    """
    scenes = [
        _Part(scene, tuple(number for _, number in group)) for scene, group in groupby(open_keyframes, itemgetter(0))
    ]
    whole, last = scenes[:-workers], scenes[-workers:]
    return whole + [_Part(part.scene, (keyframe,)) for part in last for keyframe in part.keyframes]


def _make_part(partial: Path, config: Config, part: _Part) -> int:
    """Makes keyframes one after the other; says how many they were."""
    for keyframe in part.keyframes:
        report = _report_path(partial, part.scene, keyframe)
        if isinstance(config, KittiConfig):
            kitti.make_keyframe(partial, report, config, part.scene, keyframe)
        else:
            nuscenes.make_keyframe(partial, report, config, part.scene, keyframe)
    return len(part.keyframes)


def _finish(partial: Path, config: Config) -> dict[str, Any]:
    """Writes what belongs to whole scenes and the manifest."""
    if isinstance(config, KittiConfig):
        kitti.write_sequences(partial, config)
        version, voxels = kitti.VERSION, _count_kitti(partial, config)
    else:
        version, voxels = VERSION, _write_tables(partial, config)
    files = sorted(path for path in partial.rglob("*") if path.is_file() and path.parent.name != _REPORTS)
    manifest = {
        "config": _bytes_config(config),
        "version": version,
        "voxels": {name: count for name, count in voxels.items() if count},
        "num_bytes": sum(path.stat().st_size for path in files),
    }
    write_json(partial / MANIFEST, manifest)
    return manifest


def _count_kitti(partial: Path, config: KittiConfig) -> dict[str, int]:
    voxels = dict.fromkeys(SEMANTICKITTI.occupied, 0)
    for scene in range(config.scenes):
        for keyframe in range(config.keyframes):
            report = json.loads(_report_path(partial, scene, keyframe).read_text())
            for name in voxels:
                voxels[name] += report["voxels"][name]
    return voxels


def _write_tables(partial: Path, config: SynthConfig) -> dict[str, int]:
    """Writes the tables; returns the occupied voxels of each class."""
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
    return voxels


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
