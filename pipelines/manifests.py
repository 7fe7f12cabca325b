"""Plans, markers and manifests of stage folders: read with clear errors, and the fingerprint of what a stage made."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import DataError, read_errors
from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import STAGE_BYTES
from schemas.settings import describe_validation
from schemas.store import FORMAT_VERSION
from schemas.workfolder import MANIFEST, PLAN, UNITS, PlanFile, StageManifest, StagePlan, UnitMarker

Model = TypeVar("Model", bound=BaseModel)

AGAIN = "Run the stage again with --overwrite."


def read_manifest(folder: Path) -> StageManifest:
    """Manifest of a finished stage folder; entries of its own stage are in `model_extra`.

    Raises:
        DataError: the stage has not finished, its manifest is damaged, or its format version is not this program's.
    """
    return _parse(folder / MANIFEST, StageManifest, _command(folder))


def read_plan(folder: Path) -> PlanFile:
    """Plan of a stage folder.

    Raises:
        DataError: there is none, it is damaged, or its format version is not this program's.
    """
    return _parse(folder / PLAN, PlanFile, AGAIN)


def read_marker(folder: Path, unit: str) -> UnitMarker | None:
    """Marker of a unit; None where there is none or where it is empty, half written or damaged."""
    try:
        return UnitMarker.model_validate(read_values(marker_path(folder, unit)))
    except (DataError, ValidationError):
        return None


def marker_path(folder: Path, unit: str) -> Path:
    """Marker file of a unit."""
    return folder / UNITS / f"{unit}.json"


def fingerprint(folder: Path) -> str:
    """SHA-256 over what a finished stage made: its files, its rows and the samples that it lacks.

    What it was made from is not part of it: a stage that is made again and gives the same bytes keeps the stages that
    read it valid. `pipelines.lineage` checks where the bytes came from.

    Raises:
        DataError: as `read_manifest`.
    """
    return content_of(read_manifest(folder))


def content_of(manifest: StageManifest) -> str:
    """`fingerprint` from a manifest."""
    parts = [manifest.stage, manifest.format_version, manifest.done, sorted(manifest.dropped), manifest.files]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _parse(path: Path, model: type[Model], again: str) -> Model:
    with read_errors(path):
        is_there = path.exists()
    if not is_there:
        raise DataError(
            f"{path.parent} is not finished (no {path.name}). Run the stage that makes it first{_first(path.parent)}."
        )
    values = read_values(path, again)
    if values.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {values['format_version']}, this program reads {FORMAT_VERSION}. {again}"
        )
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{describe_validation(f'{path} is damaged', error)}\n{again}") from error


def read_values(path: Path, again: str = AGAIN) -> dict[str, Any]:
    """A file of a stage as plain values.

    Raises:
        DataError: it cannot be read, is damaged or beyond the limits of `schemas.outside`.
    """
    source = Source(str(path), again)
    return parse_json(source, read_bytes(source, path, STAGE_BYTES), STAGE_BYTES)


def command_of(folder: Path, plan: StagePlan) -> str:
    """Command line that makes a stage's folder, without --overwrite; empty where the plan does not tell."""
    return plan.command.replace("{folder}", shlex.quote(str(folder)))


def _command(folder: Path) -> str:
    """How to make a folder again, from its plan where that can be read."""
    command = planned_command(folder)
    return f"Run `{command} --overwrite`." if command else AGAIN


def _first(folder: Path) -> str:
    command = planned_command(folder)
    return f": `{command}`" if command else ""


def planned_command(folder: Path) -> str:
    """Command line that a folder was begun with; empty where its plan does not tell or cannot be read."""
    try:
        return command_of(folder, PlanFile.model_validate(read_values(folder / PLAN)))
    except (DataError, ValidationError):
        return ""
