"""The folder of a pretraining run: its settings, and the state to go on from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from protoocc.config import changed_fields
from protoocc.pretrain.config import PretrainConfig
from schemas.errors import ConfigError
from schemas.files import write_bytes
from schemas.lock import lock_path
from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import JSON_BYTES
from schemas.runs import CONFIG

STATE: Final = "state.pt"
"""Weights, optimiser and step of a run that is not over."""
_FREE_TO_CHANGE: Final = ("workers:", "checkpoint_every:")


def claim_folder(out: Path, config: PretrainConfig, *, resume: bool) -> None:
    """Stores the settings in a folder that is empty or holds this very run.

    Args:
        out: the folder; made when absent.
        config: of this run.
        resume: go on with the run that is there, if any.

    Raises:
        ConfigError: it holds another run, or this one and ``resume`` is off, or foreign files.
        DataError: it cannot be written, or its settings are damaged.
    """
    path = out / CONFIG
    if path.is_file():
        stored = parse_json(
            Source(str(path), "Choose another folder."), read_bytes(Source(str(path)), path, JSON_BYTES)
        )
        changed = [
            line
            for line in changed_fields(stored, config.model_dump(mode="json"))
            if not line.startswith(_FREE_TO_CHANGE)
        ]
        if changed:
            lines = "\n".join(f"  {line}" for line in changed[:5])
            raise ConfigError(f"{out} holds a run with other settings:\n{lines}\nChoose another folder.")
        if not resume:
            raise ConfigError(f"{out} holds this run already. Go on with --resume or choose another folder.")
    elif foreign := [entry.name for entry in out.glob("*") if entry != lock_path(out)]:
        raise ConfigError(f"{out} holds '{min(foreign)}' and no {CONFIG}: it is no run. Choose another folder.")
    write_bytes(path, f"{config.model_dump_json(indent=1)}\n".encode())


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes tensors and plain values, whole or not at all.

    Raises:
        DataError: the disk is full.
    """
    stored = io.BytesIO()
    torch.save(dict(state), stored)
    write_bytes(path, stored.getvalue())
