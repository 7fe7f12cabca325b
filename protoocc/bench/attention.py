"""Deformable attention: every implementation against the padded way of the peers, forward and backward, in one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from protoocc.bench.clock import now
from protoocc.bench.sampling import (
    Inputs,
    Prepared,
    as_given,
    image_inputs,
    padded,
    padded_attention,
    padded_bytes,
    two_queues,
    voxel_inputs,
)
from protoocc.bench.table3 import Rig, device_name
from protoocc.model.backbone import padded_size
from protoocc.model.deformable import Implementation, deformable_attention, fastest
from protoocc.model.presets import panoocc_base, panoocc_small, panoocc_tiny
from protoocc.model.projection import find_hits, query_centers
from schemas.settings import Frozen

Size = Literal["tiny", "small", "base"]
PANOOCC: Final = {"tiny": panoocc_tiny, "small": panoocc_small, "base": panoocc_base}
PEERS: Final = "padded"
PEERS_FORM: Final = {"image": padded, "voxel": two_queues}
IMAGE_SIZE: Final = (432, 800)
CHECKED: Final = (2, 16)
"""Differences are taken on every sixteenth row of the first two maps, because the reference is slow."""

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class AttentionRow(Frozen):
    """One implementation in one dtype on one of the two attentions."""

    attention: str = Field(description="image: hit queries and image features; voxel: voxel queries and their slice.")
    dtype: str = Field(description="How values are stored.")
    implementation: str = Field(description="Name in `deformable_attention`, or padded: the peers' way.")
    forward_s: float = Field(description="Shortest forward, seconds, as in training.")
    backward_s: float = Field(description="Shortest backward: gradients of values, locations and weights, seconds.")
    forward_speedup: float | None = Field(description="Forward time of the peers' way over this one.")
    backward_speedup: float | None = Field(description="Backward time of the peers' way over this one.")
    difference: float = Field(description="Largest difference of a result from the float64 reference.")
    gradient_difference: float = Field(
        description="The same for gradients of values and weights, over the largest gradient. Those of locations jump "
        "at cell edges, so that a rounding decides them there."
    )
    copy_limit_s: float = Field(description="Time to copy as many bytes as the forward must read and write, seconds.")


class AttentionBench(Frozen):
    """All rows and what they were measured on."""

    size: Size = Field(description="Voxel queries of PanoOcc's preset of this name.")
    device: str = Field(description="Processor and number of threads.")
    calibration: str = Field(description="Where the cameras come from.")
    hits: tuple[int, ...] = Field(description="Hit queries of each camera.")
    rounds: int = Field(description="Interleaved rounds; each row keeps its shortest.")
    left_out: tuple[str, ...] = Field(description="What does not fit into the free memory.")
    rows: tuple[AttentionRow, ...] = Field(description="Image attention first; the peers' way before ours.")


@dataclass(frozen=True)
class _Way:
    """An implementation: how it wants its inputs, which costs no measured time, and what it does with them."""

    name: str
    prepare: Callable[[Inputs], Prepared]
    attend: Callable[[Inputs], Tensor]


@dataclass
class _Run:
    """One row in the making, with the shortest times so far."""

    attention: str
    dtype: str
    way: _Way
    case: Inputs
    forward_s: float = float("inf")
    backward_s: float = float("inf")

    def measure(self) -> None:
        """One round; keeps the shortest times."""
        leaves, inputs = _with_gradients(self.way.prepare(self.case)[0])
        device = inputs.value.device
        start = now(device)
        out = self.way.attend(inputs)
        middle = now(device)
        torch.autograd.grad(out, leaves, inputs.grad_out)
        end = now(device)
        self.forward_s, self.backward_s = min(self.forward_s, middle - start), min(self.backward_s, end - middle)


def _differences(runs: Sequence[_Run]) -> list[tuple[float, float]]:
    """From the float64 reference: of results, and of gradients over the largest gradient."""
    exact: dict[tuple[str, str], list[Tensor]] = {}
    differences = []
    for run in runs:
        few = run.case.part(*CHECKED)
        case = (run.attention, run.dtype)
        if case not in exact:
            exact[case] = _results(_ours("reference"), few.to(few.value.device, torch.float64))
        found = zip(_results(run.way, few), exact[case], strict=True)
        off = [(one.double() - other).abs().max().item() for one, other in found]
        differences.append((off[0], max(off[i] / exact[case][i].abs().max().item() for i in (1, 2))))
    return differences


def _results(way: _Way, inputs: Inputs) -> list[Tensor]:
    """Result, and gradients of values and weights."""
    leaves, inputs = _with_gradients(inputs)
    prepared, restore = way.prepare(inputs)
    out = restore(way.attend(prepared))
    return [out.detach(), *torch.autograd.grad(out, (leaves[0], leaves[2]), inputs.grad_out)]


def _with_gradients(inputs: Inputs) -> tuple[list[Tensor], Inputs]:
    """The same inputs as leaves of a graph: value, locations, weights."""
    leaves = [t.detach().requires_grad_() for t in (inputs.value, inputs.locations, inputs.weights)]
    return leaves, replace(inputs, value=leaves[0], locations=leaves[1], weights=leaves[2])


def _ours(name: Implementation) -> _Way:
    """One of `deformable_attention`."""

    def attend(x: Inputs) -> Tensor:
        return deformable_attention(x.value, x.sizes, x.locations, x.weights, x.counts, implementation=name)

    return _Way(name, as_given, attend)


def measure_attention(
    rig: Rig,
    device: torch.device,
    *,
    size: Size = "small",
    rounds: int = 3,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> AttentionBench:
    """Times the attentions of one encoder layer of PanoOcc at a preset's size, on the padded image of 448 x 800.

    Points lie where a layer looks: around the projected voxel centres of the rig, respectively around each voxel, at
    the offsets of an untrained layer plus noise of one cell. Values, weights and gradients are random.

    Args:
        rig: cameras, for the hit queries.
        device: where to compute.
        size: preset.
        rounds: interleaved rounds, after the differences have been taken, which warms up.
        on_progress: called with finished and total runs.
    """
    config = PANOOCC[size]()
    shape = padded_size(*IMAGE_SIZE)
    hits = find_hits(
        query_centers(config.grid, config.query_shape).reshape(-1, 1, 3),
        rig.camera_from_ego[None],
        rig.resized(IMAGE_SIZE)[None],
        image_size=IMAGE_SIZE,
        padded_size=shape,
    )
    cases = {"image": image_inputs(config, hits, shape), "voxel": voxel_inputs(config)}
    runs, left_out = _plan(cases, device)
    differences = _differences(runs)
    for turn in range(rounds):
        for number, run in enumerate(runs):
            run.measure()
            on_progress(turn * len(runs) + number + 1, rounds * len(runs))
    return AttentionBench(
        size=size,
        device=device_name(device),
        calibration=rig.source,
        hits=tuple(hits.counts),
        rounds=rounds,
        left_out=tuple(left_out),
        rows=_rows(runs, differences, copied_bytes_per_s(device)),
    )


def _plan(cases: dict[str, Inputs], device: torch.device) -> tuple[list[_Run], list[str]]:
    """What to run on a device, the peers' way first, and what its memory does not hold."""
    runs, left_out = [], []
    for attention, given in cases.items():
        for dtype in DTYPES if device.type == "cuda" else ("float32",):
            case = given.to(device, DTYPES[dtype])
            ways = [_Way(PEERS, PEERS_FORM[attention], padded_attention), _ours("torch"), _ours(fastest(case.value))]
            need = padded_bytes(PEERS_FORM[attention](case)[0])
            if need > _free_bytes(device):
                left_out.append(f"{PEERS} grid_sample, {attention} attention, {dtype}: needs {need / 1e9:.0f} GB")
                ways = ways[1:]
            runs += [_Run(attention, dtype, way, case) for way in {way.name: way for way in ways}.values()]
    return runs, left_out


