"""Checkpoints: safetensors weights, JSON configuration and the state that continues a run; never pickle.

A checkpoint is a folder `step-000100/` with `model.safetensors`, `config.json`, `state.pt` and their checksums. It is
written under another name, flushed and renamed, so a killed run leaves whole checkpoints only; a copy that was cut is
found by its checksums.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as serialize
from torch import Tensor, nn

from protoocc.config import TrainConfig
from protoocc.hosts import FIRST_KIND, build_network
from protoocc.network import Network
from schemas.errors import CheckpointError, DataError, disk_errors
from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import GRID_VOXELS, JSON_BYTES, NETWORK_NUMBER, NETWORK_VALUES
from schemas.outside.weights import check_safetensors_file, check_torch_file
from schemas.runs import CHECKPOINTS
from schemas.settings import describe_validation
from schemas.shards import CHECKSUMS

logger = logging.getLogger(__name__)

WEIGHTS, CONFIG, STATE = "model.safetensors", "config.json", "state.pt"
BEST = "best"
"""Link beside the checkpoints to the best one by validation."""
_PARTIAL, _DAMAGED = ".partial", ".damaged"
_LOAD_ERRORS = (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError)
"""What safetensors raises for damaged files."""


class OtherNetworkError(CheckpointError):
    """A whole checkpoint of another network or release; those before it in the run are no better."""


def save_checkpoint(
    folder: Path, step: int, *, weights: Mapping[str, Tensor], config: TrainConfig, state: Mapping[str, Any]
) -> Path:
    """Writes `folder/step-NNNNNN` whole or not at all; `remove_old` makes room afterwards.

    Args:
        folder: the run's `checkpoints`.
        step: finished optimiser steps.
        weights: state dict of the network.
        config: what the network and the run were made from.
        state: tensors and plain values that continue the run.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    target = folder / f"step-{step:06d}"
    partial = folder / (target.name + _PARTIAL)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    stored = io.BytesIO()
    torch.save(dict(state), stored)
    files = {
        WEIGHTS: serialize(tensors, metadata={"format": "pt"}),
        CONFIG: f"{config.model_dump_json(indent=1)}\n".encode(),
        STATE: stored.getvalue(),
    }
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    files[CHECKSUMS] = sums.encode()
    try:
        with disk_errors(target):
            _write_folder(partial, files)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            _flush(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def remove_old(folder: Path, keep_last: int, best: int | None) -> None:
    """Removes all checkpoints but the last few and the best one, and what a kill left half written.

    Args:
        folder: the run's `checkpoints`.
        keep_last: number of last checkpoints that stay.
        best: step of the best one by validation.

    Raises:
        DataError: the folder cannot be written.
    """
    with disk_errors(folder):
        for old in list_checkpoints(folder)[:-keep_last]:
            if int(old.name[5:]) != best:
                shutil.rmtree(old)
        for partial in folder.glob(f"step-*{_PARTIAL}"):
            shutil.rmtree(partial)


def link_best(folder: Path, step: int) -> None:
    """Points `checkpoints/best` at a step, by a relative link that a run keeps when it is moved.

    Raises:
        DataError: the folder cannot be written.
    """
    link, partial = folder / BEST, folder / f"{BEST}{_PARTIAL}"
    try:
        with disk_errors(link):
            partial.unlink(missing_ok=True)
            partial.symlink_to(f"step-{step:06d}", target_is_directory=True)
            if link.is_dir() and not link.is_symlink():  # a copy of the run that followed the link
                shutil.rmtree(link)
            partial.replace(link)
    except OSError as error:
        logger.warning("%s cannot be a link here (%s); step %d is the best checkpoint", link, error.strerror, step)


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
        _flush(folder / name)
    _flush(folder)


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run's `checkpoints` folder, in order of steps."""
    return sorted(path for path in folder.glob("step-*") if path.name[5:].isdigit() and path.is_dir())


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder that a user means: itself, or the last one of a run.

    Args:
        path: a checkpoint (also `checkpoints/best`), its `model.safetensors`, or a run folder.

    Raises:
        CheckpointError: there is none.
    """
    if path.name == BEST and path.is_symlink():
        path = path.with_name(path.readlink().name)
    if path.name == WEIGHTS and path.is_file():
        return path.parent
    if (path / WEIGHTS).is_file():
        return path
    found = list_checkpoints(path / CHECKPOINTS) or list_checkpoints(path)
    if not found:
        raise CheckpointError(f"{path} is no checkpoint and no run with one (looked for {WEIGHTS}). Train first.")
    return found[-1]


def load_network(path: Path) -> tuple[Network, TrainConfig]:
    """The network of a checkpoint in evaluation mode, on the CPU, and the configuration it was trained with.

    ``config.classes`` gives names and colours to what the network predicts.

    Args:
        path: a checkpoint, its `model.safetensors`, or a run folder (its last checkpoint).

    Raises:
        CheckpointError: nothing there, or damaged (names the one before).
        OtherNetworkError: weights and configuration do not fit, or it was written by another version of the program.
    """
    folder = find_checkpoint(path)
    with _naming_the_one_before(folder):
        check_sums(folder)
        config = read_config(folder / CONFIG)
        weights = read_safetensors(folder / WEIGHTS)
        check_fit(folder / WEIGHTS, _planned_network(folder / CONFIG, config, len(weights)), weights)
        network = build_network(config.model)
        network.load_state_dict(weights)
    return network.eval(), config


def load_config(path: Path) -> TrainConfig:
    """The configuration alone that `load_network` gives, to ask what a network needs before it is loaded.

    Raises:
        CheckpointError: nothing there, or damaged (names the one before).
        OtherNetworkError: written by another version of the program.
    """
    folder = find_checkpoint(path)
    with _naming_the_one_before(folder):
        return read_config(folder / CONFIG)


@contextmanager
def _naming_the_one_before(folder: Path) -> Iterator[None]:
    """Errors also say which checkpoint can be taken instead."""
    try:
        yield
    except OtherNetworkError:
        raise
    except CheckpointError as error:
        before = [other for other in list_checkpoints(folder.parent) if other.name < folder.name]
        if not before:
            raise
        raise CheckpointError(f"{error}\nThe checkpoint before it is {before[-1]}: name it instead.") from error


def check_sums(folder: Path) -> None:
    """Compares the files of a checkpoint with its checksums, where it has them: single files may be passed on.

    Raises:
        CheckpointError: a file is missing, cut or changed.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    try:
        lines = read_bytes(Source(str(path)), path, JSON_BYTES).decode(errors="replace").splitlines()
        for line in lines:
            expected, _, name = line.partition("  ")
            if name not in (WEIGHTS, CONFIG, STATE):
                raise CheckpointError(f"{path} is damaged: it lists {name!r}")
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise CheckpointError(f"{folder / name} is damaged: cut or changed since it was written")
    except OSError as error:
        raise CheckpointError(f"{folder} is damaged: {error.filename} cannot be read ({error.strerror})") from error
    except DataError as error:
        raise CheckpointError(str(error)) from error


def set_aside(checkpoint: Path) -> Path:
    """Renames a damaged checkpoint to `step-NNNNNN.damaged`, so that it is no checkpoint any more and stays readable.

    Raises:
        DataError: the folder cannot be written.
    """
    target = checkpoint.with_name(checkpoint.name + _DAMAGED)
    with disk_errors(checkpoint):
        shutil.rmtree(target, ignore_errors=True)
        checkpoint.rename(target)
    return target


def read_config(path: Path) -> TrainConfig:
    """Reads a stored `config.json`.

    Raises:
        CheckpointError: missing or damaged.
        OtherNetworkError: written by another version of the program.
    """
    source = Source(str(path))
    try:
        stored = parse_json(source, read_bytes(source, path, JSON_BYTES))
        check_version(path, stored)
        return TrainConfig.model_validate(stored)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    except ValidationError as error:
        raise CheckpointError(describe_validation(str(path), error)) from error


def check_version(path: Path, stored: Any) -> None:
    """Refuses networks from before they had a version: their weights would give other predictions without a word.

    Raises:
        OtherNetworkError: says what to do.
    """
    model = stored.get("model") if isinstance(stored, dict) else None
    if isinstance(model, dict) and model.get("kind", FIRST_KIND) == FIRST_KIND and "version" not in model:
        raise OtherNetworkError(
            f"{path} describes a network of version 1, this program has version 2: it normalises image features and "
            "compares prototypes otherwise, so that the weights would predict something else. Train it again, or use "
            "protoocc before version 2 of the network"
        )


def _planned_network(path: Path, config: TrainConfig, tensors: int) -> Network:
    """The network without memory for its weights: a configuration may ask for more than the machine has.

    Args:
        path: the configuration, for messages.
        config: what to build.
        tensors: number of tensors of the file: each layer has at least one.

    Raises:
        CheckpointError: numbers beyond `limits`, more layers than tensors, or no network can be built from it.
    """
    values = list(_plain_values(config.model.model_dump(mode="json")))
    largest = max(value for value in values if isinstance(value, int))
    layers, voxels = getattr(config.model, "encoder_layers", 0), math.prod(config.model.grid.shape)
    if len(values) > NETWORK_VALUES or largest > NETWORK_NUMBER or voxels > GRID_VOXELS or layers > tensors:
        raise CheckpointError(
            f"{path} asks for a network of {layers:,} layers on {voxels:,} voxels, with {len(values):,} settings up to "
            f"{largest:,}; at most one layer for each of the {tensors} tensors, {GRID_VOXELS:,}, {NETWORK_VALUES:,} "
            f"and {NETWORK_NUMBER:,} are possible"
        )
    try:
        with torch.device("meta"):
            return build_network(config.model)
    except (ValueError, RuntimeError, OverflowError, TypeError, IndexError, ArithmeticError) as error:
        raise CheckpointError(f"{path} describes no network that can be built: {error}") from error


def _plain_values(value: Any) -> Iterator[Any]:
    """Values in nested mappings and lists."""
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _plain_values(inner)
    else:
        yield value


def check_fit(path: Path, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Compares names and shapes of stored weights with a network's.

    Raises:
        OtherNetworkError: they differ (lists where).
    """
    own = model.state_dict()
    lines = [f"missing: {name} {tuple(own[name].shape)}" for name in sorted(own.keys() - weights.keys())]
    lines += [f"unexpected: {name} {tuple(weights[name].shape)}" for name in sorted(weights.keys() - own.keys())]
    lines += [
        f"shape: {name} is {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in sorted(own.keys() & weights.keys())
        if own[name].shape != weights[name].shape
    ]
    if lines:
        shown = "\n".join(f"  {line}" for line in lines[:10])
        more = f"\n  ... and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise OtherNetworkError(
            f"{path} does not fit the network in {len(lines)} places:\n{shown}{more}\nThese weights are of another "
            "network than config.json describes, or of another release (CHANGELOG.md tells which networks changed): "
            "train again, or use that release."
        )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name, on the CPU.

    Raises:
        CheckpointError: unreadable, cut short or another kind of file.
    """
    check_safetensors_file(path)
    try:
        tensors: dict[str, Tensor] = load(path.read_bytes())  # not mapped: a mapped file that is cut kills the process
    except _LOAD_ERRORS as error:
        raise CheckpointError(f"{path} is no readable file of weights: {error}") from error
    return tensors


def load_state(path: Path) -> dict[str, Any]:
    """Reads `state.pt` (tensors and plain values only).

    Raises:
        CheckpointError: missing, unreadable or holding something else.
    """
    state = load_torch(path)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds one {type(state).__name__}, expected the state of a run")
    return state


def load_torch(path: Path) -> Any:
    """Content of a torch file of tensors and plain values, on the CPU; see `schemas.outside.weights`.

    Raises:
        CheckpointError: missing, unreadable, damaged, or with other objects than tensors.
    """
    check_torch_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways: zip, pickle, encoding, memory
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is no readable file of weights: {reason}") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
