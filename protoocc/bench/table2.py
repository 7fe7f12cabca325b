"""Table 2 of the paper: size, work and time of its hosts on SemanticKITTI, and what the paper's parts add to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from protoocc.batch import Batch
from protoocc.bench.clock import now
from protoocc.bench.table3 import device_name
from protoocc.hosts import build_network
from protoocc.network import Network
from protoocc.presets import PRESETS
from schemas.errors import ConfigError
from schemas.settings import Frozen


class Scores(NamedTuple):
    """What the paper prints for a network, percent, on the validation split."""

    iou: float
    miou: float


class Case(NamedTuple):
    """One row: a preset, the preset that it adds the paper's parts to, and the printed scores."""

    preset: str
    host: str | None = None
    published: Scores | None = None
    public_parameters: int | None = None
    """Of the public configuration at this size, counted module by module (docs/networks.md)."""


CASES: Final = (
    Case("voxformer-small", None, Scores(43.10, 11.51)),
    Case("voxformer-small-protoocc", "voxformer-small", Scores(43.55, 12.39)),
    Case("voxformer-base", None, Scores(44.02, 12.35), 58_179_988),
    Case("voxformer-base-protoocc", "voxformer-base", Scores(44.90, 13.57)),
    Case("symphonies-small", None, Scores(41.67, 13.64)),
    Case("symphonies-small-protoocc", "symphonies-small", Scores(43.02, 14.50)),
    Case("symphonies-base", None, Scores(41.85, 14.38)),
    Case("symphonies-base-protoocc", "symphonies-base", Scores(42.12, 14.83)),
)
"""In the order of the paper's table. A further network is a further line."""

_IMAGE_SIZE: Final = (370, 1220)
_FOCAL_PX, _MIDDLE_PX = 707.1, (601.9, 183.1)
_CAMERA_FROM_EGO: Final = (
    (0.0, -1.0, 0.0, 0.06),
    (0.0, 0.0, -1.0, -0.08),
    (1.0, 0.0, 0.0, -0.27),
    (0.0, 0.0, 0.0, 1.0),
)
_ROAD_M, _FACADES_M, _END_M = 1.65, 9.0, 50.0
"""A street for networks that read depth: how far its road lies below the camera, its facades beside, its end ahead."""


class Table2Row(Frozen):
    """Measured figures of one network beside the published scores."""

    model: str = Field(description="Preset.")
    params_m: float = Field(description="Million parameters of the whole network.")
    public_params_m: float | None = Field(description="Those of the public configuration; null: none of this size.")
    gflops: float = Field(description="GFLOPs of one prediction by torch's flop counter.")
    added_params_m: float | None = Field(description="Million parameters more than the host without the paper's parts.")
    added_gflops: float | None = Field(description="GFLOPs more than that host.")
    milliseconds: float | None = Field(description="Shortest time of one prediction; null where not timed.")
    published: Scores | None = Field(description="IoU and mIoU in the paper, percent.")


class Table2(Frozen):
    """All rows and what they were measured on."""

    device: str = Field(description="Processor and number of threads.")
    rounds: int = Field(description="Interleaved rounds; each row keeps its shortest.")
    rows: tuple[Table2Row, ...] = Field(description="In the order of the paper's table.")


def measure_table2(
    device: torch.device,
    *,
    presets: Sequence[str] | None = None,
    rounds: int = 3,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Table2:
    """Builds every network with random weights, counts it and times its predictions on one generated street.

    Args:
        device: where to compute.
        presets: names out of `CASES`; all by default. Hosts of chosen rows are measured as well.
        rounds: interleaved rounds of timing, after one prediction that counts; 0 times nothing.
        on_progress: called with finished and total predictions.

    Raises:
        ConfigError: unknown preset.
    """
    cases = choose_cases(presets)
    batch = street().to(device)
    networks = [_build(case.preset, device) for case in cases]
    total, gflops = len(cases) * (rounds + 1), []
    for done, network in enumerate(networks, start=1):
        gflops.append(predict_flops(network, batch) / 1e9)
        on_progress(done, total)
    times: list[list[float]] = [[] for _ in cases]
    for turn in range(rounds):
        for number, network in enumerate(networks):
            start = now(device)
            network.predict(batch)
            times[number].append(now(device) - start)
            on_progress(len(cases) * (turn + 1) + number + 1, total)
    sizes = [sum(parameter.numel() for parameter in network.parameters()) / 1e6 for network in networks]
    place = {case.preset: number for number, case in enumerate(cases)}
    rows = []
    for number, case in enumerate(cases):
        host = None if case.host is None else place[case.host]
        row = Table2Row(
            model=case.preset,
            params_m=sizes[number],
            public_params_m=None if case.public_parameters is None else case.public_parameters / 1e6,
            gflops=gflops[number],
            added_params_m=None if host is None else sizes[number] - sizes[host],
            added_gflops=None if host is None else gflops[number] - gflops[host],
            milliseconds=1e3 * min(times[number]) if times[number] else None,
            published=case.published,
        )
        rows.append(row)
    return Table2(device=device_name(device), rounds=rounds, rows=tuple(rows))


def choose_cases(presets: Sequence[str] | None) -> list[Case]:
    """Rows of these presets and of their hosts, in the order of the table; all for None.

    Raises:
        ConfigError: unknown preset.
    """
    known = {case.preset: case for case in CASES}
    unknown = sorted(set(presets or ()) - set(known))
    if unknown:
        raise ConfigError(f"no row {', '.join(unknown)}; known: {', '.join(known)}")
    wanted = set(known if presets is None else presets)
    wanted |= {host for name in wanted if (host := known[name].host) is not None}
    return [case for case in CASES if case.preset in wanted]


def street() -> Batch:
    """One image of SemanticKITTI's size and camera, with the exact depth of a street that its cells look at."""
    height, width = _IMAGE_SIZE
    return Batch(
        images=torch.zeros(1, 1, 3, height, width, dtype=torch.uint8),
        image_from_camera=torch.tensor([[_FOCAL_PX, 0.0, _MIDDLE_PX[0]], [0.0, _FOCAL_PX, _MIDDLE_PX[1]], [0, 0, 1]])[
            None, None
        ],
        camera_from_ego=torch.tensor(_CAMERA_FROM_EGO)[None, None],
        tokens=["street"],
        input_depth_m=_street_depth()[None, None],
    )


def _street_depth() -> Float[Tensor, "H W"]:
    """Depth of the road, the facades or the end of the street, whichever is nearest on the ray of a pixel."""
    height, width = _IMAGE_SIZE
    down = (torch.arange(height) + 0.5 - _MIDDLE_PX[1]) / _FOCAL_PX
    aside = (torch.arange(width) + 0.5 - _MIDDLE_PX[0]).abs() / _FOCAL_PX
    road = torch.where(down > 0, _ROAD_M / down.clamp_min(1e-6), torch.inf)[:, None]
    return torch.minimum(road, _FACADES_M / aside.clamp_min(1e-6)).clamp_max(_END_M)


def predict_flops(network: Network, batch: Batch) -> float:
    """Floating-point operations of one prediction: matrix products, convolutions and deformable sampling."""
    with FlopCounterMode(display=False) as counter:
        network.predict(batch)
    return float(counter.get_total_flops())


def _build(preset: str, device: torch.device) -> Network:
    torch.manual_seed(0)
    return build_network(PRESETS[preset]().model).to(device).eval().requires_grad_(False)
