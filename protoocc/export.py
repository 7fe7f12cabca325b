"""A checkpoint as an ONNX file: exported, checked against PyTorch with onnxruntime, and described by a card beside it.

The calibration is either a part of the graph (`fixed`: the fastest, for one rig) or an input. Then the graph itself
finds the hit queries; their number may differ from call to call, so nothing is padded and nothing is cut off.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from protoocc.batch import Batch
from protoocc.config import TrainConfig
from protoocc.export_card import Difference, ModelCard, describe_tensor
from protoocc.export_graph import ExportedNetwork
from protoocc.network import Network
from protoocc.predictions_folder import weights_digest
from schemas.errors import CheckpointError, ConfigError, SetupError, disk_errors
from schemas.files import PARTIAL, write_bytes
from schemas.version import code_version

Calibration = Literal["fixed", "input"]

OPSET: Final = 20
"""The first one whose GridSample takes volumes, which earlier frames need."""
LARGEST_DIFFERENCE: Final = 1e-3
"""Of a logit, between onnxruntime and PyTorch."""
_PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")
_TURN_RAD: Final = 0.05
"""Where the calibration is an input, the check also turns all cameras by so much: other queries are hit then."""


@dataclass(frozen=True)
class ExportOptions:
    """How a network is exported."""

    cameras: tuple[str, ...]
    """Names of the images, for the card."""
    calibration: Calibration = "fixed"
    """A part of the graph, or an input of it."""


@dataclass(frozen=True)
class ExportSummary:
    """What was written and how well it agrees."""

    model: Path
    card: Path
    num_bytes: int
    differences: tuple[Difference, ...]


def export_onnx(
    network: Network,
    config: TrainConfig,
    sample: Batch,
    out: Path,
    options: ExportOptions,
    on_step: Callable[[str], None] = lambda step: None,
) -> ExportSummary:
    """Writes `out` and, beside it, its card `<out>.json`, both only if the check passes.

    Args:
        network: in evaluation mode, on the CPU.
        config: what it was trained with.
        sample: a batch of one, whose calibration and image size the graph takes over, and which it is checked with.
        out: the ONNX file.
        options: names of the cameras, and whether the calibration is fixed.
        on_step: told what is being done.

    Raises:
        SetupError: a package is missing.
        ConfigError: this kind of network has operators that ONNX lacks.
        CheckpointError: onnxruntime and PyTorch differ by more than `LARGEST_DIFFERENCE`.
        DataError: the file cannot be written.
    """
    _check_kind(config)
    _check_packages()
    model = ExportedNetwork(network, sample, has_calibration=options.calibration == "input").eval()
    partial = out.with_name(out.name + PARTIAL)
    with torch.no_grad(), model.own_hits(), disk_errors(out):
        on_step("tracing and translating")
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_graph(model, model.inputs(sample), partial)
            on_step("comparing with PyTorch")
            differences = _compare(model, partial, sample)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    card = _card(model, config, sample, options.cameras, differences)
    path = out.with_name(out.name + ".json")
    write_bytes(path, f"{card.model_dump_json(indent=1)}\n".encode())
    return ExportSummary(out, path, out.stat().st_size, differences)


def write_graph(model: ExportedNetwork, inputs: Mapping[str, Tensor], path: Path) -> None:
    """Writes the ONNX file alone; call it within `ExportedNetwork.own_hits`.

    Raises:
        SetupError: a package is missing.
        ConfigError: an operator of this network cannot be translated.
    """
    translate(model, inputs, ["logits", "semantics"]).save(str(path))


def open_session(path: Path) -> Any:
    """An onnxruntime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _check_kind(config: TrainConfig) -> None:
    """Refuses at once what would fail after a long trace.

    Raises:
        ConfigError: the number of queries that look at the images follows from depth.
    """
    if not config.model.has_fixed_queries:
        raise ConfigError(
            f"a network of kind '{config.model.kind}' cannot be written as ONNX: how many of its queries look at the "
            "images follows from what it is given, which the export does not support. Networks of other kinds can be "
            "exported; `protoocc predict` runs this one."
        )


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise SetupError(f"export needs {', '.join(missing)}: pip install 'protoocc[export]' (or `-e .[export]`)")


def translate(model: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> Any:
    """The ONNX program.

    Args:
        model: takes the inputs in their order.
        inputs: examples by name; shapes are fixed to theirs.
        outputs: names in the order of what the model returns.

    Raises:
        SetupError: a package is missing.
        ConfigError: an operator of this network cannot be translated.
    """
    _check_packages()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the exporter
            return torch.onnx.export(
                model,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = next((line for line in reversed(str(error.__cause__ or error).splitlines()) if line.strip()), "")
        raise ConfigError(
            f"this network cannot be written as ONNX (opset {OPSET}): {reason.strip()}. Recurrence over frames "
            "(bevformer) and deformable convolutions (deformable_stages, dfa3d) have no translation."
        ) from error


def _compare(model: ExportedNetwork, path: Path, sample: Batch) -> tuple[Difference, ...]:
    """Runs both on the sample, on noise and, where the calibration is an input, on turned cameras.

    Raises:
        CheckpointError: they differ too much.
    """
    session = open_session(path)
    differences = []
    for name, batch in _cases(model, sample).items():
        inputs = model.inputs(batch)
        logits, semantics = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        expected = model(*inputs.values())
        largest = float(np.abs(logits - expected[0].numpy()).max())
        changed = int((semantics != expected[1].numpy()).sum())
        differences.append(Difference(case=name, largest=largest, classes=changed, voxels=semantics.size))
    worst = max(differences, key=lambda one: one.largest)
    if not worst.largest <= LARGEST_DIFFERENCE:
        raise CheckpointError(
            f"onnxruntime and PyTorch differ by {worst.largest:.2e} on {worst.case}, at most {LARGEST_DIFFERENCE:g} is "
            "allowed; nothing was kept. Report this network's config.json."
        )
    return tuple(differences)


def _cases(model: ExportedNetwork, sample: Batch) -> Mapping[str, Batch]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, sample.images.shape, dtype=torch.uint8, generator=generator)
    cases = {"the sample": sample, "noise": replace(sample, images=noise)}
    if not model.constants:
        turned = sample.camera_from_ego @ _turned(_TURN_RAD)
        cases["turned cameras"] = replace(sample, camera_from_ego=turned)
    return cases


def _turned(angle_rad: float) -> Tensor:
    """4x4 turn about the vertical axis."""
    turn, angle = torch.eye(4), torch.tensor(angle_rad)
    turn[:2, :2] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    return turn


def _card(
    model: ExportedNetwork,
    config: TrainConfig,
    sample: Batch,
    cameras: Sequence[str],
    differences: tuple[Difference, ...],
) -> ModelCard:
    shape = config.model.grid.shape
    outputs = {"logits": (*shape, config.model.num_classes), "semantics": shape}
    return ModelCard(
        opset=OPSET,
        code_version=code_version(),
        weights=weights_digest(model.network),
        network=config.model.model_dump(mode="json"),
        inputs=tuple(describe_tensor(name, tuple(value.shape)) for name, value in model.inputs(sample).items()),
        outputs=tuple(describe_tensor(name, shape) for name, shape in outputs.items()),
        cameras=tuple(cameras),
        calibration={name: value.tolist() for name, value in model.constants.items()} or None,
        grid=config.model.grid,
        classes=config.classes,
        largest_difference=LARGEST_DIFFERENCE,
        differences=differences,
    )
