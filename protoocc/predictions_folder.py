"""`predictions.json`: what decides the bytes of a folder of predictions, and whether a run may go on there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError

from protoocc.config import TrainConfig, changed_fields
from protoocc.network import Network
from protoocc.predictions_source import Source
from schemas.classes import ClassTable
from schemas.errors import ConfigError
from schemas.files import PARTIAL, write_bytes
from schemas.geometry import VoxelGrid
from schemas.lock import lock_path
from schemas.outside import Source as Origin
from schemas.outside import parse_json, read_bytes
from schemas.outside.limits import JSON_BYTES
from schemas.runs import PREDICTIONS
from schemas.settings import Frozen, describe_validation
from schemas.store import FORMAT_VERSION
from schemas.version import code_version

_REMEDY: Final = "Choose another folder with --predictions, or remove this one."


class PredictionsPlan(Frozen):
    """`predictions.json`; everything but `code_version` decides the bytes."""

    format_version: int = Field(FORMAT_VERSION, description="`schemas.store.FORMAT_VERSION` of the program.")
    code_version: str = Field(description="Release and commit of the program that started the folder.")
    source: str = Field(description="Dataset and split, records or calibration file.")
    fingerprint: str = Field(description="Of everything that is read.")
    weights: str = Field(description="SHA-256 over the network's weights and settings.")
    options: dict[str, Any] = Field(description="Kinds of files, batch and frames.")
    grid: VoxelGrid = Field(description="Of every volume, ego frame.")
    classes: ClassTable = Field(description="Class table of `npz`; Occ3D files have the numbers of Occ3D.")
    samples: dict[str, str] = Field(description="Token of each sample and the stem of its npz and picture.")

    @classmethod
    def of(cls, network: Network, config: TrainConfig, source: Source, options: dict[str, Any]) -> PredictionsPlan:
        """The plan of a run."""
        return cls(
            code_version=code_version(),
            source=source.name,
            fingerprint=source.fingerprint,
            weights=weights_digest(network),
            options=options,
            grid=config.model.grid,
            classes=config.classes,
            samples={moment.token: moment.key for moment in source.moments},
        )


def weights_digest(network: Network) -> str:
    """SHA-256 over the settings and all weights of a network, which a moved or renamed checkpoint keeps."""
    digest = hashlib.sha256(network.config.model_dump_json().encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def claim_folder(out: Path, plan: PredictionsPlan) -> None:
    """Stores the plan in a new folder, or compares it with the one that is there.

    Raises:
        ConfigError: other predictions or foreign files are there.
        DataError: the folder cannot be written.
    """
    path = out / PREDICTIONS
    if path.is_file():
        _check_same(path, plan)
        return
    foreign = sorted(entry.name for entry in out.glob("*") if entry != lock_path(out) and entry.suffix != PARTIAL)
    if foreign:
        raise ConfigError(f"{out} holds '{foreign[0]}' and no {PREDICTIONS}: it is no folder of predictions. {_REMEDY}")
    write_bytes(path, f"{plan.model_dump_json(indent=1)}\n".encode())


def _check_same(path: Path, plan: PredictionsPlan) -> None:
    source = Origin(str(path), _REMEDY)
    try:
        stored = PredictionsPlan.model_validate(parse_json(source, read_bytes(source, path, JSON_BYTES)))
    except ValidationError as error:
        raise ConfigError(f"{describe_validation(str(path), error)}\n{_REMEDY}") from error
    before, now = (one.model_dump(mode="json", exclude={"code_version", "samples"}) for one in (stored, plan))
    changed = changed_fields(before, now)
    if stored.samples != plan.samples:
        changed.append(f"samples: was {len(stored.samples)}, now {len(plan.samples)}, or others")
    if changed:
        lines = "\n".join(f"  {line}" for line in changed[:5])
        raise ConfigError(f"{path.parent} holds other predictions:\n{lines}\n{_REMEDY}")
