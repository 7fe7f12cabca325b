"""What is done, half done, outdated or missing in the work folder of a dataset, and the command that comes next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from schemas.errors import DataError
from schemas.store import FORMAT_VERSION

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["done", "partial", "outdated", "missing"]

STYLES: Final = {"done": "green", "partial": "yellow", "outdated": "bold yellow", "missing": "dim"}


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """One stage folder or training run."""

    stage: str
    folder: Path
    state: State
    """`outdated`: finished, but from inputs that have changed since."""
    done: int = 0
    """Finished samples; steps for a run."""
    total: int | None = None
    """Samples or steps when finished; None where nobody knows before the stage has planned."""
    dropped: int = 0
    num_bytes: int = 0
    detail: str = ""
    next_command: str = ""
    """What to run for this row: empty for a finished stage, how to score it for a finished run."""


def stage_rows(work: Path, dataset_name: str, runs: Path = Path("runs")) -> list[StageRow]:
    """State of every stage of a dataset, in the order of the pipeline.

    Args:
        work: work folder of the dataset.
        dataset_name: its entry in `datasets.yaml`, for the commands.
        runs: folder of the training runs; those named `<dataset>-<preset>` belong to the dataset.

    Raises:
        DataError: a plan, marker or manifest is no JSON.
    """
    option = f"--dataset {dataset_name}"
    records = _row("records", work / "records", f"protoocc prepare {dataset_name}", None)
    total = records.done + records.dropped if records.state == "done" else None
    rows = [
        records,
        _row("geometry", work / "geometry.zarr", f"protoocc prepare {dataset_name}", total),
        _row("occupancy", work / "occupancy.zarr", f"protoocc occupancy {option}", total),
    ]
    stores = sorted(work.glob("masks-*.zarr")) or [work / "masks-seeds.zarr"]
    generators = [store.name.removeprefix("masks-").removesuffix(".zarr") for store in stores]
    for store, generator in zip(stores, generators, strict=True):
        rows.append(_row(f"masks-{generator}", store, f"protoocc masks --generator {generator} {option}", total))
    chosen = "seeds" if "seeds" in generators else generators[0]
    rows.append(_row("shards", work / "shards", f"protoocc pack --masks {chosen} {option}", None))
    return rows + list(_run_rows(runs, dataset_name))


def next_command(rows: list[StageRow]) -> str:
    """Command of the first row that is not done; when all are, of the last run."""
    return next((row.next_command for row in rows if row.state != "done"), rows[-1].next_command)


def print_status(rows: list[StageRow], console: Console) -> None:
    """Table of the rows and the next command."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("stage", "state", "done", "dropped", "size", "folder"):
        table.add_column(header, justify="right" if header in ("done", "dropped", "size") else "left")
    for row in rows:
        state = f"[{STYLES[row.state]}]{row.state}[/]" + (f" ({row.detail})" if row.detail else "")
        count = "" if row.state == "missing" else str(row.done)
        count += f" / {row.total}" if count and row.total is not None else ""
        size = f"{row.num_bytes / 1e6:.1f} MB" if row.num_bytes else ""
        table.add_row(row.stage, state, count, str(row.dropped or ""), size, str(row.folder))
    console.print(table)
    console.print(f"\nNext: {next_command(rows)}", highlight=False, soft_wrap=True)


def _row(stage: str, folder: Path, command: str, total: int | None) -> StageRow:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if (folder / "manifest.json").is_file():
        return _finished(stage, folder, command, size)
    if not (folder / "plan.json").is_file():
        return StageRow(stage=stage, folder=folder, state="missing", num_bytes=size, next_command=command)
    markers = [_read(path) for path in sorted((folder / "units").glob("*.json"))]
    dropped = sum(len(marker["dropped"]) for marker in markers)
    done = sum(int(marker["done"]) for marker in markers)
    return StageRow(
        stage=stage,
        folder=folder,
        state="partial",
        done=done,
        total=total,
        dropped=dropped,
        num_bytes=size,
        detail=f"{len(markers)} units",
        next_command=command,
    )


def _finished(stage: str, folder: Path, command: str, size: int) -> StageRow:
    manifest = _read(folder / "manifest.json")
    reason = _outdated(folder, manifest)
    done, dropped = int(manifest["done"]), len(manifest["dropped"])
    return StageRow(
        stage=stage,
        folder=folder,
        state="outdated" if reason else "done",
        done=done,
        total=done + dropped,
        dropped=dropped,
        num_bytes=size,
        detail=reason,
        next_command=f"{command} --overwrite" if reason else "",
    )


def _outdated(folder: Path, manifest: dict[str, Any]) -> str:
    """Why a finished stage has to run again; empty when it need not."""
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        return f"format {version}, this program reads {FORMAT_VERSION}"
    masks = f"masks-{manifest['config'].get('masks')}.zarr"
    sources = {"records": "records", "geometry": "geometry.zarr", "occupancy": "occupancy.zarr", "masks": masks}
    for name, fingerprint in manifest["inputs"].items():
        source = folder.parent / sources.get(name, "") / "manifest.json"
        if name in sources and (not source.is_file() or _sha256(source) != fingerprint):
            return f"{name} changed since"
    return ""


def _run_rows(runs: Path, dataset_name: str) -> Iterator[StageRow]:
    prefix = f"{dataset_name}-"
    configs = [
        path for path in sorted(runs.glob(f"{prefix}*/config.json")) if "-" not in path.parent.name[len(prefix) :]
    ]
    if not configs:
        missing = runs / f"{dataset_name}-demo"
        command = f"protoocc train --preset demo --dataset {dataset_name}"
        yield StageRow(stage="run", folder=missing, state="missing", next_command=command)
    for path in configs:
        yield _run(path.parent, _read(path), dataset_name)


def _run(folder: Path, config: dict[str, Any], dataset_name: str) -> StageRow:
    steps = config.get("schedule", {}).get("steps")
    checkpoints = (folder / "checkpoints").glob("step-*")
    done = max((int(path.name[5:]) for path in checkpoints if path.name[5:].isdigit()), default=0)
    is_done = done > 0 if steps is None else done >= steps
    preset = folder.name.removeprefix(f"{dataset_name}-")
    options = f"--dataset {dataset_name} --run {folder}"
    resume, score = f"protoocc train --preset {preset} {options} --resume", f"protoocc eval {options}"
    return StageRow(
        stage=f"run {preset}",
        folder=folder,
        state="done" if is_done else "partial",
        done=done,
        total=steps,
        num_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        detail="steps",
        next_command=score if is_done else resume,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is damaged: {error}. Run its stage again with --overwrite.") from error
    return value


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
