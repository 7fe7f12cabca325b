"""What a run says and keeps when a step fails: the batch of a loss that is not finite, the switch that saves memory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from protoocc.batch import Batch, stack_batches
from protoocc.config import TrainConfig
from protoocc.ranks import Ranks
from schemas.errors import StageError, disk_errors
from schemas.files import write_bytes

BROKEN: Final = "broken"
"""Folder of a run for batches whose loss or gradient was not finite."""
_NO_MEMORY: Final = ("allocate memory", "out of memory", "not enough memory")


def store_batches(out: Path, step: int, parts: Sequence[Batch], rank: int) -> Path:
    """Keeps the samples of a failed step as `broken/step-NNNNNN.safetensors`; processes but the first add their number.

    Args:
        out: run folder.
        step: number of the step.
        parts: what was computed.
        rank: number of this process.

    Raises:
        DataError: the folder cannot be written.
    """
    batch = stack_batches([dataclasses.replace(part.to("cpu"), seeds=None) for part in parts])
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    tensors = {name: value.contiguous() for name, value in fields.items() if isinstance(value, Tensor)}
    path = out / BROKEN / (f"step-{step:06d}" + (f"-process-{rank}" if rank else "") + ".safetensors")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(tensors, metadata={"tokens": json.dumps(batch.tokens)}))
    return path


def read_batch(path: Path) -> Batch:
    """A batch that `store_batches` kept, to look at it or to compute its loss again."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        return Batch(tokens=json.loads(file.metadata()["tokens"]), **tensors)


def describe_broken(step: int, names: Sequence[str], tokens: Sequence[str], files: Sequence[Path]) -> str:
    """The message of a step that is not finite.

    Args:
        step: number of the step.
        names: losses that are not finite.
        tokens: samples of all parts that broke it.
        files: where they are kept.
    """
    return (
        f"step {step}: {', '.join(names)} not finite with samples {', '.join(tokens)}. Check their calibration and "
        "labels, or lower optimizer.lr; the checkpoints so far are whole. The batch is kept in "
        f"{', '.join(map(str, files))}."
    )


@contextmanager
def memory_errors(config: TrainConfig, step: int, ranks: Ranks) -> Iterator[None]:
    """Turns missing memory into the switches that help this run.

    Raises:
        StageError: neither the GPU nor the machine has memory left.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_short and not any(words in str(error) for words in _NO_MEMORY):
            raise
        switches = "\n".join(f"  --set {switch}" for switch in memory_switches(config, ranks.size))
        raise StageError(
            f"step {step}: no memory left for {config.data.batch_size // ranks.size // config.data.accumulate} samples "
            f"at once. What helps, the mildest first:\n{switches}\nThe last ones change what is learned; a run that "
            "has begun keeps its settings but model.recompute, so choose another run folder for them."
        ) from error


def memory_switches(config: TrainConfig, processes: int) -> list[str]:
    """Settings that make a step need less memory, each with what it costs; only those that still do something."""
    share, parts = config.data.batch_size // processes, config.data.accumulate
    switches = []
    if getattr(config.model, "recompute", True) is False:
        switches.append("model.recompute=true  (same numbers, a third more time)")
    if parts < share:
        more = next(number for number in range(parts + 1, share + 1) if share % number == 0)
        switches.append(f"data.accumulate={more}  (same gradients where no batch norm learns, more time)")
    if config.precision == "float32":
        switches.append("precision=bfloat16  (about half the memory of activations)")
    if config.loss.supervised_voxels is None:
        switches.append("loss.supervised_voxels=50000  (voxels of a sample that the losses see)")
    if config.data.batch_size > processes:
        switches.append(f"data.batch_size={processes * max(share // 2, 1)}")
    return switches or ["a smaller network or grid: nothing else is left to switch"]
