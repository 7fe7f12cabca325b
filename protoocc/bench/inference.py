"""Time and memory of one prediction by part of the network: images, view transformation, decoding; all ways in one run.

Every network reads one frame (`model.frames=1`), so that all ways do the same work. Weights and images are random:
neither time nor memory depends on them, sampling points are those of an untrained network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor

from protoocc.batch import Batch
from protoocc.bench.clock import now
from protoocc.bench.table3 import Rig, device_name
from protoocc.export import open_session, write_graph
from protoocc.export_graph import ExportedNetwork
from protoocc.hosts import build_network
from protoocc.model import ProtoOcc
from protoocc.model.query_network import Scene
from protoocc.presets import PRESETS
from schemas.errors import ConfigError, ProtoOccError, did_you_mean
from schemas.settings import Frozen, override

Way = Literal["eager", "compiled", "onnxruntime"]
Dtype = Literal["float32", "bfloat16"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)
MODELS: Final = ("panoocc-base", "panoocc-small", "protoocc-small")
"""The first one is what times are compared with."""
PARTS: Final = ("images", "view", "decoding")
WHOLE: Final = "whole"
ASPECT: Final = (432, 800)


class InferenceChoice(Frozen):
    """What is measured."""

    models: tuple[str, ...] = Field(MODELS, min_length=1, description="Presets.")
    ways: tuple[Way, ...] = Field(WAYS, min_length=1, description="How they are computed.")
    dtypes: tuple[Dtype, ...] = Field(DTYPES, min_length=1, description="Arithmetic; onnxruntime has float32 alone.")
    width: int = Field(ASPECT[1], ge=50, description="Of the images, pixels; the height is 0.54 of it.")
    rounds: int = Field(3, ge=1, description="Interleaved rounds, after one that warms up.")


class InferenceRow(Frozen):
    """One network computed in one way."""

    model: str = Field(description="Preset.")
    way: Way = Field(description="eager PyTorch, torch.compile of each part, or onnxruntime.")
    dtype: Dtype = Field(description="float32, or bfloat16 by autocast.")
    part_ms: dict[str, float] = Field(description="Shortest time of each part, ms; onnxruntime knows the whole only.")
    part_mb: dict[str, float | None] = Field(
        description="Most memory that a part takes beyond what was there before it, MB; null where it cannot be seen."
    )
    total_ms: float = Field(description="Sum of the parts.")
    ratio: float = Field(description="Time over that of the first row.")
    weights_mb: float = Field(description="Size of the weights.")


class InferenceBench(Frozen):
    """All rows and what they were measured on."""

    device: str = Field(description="Processor and number of threads.")
    calibration: str = Field(description="Where the cameras come from.")
    image_size: tuple[int, int] = Field(description="(H, W) pixels of each image.")
    rounds: int = Field(description="Interleaved rounds after a warm-up; each figure keeps its shortest.")
    left_out: tuple[str, ...] = Field(description="What could not be run here, and why.")
    rows: tuple[InferenceRow, ...] = Field(description="Model by model, each in all its ways.")


@dataclass
class _Run:
    """One row in the making."""

    model: str
    way: Way
    dtype: Dtype
    parts: dict[str, Callable[[], object]]
    weights_mb: float
    context: Callable[[], AbstractContextManager[object]]
    best_s: dict[str, float] = field(default_factory=dict)
    most_mb: dict[str, float | None] = field(default_factory=dict)

    def measure(self, device: torch.device) -> None:
        """One round; keeps the shortest times and the most memory."""
        with torch.no_grad(), self.context():
            for name, part in self.parts.items():
                before = _reset_peak(device)
                start = now(device)
                part()
                seconds = now(device) - start
                peak = _peak_mb(device)
                used = None if before is None or peak is None else max(peak - before, 0.0)
                self.best_s[name] = min(self.best_s.get(name, seconds), seconds)
                known = self.most_mb.get(name)
                self.most_mb[name] = used if known is None or used is None else max(known, used)


class _Frame:
    """The parts of one network on one frame; each reads what the one before left."""

    def __init__(self, preset: str, rig: Rig, image_size: tuple[int, int], device: torch.device) -> None:
        torch.manual_seed(0)
        config = override(PRESETS[preset](), ["model.frames=1"]).model
        model = build_network(config)
        if not isinstance(model, ProtoOcc):
            raise ConfigError(f"{preset} has no view transformation of voxel queries to measure")
        self.model = model.to(device).eval().requires_grad_(False)
        cameras = len(rig.camera_from_ego)
        self.batch = Batch(
            images=torch.randint(0, 256, (1, cameras, 3, *image_size), dtype=torch.uint8),
            image_from_camera=rig.resized(image_size)[None],
            camera_from_ego=rig.camera_from_ego[None],
            tokens=["random"],
        ).to(device)
        self.features: list[Tensor] = []
        self.scene: Scene | None = None

    def parts(
        self, compiled: Callable[[Callable[..., object]], Callable[..., object]]
    ) -> dict[str, Callable[[], object]]:
        """The parts in their order, each through ``compiled``."""
        model, batch = self.model, self.batch
        height, width = batch.images.shape[-2:]
        images = compiled(lambda given: model.image_features(given))
        view = compiled(lambda features, hits: model.see(features, hits, 1))
        decode = compiled(lambda scene: model.decode(batch, scene)[0].argmax(-1).to(torch.uint8))

        def run_images() -> None:
            self.features = images(batch.images.flatten(0, 1))  # type: ignore[assignment]

        def run_view() -> None:
            hits = model.find_hits((height, width), batch.image_from_camera, batch.camera_from_ego)
            self.scene = view(self.features, hits)  # type: ignore[assignment]

        return {"images": run_images, "view": run_view, "decoding": lambda: decode(self.scene)}

    def session(self, folder: Path) -> Callable[[], object]:
        """A call of the exported network in onnxruntime."""
        exported = ExportedNetwork(self.model, self.batch, has_calibration=False).eval()
        path = folder / "network.onnx"
        with torch.no_grad(), exported.own_hits():
            write_graph(exported, exported.inputs(self.batch), path)
        session = open_session(path)
        inputs = {name: value.cpu().numpy() for name, value in exported.inputs(self.batch).items()}
        return lambda: session.run(["semantics"], inputs)


def measure_inference(
    rig: Rig,
    device: torch.device,
    choice: InferenceChoice,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> InferenceBench:
    """Times one prediction of every network in every way.

    Args:
        rig: cameras.
        device: where to compute; onnxruntime computes on the CPU.
        choice: what to measure.
        on_progress: called with finished and total runs; the first of each warms up.

    Raises:
        ConfigError: unknown preset or a width without a whole height.
    """
    unknown = [name for name in choice.models if name not in PRESETS]
    if unknown:
        raise ConfigError(f"no preset {unknown[0]}; known: {', '.join(PRESETS)}.{did_you_mean(unknown[0], PRESETS)}")
    width, rounds = choice.width, choice.rounds
    if width % 50:
        raise ConfigError(f"--width {width}: a multiple of 50 is needed, so that images have the shape of 432 x 800")
    image_size = (width * ASPECT[0] // ASPECT[1], width)
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="protoocc-bench-") as folder:
        planned = [
            run
            for number, name in enumerate(choice.models)
            for run in _plan(_Frame(name, rig, image_size, device), name, choice, Path(folder) / str(number))
        ]
        runs = []
        for done, run in enumerate(planned, start=1):
            if _warms_up(run, device, left_out):
                runs.append(run)
            on_progress(done, len(planned) + rounds * (len(planned) - len(left_out)))
        for turn in range(rounds):
            for number, run in enumerate(runs, start=1):
                run.measure(device)
                on_progress(len(planned) + turn * len(runs) + number, len(planned) + rounds * len(runs))
    rows = tuple(_row(run, runs[0]) for run in runs)
    return InferenceBench(
        device=device_name(device),
        calibration=rig.source,
        image_size=image_size,
        rounds=rounds,
        left_out=tuple(left_out),
        rows=rows,
    )


def _plan(frame: _Frame, name: str, choice: InferenceChoice, folder: Path) -> list[_Run]:
    """All ways of one network; nothing is compiled or exported before it is first run."""
    device = frame.batch.images.device
    weights_mb = sum(p.numel() * p.element_size() for p in frame.model.parameters()) / 1e6
    runs = []
    for way in choice.ways:
        for dtype in choice.dtypes if way != "onnxruntime" else ("float32",):
            is_half = dtype == "bfloat16"
            context = lambda is_half=is_half: torch.autocast(device.type, torch.bfloat16, enabled=is_half)  # noqa: E731
            if way == "onnxruntime":
                parts = {WHOLE: _when_first_called(lambda: _exported(frame, folder))}
            else:
                parts = frame.parts(torch.compile if way == "compiled" else lambda part: part)
            runs.append(_Run(name, way, dtype, parts, weights_mb, context))
    return runs


def _exported(frame: _Frame, folder: Path) -> Callable[[], object]:
    folder.mkdir(parents=True)
    return frame.session(folder)


def _when_first_called(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    made: list[Callable[[], object]] = []

    def call() -> object:
        if not made:
            made.append(make())
        return made[0]()

    return call


def _warms_up(run: _Run, device: torch.device, left_out: list[str]) -> bool:
    """Runs everything once; says why where that fails."""
    try:
        run.measure(device)
    except (ProtoOccError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        left_out.append(f"{run.model}, {run.way}, {run.dtype}: {reason}")
        return False
    run.best_s.clear()
    run.most_mb.clear()
    return True


def _row(run: _Run, first: _Run) -> InferenceRow:
    return InferenceRow(
        model=run.model,
        way=run.way,
        dtype=run.dtype,
        part_ms={name: 1000 * seconds for name, seconds in run.best_s.items()},
        part_mb=run.most_mb,
        total_ms=1000 * sum(run.best_s.values()),
        ratio=sum(run.best_s.values()) / sum(first.best_s.values()),
        weights_mb=run.weights_mb,
    )


_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def _reset_peak(device: torch.device) -> float | None:
    """Forgets the peak of memory so far; memory in use now, MB, None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 1e6
    try:
        _CLEAR.write_text("5")
    except OSError:
        return None
    return _status_mb("VmRSS")


def _peak_mb(device: torch.device) -> float | None:
    """Most memory since `_reset_peak`."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else _status_mb("VmHWM")


def _status_mb(name: str) -> float | None:
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith(f"{name}:")), None)
