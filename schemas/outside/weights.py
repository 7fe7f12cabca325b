"""Files of weights: what torch and safetensors files declare, read before a library loads them; nothing is unpickled.

A torch file is a pickle with tensors beside it. Its instructions are read one by one, as text: the classes and
functions they name must be those that tensors are made of, so any other object is explained, never executed.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from schemas.errors import CheckpointError, DataError
from schemas.outside.limits import JSON_BYTES, PICKLE_BYTES, PICKLE_STEPS, ZIP_MEMBERS
from schemas.outside.source import Source, shorten
from schemas.outside.text import parse_json

WRAPPERS: Final = ("state_dict", "model", "model_state_dict", "module")
"""Entries under which training scripts save the weights of a network."""
PREFIXES: Final = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put in front of all names."""

_TENSOR_PARTS: Final = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|parameter)|torch(\.cuda)? \w+Storage"
    r"|torch\.storage (Untyped|Typed)Storage|torch (Size|device|bool|b?float\d+\w*|u?int\d+|complex\d+)"
    r"|torch\.serialization _get_layout|torch\.nn\.parameter Parameter|_codecs encode"
)
_ZIP_MAGIC: Final = b"PK\x03\x04"
_LEGACY_PICKLES: Final = 4
"""A file of torch before 1.6 starts with so many pickles: magic number, protocol, machine, contents."""
_PICKLE_ERRORS: Final = (ValueError, KeyError, IndexError, OverflowError, EOFError, AttributeError, TypeError)


def check_torch_file(path: Path) -> None:
    """Checks that a torch file holds tensors and plain values alone, as large as they say.

    Raises:
        CheckpointError: unreadable, no torch file, compressed, or it names other classes or functions (named).
    """
    try:
        with path.open("rb") as file:
            pickles = [_zip_pickle(path)] if file.read(4) == _ZIP_MAGIC else _legacy_pickles(path)
        objects = sorted({name for pickle in pickles for name in _named_objects(path, pickle)})
    except OSError as error:
        raise CheckpointError(f"{path} is no readable file of weights: {error.strerror or error}") from error
    if objects:
        raise CheckpointError(
            f"{path} holds Python objects beside its tensors ({', '.join(objects[:3])}); reading them could run any "
            'code, so they are refused. If you trust its source, copy the tensors once: python -c "import torch; data '
            f"= torch.load('{path}', weights_only=False); "
            "torch.save(data.get('state_dict', data.get('model', data)), 'weights.pth')\""
        )


def check_safetensors_file(path: Path) -> None:
    """Checks the declared size of a safetensors header, and that it is JSON within the limits.

    Raises:
        CheckpointError: unreadable, cut short, or another kind of file.
    """
    source = Source(f"{path} is no readable file of weights: its header")
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > JSON_BYTES:
                raise source.error(f"has {size:,} bytes, at most {JSON_BYTES:,} are allowed")
            header = file.read(size)
        parse_json(source, header)
    except OSError as error:
        raise CheckpointError(f"{path} is no readable file of weights: {error.strerror or error}") from error
    except DataError as error:
        raise CheckpointError(str(error)) from error


def unwrap_state(path: Path, loaded: Any, is_tensor: Callable[[Any], bool]) -> tuple[dict[str, Any], list[str]]:
    """Named tensors of what a training script saved, and what was done to find them.

    Args:
        path: for messages.
        loaded: content of the file.
        is_tensor: whether a value is one.

    Returns:
        Tensors by name, and a sentence for each entry or prefix that was taken off, for the user.

    Raises:
        CheckpointError: no named tensors, or more than one set of them.
    """
    notes: list[str] = []
    while isinstance(loaded, Mapping) and not _is_state(loaded, is_tensor):
        inner = [name for name in WRAPPERS if isinstance(loaded.get(name), Mapping) and loaded[name]]
        if len(inner) != 1:
            break
        notes.append(f"{path}: weights taken from its entry '{inner[0]}'")
        loaded = loaded[inner[0]]
        if len(notes) > len(WRAPPERS):
            break
    if not isinstance(loaded, Mapping) or not _is_state(loaded, is_tensor):
        raise CheckpointError(
            f"{path} holds {_describe(loaded)}; expected named tensors, at the top or under one of "
            f"{', '.join(WRAPPERS)}"
        )
    state = {str(name): value for name, value in loaded.items()}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
            notes.append(f"{path}: '{prefix}' taken off {len(state)} names")
    return state, notes


def _is_state(value: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> bool:
    return bool(value) and all(map(is_tensor, value.values()))


def _describe(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"one {type(value).__name__}"
    entries = [f"{shorten(name)} ({type(entry).__name__})" for name, entry in list(value.items())[:5]]
    return f"a dict of {len(value)}: {', '.join(entries)}" if entries else "an empty dict"


def _zip_pickle(path: Path) -> bytes:
    """`data.pkl` of a torch file; its members must be stored as they are, so none is larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = [entry for entry in entries if entry.compress_type or entry.file_size != entry.compress_size]
            if packed or len(entries) > ZIP_MEMBERS or len({entry.filename for entry in entries}) != len(entries):
                raise CheckpointError(
                    f"{path} is no readable file of weights: members are compressed, listed twice or more than "
                    f"{ZIP_MEMBERS:,}"
                )
            pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1 or pickles[0].file_size > PICKLE_BYTES:
                raise CheckpointError(
                    f"{path} is no readable file of weights: it has {len(pickles)} data.pkl of a possible size"
                )
            if any(entry.filename.rpartition("/")[2] == "constants.pkl" for entry in entries):
                raise CheckpointError(f"{path} is a TorchScript program, no file of weights; save its state_dict()")
            return archive.read(pickles[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} is no readable file of weights: {error}") from error


def _legacy_pickles(path: Path) -> Iterator[bytes]:
    """The pickles at the start of a file of torch before 1.6."""
    with path.open("rb") as file:
        start = file.read(PICKLE_BYTES)
    stream, place = BytesIO(start), 0
    for _ in range(_LEGACY_PICKLES):
        for _ in _steps(path, stream):
            pass
        yield start[place : stream.tell()]
        place = stream.tell()


def _named_objects(path: Path, pickle: bytes) -> Iterator[str]:
    """Classes and functions that a pickle names, other than those of tensors."""
    for opcode, argument in _steps(path, BytesIO(pickle)):
        if opcode == "GLOBAL" and _TENSOR_PARTS.fullmatch(argument) is None:
            yield shorten(argument.replace(" ", "."))[1:-1]
        elif opcode in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"):
            yield f"pickle instruction {opcode}"


def _steps(path: Path, stream: BytesIO) -> Iterator[tuple[str, Any]]:
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number > PICKLE_STEPS:
                raise CheckpointError(f"{path} has more than {PICKLE_STEPS:,} instructions beside its tensors")
            yield opcode.name, argument
    except _PICKLE_ERRORS as error:
        raise CheckpointError(f"{path} is no readable file of weights: {error}") from error
