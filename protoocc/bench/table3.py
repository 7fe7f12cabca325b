"""Table 3 of the paper again: size, work and time of the view transformation of every preset, in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from protoocc.bench.clock import now
from protoocc.bench.flops import paper_flops, parameters, true_flops, view_transformation
from protoocc.bench.memory import training_memory_gb
from protoocc.hosts import build_network
from protoocc.model import QueryNetwork
from protoocc.model.backbone import padded_size
from protoocc.model.projection import HitQueries
from protoocc.presets import PRESETS
from schemas.errors import ConfigError
from schemas.settings import Frozen


class Published(NamedTuple):
    """One row of the paper's Table 3."""

    milliseconds: float
    gflops: float
    params_m: float


class Case(NamedTuple):
    """A preset at an image size (H, W) in pixels."""

    preset: str
    image_size: tuple[int, int]
    published: Published | None = None


BASE: Final = Published(266, 1310, 46.24)
_SIZE: Final = (432, 800)
CASES: Final = (
    Case("panoocc-base", _SIZE, BASE),
    Case("panoocc-base", (864, 1600), BASE),
    Case("panoocc-small", _SIZE, Published(66, 330, 15.52)),
    Case("panoocc-small-dfa3d", _SIZE, Published(153, 360, 22.33)),
    Case("protoocc-small", _SIZE, Published(105, 378, 16.11)),
    Case("protoocc-base", _SIZE),
    Case("protoocc-tiny", _SIZE),
    Case("panoocc-tiny", _SIZE),
    Case("bevformer-base", _SIZE),
    Case("bevformer-small", _SIZE),
    Case("bevformer-tiny", _SIZE),
)
"""The first is what times are compared with. The paper's text says that all images are 432 x 800, but its 1310 GFLOPs
hold for 864 x 1600 only: both are measured."""


@dataclass(frozen=True)
class Rig:
    """Calibration of one keyframe.

    Attributes:
        source: where it comes from, for the table.
        image_size: (H, W) pixels.
        image_from_camera: intrinsics, pixels.
        camera_from_ego: ego frame to camera, metres.
    """

    source: str
    image_size: tuple[int, int]
    image_from_camera: Float[Tensor, "V 3 3"]
    camera_from_ego: Float[Tensor, "V 4 4"]

    def resized(self, image_size: tuple[int, int]) -> Float[Tensor, "V 3 3"]:
        """Intrinsics of the same cameras with another number of pixels.

        Raises:
            ConfigError: the new size has another aspect.
        """
        scale = image_size[1] / self.image_size[1]
        if self.image_size[0] * scale != image_size[0]:
            raise ConfigError(f"{self.source} has images of {self.image_size}, which do not scale to {image_size}")
        return self.image_from_camera * torch.tensor([scale, scale, 1.0])[:, None]


class Table3Row(Frozen):
    """Measured figures of one network beside the published ones."""

    model: str = Field(description="Preset.")
    image_size: tuple[int, int] = Field(description="(H, W) pixels.")
    hits: tuple[int, ...] = Field(description="Hit queries of each camera.")
    params_m: float = Field(description="Million parameters of the view transformation.")
    gflops_paper: float = Field(description="GFLOPs as the paper counts them, one frame.")
    gflops_true: float = Field(description="GFLOPs by torch's flop counter, one frame with temporal fusion.")
    seconds: float = Field(description="Shortest time of one frame, without gradients.")
    ratio: float = Field(description="Time over that of the first row.")
    train_gb: float | None = Field(
        None, description="Peak memory of one training step, GB; null where not measured or too much for the machine."
    )
    recompute_gb: float | None = Field(
        None, description="The same with model.recompute; measured where the plain step needs too much."
    )
    published: Published | None = Field(description="Milliseconds, GFLOPs and million parameters in the paper.")


class Table3(Frozen):
    """All rows and what they were measured on."""

    calibration: str = Field(description="Where the cameras come from.")
    device: str = Field(description="Processor and number of threads.")
    rounds: int = Field(description="Interleaved rounds; each row keeps its shortest.")
    rows: tuple[Table3Row, ...] = Field(description="In the order of the paper's table.")


