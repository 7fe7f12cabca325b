"""Stores of stages: chunks, the files that describe arrays, checksums, plans, markers and manifests."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.manifests import read_manifest, read_marker, read_plan
from pipelines.scheduler import Scheduler
from pipelines.stage import Runtime, Stage, run_stage
from pipelines.units import Unit, UnitReport
from pipelines.zarr_io import StoreRows, create_store, store_layout, write_record
from schemas.errors import DataError
from schemas.records import RecordEntry
from schemas.workfolder import CHECKSUMS
from tests.mutations import mutate
from tests.mutations.targets import Target, digest

SHAPE = (8, 8, 4)
STORE = "work/occupancy.zarr"
ARRAY = "semantics/zarr.json"
UNIT = Unit("s", 2, tuple(RecordEntry(row, f"t{row}", "s", row, ("train",), 0, 1) for row in range(2)))


def make_stores(folder: Path) -> list[Target]:
    """A finished store of two samples in one unit."""
    stage = Stage(
        name="occupancy",
        folder=folder / STORE,
        config={"source": {"kind": "occ3d"}},
        inputs={},
        units=[UNIT],
        work=_write,
        create=partial(create_store, kind="occupancy", sizes=dict(zip("NXYZ", (2, *SHAPE), strict=True))),
        layout=store_layout("occupancy"),
    )
    run_stage(stage, Runtime(scheduler=Scheduler(kind="sync")))
    bytes_, as_json = (mutate.damage_bytes,), (mutate.damage_json, mutate.damage_json, mutate.damage_bytes)
    return [
        Target("chunk", f"{STORE}/semantics/c/1/0/0/0", _read_rows, bytes_),
        Target("array", f"{STORE}/mask_camera/zarr.json", _read_rows, as_json),
        Target("array, checksum told", f"{STORE}/{ARRAY}", _read_rows, as_json, _install_array),
        Target("store checksums", f"{STORE}/{CHECKSUMS}", _read_rows, bytes_),
        Target("stage manifest", f"{STORE}/manifest.json", _read_rows, as_json),
        Target("plan", f"{STORE}/plan.json", lambda place: read_plan(place / STORE).model_dump_json(), as_json),
        Target("marker", f"{STORE}/units/s.json", _read_marker, as_json),
    ]


def _write(folder: Path, unit: Unit) -> UnitReport:
    for entry in unit.entries:
        volume = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE) % (17 + entry.row)
        write_record(folder, entry.row, {"semantics": volume, "mask_lidar": volume % 2, "mask_camera": volume % 3 // 2})
    return UnitReport(done=unit.size)


def _read_rows(place: Path) -> str:
    rows = StoreRows(place / STORE, "occupancy")
    arrays = [rows.read(entry.row, entry.token) for entry in UNIT.entries]
    return digest(*(values for row in arrays for _, values in sorted(row.items())))


def _read_marker(place: Path) -> str:
    marker = read_marker(place / STORE, "s")
    if marker is None:
        raise DataError("the unit is made again")
    return marker.model_dump_json()


def _install_array(place: Path, data: bytes) -> None:
    """The damaged file and a manifest that holds its hash: what an attacker would write."""
    store = place / STORE
    (store / ARRAY).write_bytes(data)
    manifest = read_manifest(store).model_dump(mode="json")
    manifest["files"][ARRAY] = hashlib.sha256(data).hexdigest()
    (store / "manifest.json").write_text(json.dumps(manifest))
