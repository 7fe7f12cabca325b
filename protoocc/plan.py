"""What a training run will cost, from measured rates: steps, hours, memory, disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from protoocc.config import TrainConfig, changed_fields
from protoocc.environment import read_environment
from protoocc.hosts import build_network
from protoocc.optimizer import count_steps
from protoocc.presets import PRESETS
from protoocc.rates import RATES, Rate
from protoocc.run_facts import RunFacts, read_run
from schemas.errors import ConfigError, did_you_mean

_CHECKPOINTS: Final = 4
"""The last two, the best one, and one that is being written."""
_STATES: Final = 3
"""A checkpoint holds the weights and two moments of AdamW for each of them."""
_LOG_BYTES: Final = 1200
"""Of a step in `metrics.jsonl` and TensorBoard."""
_LAST_STEPS: Final = 30
"""Steps of a run whose mean time counts; the first ones compile kernels and fill caches."""
_LEAST_STEPS: Final = 40


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run costs on some hardware; None where nobody measured it.

    Attributes:
        hardware: short name.
        device: what it is.
        devices: how many share each batch.
        samples: samples of a step on each of them.
        hours: wall time of all steps.
        memory_gb: of each device, measured with ``memory_samples`` samples.
        memory_samples: samples of the measured step.
        commit: of the measured code.
        is_measured: whether the measured step had as many samples, on one device; else time is calculated from it, as
            if nothing were lost to the exchange of gradients.
    """

    hardware: str
    device: str
    devices: int
    samples: int
    hours: float | None
    memory_gb: float | None
    memory_samples: int
    commit: str
    is_measured: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will need.

    Attributes:
        steps: optimiser steps.
        samples: samples of the training split.
        batch_size: samples of a step.
        parameters: of the network.
        disk_gb: checkpoints and logs, 1e9 bytes, without the shards.
        costs: one for each measured hardware.
        other_precisions: in which this network was measured on this hardware, where the settings have another one.
    """

    steps: int
    samples: int
    batch_size: int
    parameters: int
    disk_gb: float
    costs: tuple[Cost, ...]
    other_precisions: tuple[str, ...] = ()


def make_plan(
    config: TrainConfig, preset: str, samples: int, hardware: str | None = None, *, like: Path | None = None
) -> Plan:
    """Plans a run.

    Args:
        config: complete settings.
        preset: what they come from; with another network than the preset's, nothing is known of their cost.
        samples: samples of the training split.
        hardware: a name of `RATES`, such as `cpu`, or several devices, such as `8xh100`; None for all, one device each.
        like: a run whose own steps are taken as the only measurement.

    Raises:
        ConfigError: unknown hardware, a batch that its devices cannot share, or a run with another network or too few
            steps.
        DataError: files of that run are damaged.
    """
    devices, known = _read_hardware(hardware, _known_rates(config, preset, like))
    rates = [rate for rate in known if rate.precision == config.precision]
    if config.data.batch_size % devices:
        raise ConfigError(
            f"{devices} devices cannot share data.batch_size={config.data.batch_size} equally; choose a multiple"
        )
    steps = count_steps(config, samples)
    with torch.device("meta"):
        network = build_network(config.model)
    stored = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    return Plan(
        steps=steps,
        samples=samples,
        batch_size=config.data.batch_size,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        disk_gb=(_CHECKPOINTS * _STATES * stored + _LOG_BYTES * steps) / 1e9,
        costs=tuple(_cost(config, steps, devices, rate) for rate in rates),
        other_precisions=tuple(sorted({rate.precision for rate in known} - {config.precision})),
    )


def _known_rates(config: TrainConfig, preset: str, like: Path | None) -> list[Rate]:
    """Measurements of this network in any precision."""
    if like is not None:
        return [_rate_of(read_run(like), config, preset)]
    is_preset = config.model == PRESETS[preset]().model
    return [rate for rate in RATES if is_preset and rate.preset == preset]


def _rate_of(run: RunFacts, config: TrainConfig, preset: str) -> Rate:
    """The last steps of a run as a measurement."""
    planned = {"model": config.model.model_dump(mode="json"), "precision": config.precision}
    stored = {name: value for name, value in run.settings.items() if name.partition(".")[0] in planned}
    differing = changed_fields(stored, planned)
    if differing:
        raise ConfigError(
            f"--like {run.folder}: it trains another network, with {differing[0]}. Name a run of this one."
        )
    rows = run.rows[-_LAST_STEPS:]
    if len(run.rows) < _LEAST_STEPS or not all("seconds" in row for row in rows):
        raise ConfigError(
            f"--like {run.folder}: {len(run.rows)} timed steps; expected {_LEAST_STEPS}. Train it longer."
        )
    known = read_environment(run.folder)
    gpus = known.get("GPUs", "none")
    return Rate(
        preset=preset,
        hardware="own",
        device=known.get("CPU", "unknown") if gpus == "none" else gpus,
        precision=config.precision,
        samples=run.settings.get("data.batch_size", 1),
        seconds=sum(row["seconds"] for row in rows) / len(rows),
        memory_gb=max((row["memory_gb"] for row in run.rows if "memory_gb" in row), default=None),
        commit=known.get("protoocc", "unknown"),
    )


def _cost(config: TrainConfig, steps: int, devices: int, rate: Rate) -> Cost:
    share = config.data.batch_size // devices
    seconds = None if rate.seconds is None else rate.seconds * share / rate.samples
    return Cost(
        hardware=rate.hardware,
        device=rate.device,
        devices=devices,
        samples=share,
        hours=None if seconds is None else steps * seconds / 3600,
        memory_gb=rate.memory_gb,
        memory_samples=rate.samples,
        commit=rate.commit,
        is_measured=devices == 1 and share == rate.samples,
    )


def _read_hardware(hardware: str | None, rates: Sequence[Rate]) -> tuple[int, list[Rate]]:
    """Number of devices, and the measurements of one of them."""
    if hardware is None:
        return 1, list(rates)
    found = re.fullmatch(r"(?:([1-9]\d{0,3})x)?(.+)", hardware.lower())
    known = sorted({rate.hardware for rate in RATES})
    if found is None or found[2] not in known:
        near = did_you_mean(hardware, known)
        raise ConfigError(
            f"--hardware {hardware}: nothing was measured there; expected one of {', '.join(known)}, or several, such "
            f"as 8x{known[-1]}.{near} New measurements go into protoocc/rates.py"
        )
    return int(found[1] or 1), [rate for rate in rates if rate.hardware == found[2]]