@dataclass(frozen=True)
class _Network:
    """A network with everything that one frame needs."""

    case: Case
    model: QueryNetwork
    features: list[Tensor]
    hits: HitQueries
    past: list[Tensor]

    def seconds(self) -> float:
        """Time of one frame."""
        device = self.hits.row.device
        start = now(device)
        view_transformation(self.model, self.features, self.hits, self.past)
        return now(device) - start


def measure_table3(
    rig: Rig,
    device: torch.device,
    *,
    presets: Sequence[str] | None = None,
    rounds: int = 3,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Table3:
    """Builds every network, counts its live modules and times it.

    Image features are random: neither work nor time depends on them. Sampling points are those of an untrained network.

    Args:
        rig: cameras, for the hit queries.
        device: where to compute.
        presets: names out of `CASES`; all by default. The first row is always measured.
        rounds: interleaved rounds of timing, after one run that counts.
        on_progress: called with finished and total runs.

    Raises:
        ConfigError: unknown preset, or a rig whose images do not scale to 432 x 800.
    """
    known = sorted({case.preset for case in CASES})
    unknown = sorted(set(presets or ()) - set(known))
    if unknown:
        raise ConfigError(f"no row {', '.join(unknown)}; known: {', '.join(known)}")
    cases = [case for number, case in enumerate(CASES) if number == 0 or presets is None or case.preset in presets]
    networks = [_build(case, rig, device) for case in cases]
    counted = []
    for done, network in enumerate(networks, start=1):
        counted.append(_count(network))
        on_progress(done, len(cases) * (rounds + 1))
    times: list[list[float]] = [[] for _ in cases]
    for turn in range(rounds):
        for number, network in enumerate(networks):
            times[number].append(network.seconds())
            on_progress(len(cases) * (turn + 1) + number + 1, len(cases) * (rounds + 1))
    rows = tuple(
        Table3Row(
            model=network.case.preset,
            image_size=network.case.image_size,
            published=network.case.published,
            hits=tuple(network.hits.counts),
            seconds=min(times[number]),
            ratio=min(times[number]) / min(times[0]),
            **counted[number],
        )
        for number, network in enumerate(networks)
    )
    return Table3(calibration=rig.source, device=device_name(device), rounds=rounds, rows=rows)


def _build(case: Case, rig: Rig, device: torch.device) -> _Network:
    torch.manual_seed(0)
    model = build_network(PRESETS[case.preset]().model)
    if not isinstance(model, QueryNetwork):
        raise ConfigError(f"{case.preset} has no view transformation of voxel queries; table 3 cannot measure it")
    config, model = model.config, model.to(device).eval().requires_grad_(False)
    hits = model.find_hits(
        case.image_size, rig.resized(case.image_size)[None].to(device), rig.camera_from_ego[None].to(device)
    )
    height, width = padded_size(*case.image_size)
    shapes = [(-(-height // stride), -(-width // stride)) for stride in config.strides]
    features = [torch.randn(len(rig.camera_from_ego), config.channels, *shape, device=device) for shape in shapes]
    states = config.frames - 1 if model.temporal_fusion is not None else 1
    past = [torch.randn(1, *config.query_shape, config.channels, device=device) for _ in range(states)]
    return _Network(case, model, features, hits, past)


def _count(network: _Network) -> dict[str, float]:
    model, features, hits = network.model, network.features, network.hits
    return {
        "params_m": parameters(model) / 1e6,
        "gflops_paper": paper_flops(model, features, hits) / 1e9,
        "gflops_true": true_flops(model, features, hits, network.past) / 1e9,
    }


def device_name(device: torch.device) -> str:
    """What computes, for tables: the GPU, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def with_memory(table: Table3, rig: Rig, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Table3:
    """The same table with the peak memory of a training step in each row."""
    rows = []
    for done, row in enumerate(table.rows, start=1):
        calibration = (rig.resized(row.image_size), rig.camera_from_ego)
        peak = training_memory_gb(row.model, calibration, row.image_size)
        again = None if peak else training_memory_gb(row.model, calibration, row.image_size, recompute=True)
        rows.append(row.model_copy(update={"train_gb": peak, "recompute_gb": again}))
        on_progress(done, len(table.rows))
    return table.model_copy(update={"rows": tuple(rows)})