def _rows(
    runs: Sequence[_Run], differences: Sequence[tuple[float, float]], bytes_per_s: float
) -> tuple[AttentionRow, ...]:
    peers = {(run.attention, run.dtype): run for run in runs if run.way.name == PEERS}
    rows = []
    for run, (difference, gradient_difference) in zip(runs, differences, strict=True):
        other = peers.get((run.attention, run.dtype))
        rows.append(
            AttentionRow(
                attention=run.attention,
                dtype=run.dtype,
                implementation=run.way.name,
                forward_s=run.forward_s,
                backward_s=run.backward_s,
                forward_speedup=other.forward_s / run.forward_s if other else None,
                backward_speedup=other.backward_s / run.backward_s if other else None,
                difference=difference,
                gradient_difference=gradient_difference,
                copy_limit_s=_forward_bytes(run.case) / bytes_per_s,
            )
        )
    return tuple(rows)


def _forward_bytes(inputs: Inputs) -> int:
    """Everything read once and the result written once."""
    tensors = (inputs.value, inputs.locations, inputs.weights, inputs.grad_out)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def copied_bytes_per_s(device: torch.device) -> float:
    """Bytes read and written in a second by the fastest of five copies of 256 MB."""
    source = torch.zeros(1 << 26, device=device)
    target, shortest = torch.empty_like(source), float("inf")
    for _ in range(5):
        start = now(device)
        target.copy_(source)
        shortest = min(shortest, now(device) - start)
    return 2 * source.numel() * source.element_size() / shortest


def _free_bytes(device: torch.device) -> int:
    """Free memory of the GPU or of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
