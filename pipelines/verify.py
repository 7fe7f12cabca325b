"""Whether every stored file still holds what was written: reads all of them, as no stage does without need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pipelines.lineage import find_stale
from pipelines.manifests import command_of, marker_path, read_marker, read_plan
from pipelines.unit_files import lost_files
from schemas.datasets import DatasetSpec
from schemas.errors import DataError
from schemas.workfolder import MANIFEST, PLAN

_SHOWN = 10
"""Faults that a message lists."""


def verify_stages(
    folders: Iterable[Path],
    dataset: DatasetSpec,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Compares all files of stage folders with their checksums, and what they were made from with what is there.

    Args:
        folders: of stages, finished or not; those without a plan are passed over.
        dataset: their entry in `datasets.yaml`.
        on_progress: called with finished and total units.

    Raises:
        DataError: names the damaged files, their units and how to make them again.
    """
    stages = [folder for folder in folders if (folder / PLAN).is_file() or (folder / MANIFEST).is_file()]
    faults: list[str] = []
    plans, visited = {}, set[Path]()
    for folder in stages:
        try:
            plans[folder] = read_plan(folder)
            if (folder / MANIFEST).is_file():
                stale = find_stale(folder, dataset, visited=visited)
                faults += [f"{one.folder}: {one.reason}. Run `{one.command}`." for one in stale]
        except DataError as error:
            faults.append(str(error))
    done, total = 0, sum(len(plan.units) for plan in plans.values())
    with ThreadPoolExecutor() as pool:
        for folder, plan in plans.items():
            check = partial(_unit_faults, folder, command_of(folder, plan))
            for found in pool.map(check, plan.units):
                faults += found
                done += 1
                on_progress(done, total)
    if faults:
        unique = list(dict.fromkeys(faults))
        more = [f"and {len(unique) - _SHOWN} more"] if len(unique) > _SHOWN else []
        raise DataError("stored data are damaged:\n" + "\n".join(f"  {line}" for line in unique[:_SHOWN] + more))


def _unit_faults(folder: Path, command: str, unit: str) -> list[str]:
    return list(_find_faults(folder, command, unit))


def _find_faults(folder: Path, command: str, unit: str) -> Iterator[str]:
    marker = read_marker(folder, unit)
    path = marker_path(folder, unit)
    if marker is None:
        if path.exists() or (folder / MANIFEST).is_file():
            yield f"{path} is gone or damaged. Run `{command}` to make unit {unit} again."
        return
    lost = lost_files(folder, marker.wrote, deep=True)
    if lost:
        what = f"{folder / lost[0]}" + (f" and {len(lost) - 1} more of its files are" if len(lost) > 1 else " is")
        yield f"{what} gone or damaged. Remove {path} and run `{command}` to make unit {unit} again."
