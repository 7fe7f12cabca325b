"""Measured cost of training steps; `protoocc train --plan` calculates with these rows and with no others.

A row is one measurement: it names the hardware and the commit, and what was not measured is None. To add one, train 50
steps on a machine that does nothing else, take the mean of `seconds` over the last 30 lines of `metrics.jsonl`, and the
largest `memory_gb` or the figure of `protoocc bench table3 --memory`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One measurement on one device: a GPU, or a CPU with all of its cores.

    Attributes:
        preset: key of `protoocc.presets.PRESETS`.
        hardware: short name, as `--hardware` takes it.
        device: what it is.
        precision: `precision` of the settings.
        samples: samples of a step.
        seconds: wall time of a step with its reading; None: not measured.
        memory_gb: peak memory of the device, 1e9 bytes; None: not measured.
        commit: of the code that was measured.
    """

    preset: str
    hardware: str
    device: str
    precision: str = "float32"
    samples: int = 1
    seconds: float | None = None
    memory_gb: float | None = None
    commit: str


_EPYC: Final = "2 cores of an AMD EPYC server"
_XEON: Final = "2 cores of an Intel Xeon server"
_H100: Final = "NVIDIA H100 80GB"

RATES: Final = (
    Rate(preset="demo", hardware="cpu", device=_XEON, seconds=0.67, commit="23c221d"),
    Rate(
        preset="protoocc-small",
        hardware="h100",
        device=_H100,
        precision="bfloat16",
        seconds=0.333,
        memory_gb=10.3,
        commit="0ba22f9",
    ),
    Rate(
        preset="panoocc-small",
        hardware="h100",
        device=_H100,
        precision="bfloat16",
        seconds=0.185,
        memory_gb=6.8,
        commit="0ba22f9",
    ),
    Rate(preset="protoocc-small", hardware="cpu", device=_EPYC, memory_gb=15.2, commit="4fb7688"),
    Rate(preset="protoocc-tiny", hardware="cpu", device=_EPYC, memory_gb=11.4, commit="4fb7688"),
    Rate(preset="panoocc-small", hardware="cpu", device=_EPYC, memory_gb=10.9, commit="4fb7688"),
    Rate(preset="panoocc-tiny", hardware="cpu", device=_EPYC, memory_gb=8.5, commit="4fb7688"),
    Rate(preset="bevformer-small", hardware="cpu", device=_EPYC, memory_gb=9.0, commit="4fb7688"),
)
"""All measurements, also in docs/results.md."""
