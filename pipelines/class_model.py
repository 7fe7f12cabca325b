"""A semantic segmentation network of the user's, an ONNX file: the class of each pixel of an image.

Only ONNX is read, a graph of operators that onnxruntime computes: TorchScript and pickles run code of their maker.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from schemas.classes import ClassTable
from schemas.errors import CheckpointError, ConfigError, SetupError
from schemas.settings import Frozen

SILENT: Final = "-"
"""Stands in a class list for a class that says nothing."""
_METADATA: Final = "classes"
_IMAGENET_MEAN: Final = (123.675, 116.28, 103.53)
_IMAGENET_DEVIATION: Final = (58.395, 57.12, 57.375)

Colour = tuple[float, float, float]


class ClassModelConfig(Frozen):
    """A segmentation network and what it takes."""

    model: Path = Field(description="ONNX file: image (1, 3, H, W) in, scores (1, L, h, w) or classes (1, h, w) out.")
    classes: tuple[str, ...] | None = Field(
        None, description="Class of the dataset for each of the network's, `-` for none; None: the file's own list."
    )
    size: tuple[int, int] | None = Field(
        None, description="(width, height) of the images that the network gets; None: what the file fixes."
    )
    mean: Colour = Field(_IMAGENET_MEAN, description="Taken from R, G, B (0..255) before a network of real numbers.")
    deviation: Colour = Field(_IMAGENET_DEVIATION, description="What they are divided by then.")


class _Network(NamedTuple):
    """An open file."""

    session: Any
    name: str
    is_real: bool
    size: tuple[int, int]
    """(width, height) of its images, pixels."""


def check_class_model(config: ClassModelConfig, table: ClassTable) -> None:
    """Opens a network before any work is done.

    Raises:
        CheckpointError: the file is missing or holds no such network.
        ConfigError: its images have no size, or its list holds another class than the table.
        SetupError: onnxruntime is not installed.
    """
    network = _open(config.model, config.size)
    _labels_of(config, network, table)


def class_segmenter(
    config: ClassModelConfig, table: ClassTable
) -> Callable[[UInt8[np.ndarray, "H W 3"]], UInt8[np.ndarray, "h w"]]:
    """Opens a network, once per process; raises as `check_class_model`.

    Returns:
        Function: BGR image (H, W, 3) -> class of the table for each pixel of the network's own output, ignored where it
        has none.
    """
    network = _open(config.model, config.size)
    labels = _labels_of(config, network, table)

    def segment(image_bgr: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w"]:
        resized = cv2.resize(image_bgr, network.size, interpolation=cv2.INTER_AREA)
        pixels = cv2.cvtColor(resized, cv2.COLOR_BGR2RGB)
        if network.is_real:
            pixels = ((pixels - np.array(config.mean)) / config.deviation).astype(np.float32)
        (output, *_) = network.session.run(None, {network.name: pixels.transpose(2, 0, 1)[None]})
        found = _classes(config.model, output)
        if int(found.max()) >= len(labels):
            raise CheckpointError(
                f"{config.model} tells class {int(found.max())}; its list has {len(labels)} names. Name all with "
                "--classes FILE, one a line."
            )
        return labels[found]

    return segment


def _classes(path: Path, output: np.ndarray) -> np.ndarray:
    """Index of the most probable class (h, w) from scores or from indices."""
    scores = output[0] if output.ndim == 4 and output.shape[0] == 1 else output
    if scores.ndim == 3 and np.issubdtype(scores.dtype, np.floating):
        return scores.argmax(0)
    if scores.ndim == 3 and scores.shape[0] == 1 and np.issubdtype(scores.dtype, np.integer) and scores.min() >= 0:
        return scores[0]
    raise CheckpointError(
        f"{path} gives {output.dtype} of shape {output.shape}; expected real scores (1, L, h, w) or whole numbers of "
        "classes (1, h, w)"
    )


def _labels_of(config: ClassModelConfig, network: _Network, table: ClassTable) -> UInt8[np.ndarray, " n"]:
    """Class of the table for each class of the network."""
    names = config.classes or _own_names(network.session)
    if not names:
        raise ConfigError(f"{config.model} does not name its classes; give --classes FILE with one a line")
    for name in names:
        if name not in (*table.names, SILENT):
            raise ConfigError(
                f"class list of {config.model}: '{name}' is no class of the dataset; expected "
                f"{', '.join(table.names)}, or {SILENT} for one that says nothing"
            )
    return np.array([table.ignored if name == SILENT else table.index(name) for name in names], np.uint8)


def _own_names(session: Any) -> tuple[str, ...]:
    text = session.get_modelmeta().custom_metadata_map.get(_METADATA, "[]")
    try:
        names = json.loads(text)
    except json.JSONDecodeError:
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _open(path: Path, size: tuple[int, int] | None) -> _Network:
    if path.suffix != ".onnx":
        raise CheckpointError(
            f"{path}: only ONNX files (.onnx) are read, as TorchScript and pickled networks run code of whoever made "
            "them; export yours with torch.onnx.export"
        )
    if find_spec("onnxruntime") is None:
        raise SetupError("--generator classes needs onnxruntime: pip install 'protoocc[export]' (or `-e .[export]`)")
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    return _opened(path, status.st_mtime_ns, size)


@cache
def _opened(path: Path, changed_ns: int, size: tuple[int, int] | None) -> _Network:
    """One session per process; one thread, so that sums have the same order with any number of workers."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path} is no network that onnxruntime computes: {reason}") from error
    given = session.get_inputs()
    shape = given[0].shape
    if len(given) != 1 or len(shape) != 4 or shape[1] != 3 or given[0].type not in ("tensor(uint8)", "tensor(float)"):
        inputs = ", ".join(f"{one.name} {one.type} {one.shape}" for one in given)
        raise CheckpointError(f"{path} takes {inputs}; expected one image (1, 3, H, W) of uint8 or float")
    fixed = (shape[3], shape[2]) if isinstance(shape[2], int) and isinstance(shape[3], int) else None
    if fixed is not None and size not in (None, fixed):
        raise ConfigError(f"--size {size}: {path} takes images of {fixed[0]} x {fixed[1]} pixels only")
    wanted = fixed or size
    if wanted is None:
        raise ConfigError(f"{path} takes images of any size; give --size WIDTHxHEIGHT, as it was trained with")
    return _Network(session, given[0].name, given[0].type == "tensor(float)", wanted)
