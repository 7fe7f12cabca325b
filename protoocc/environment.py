"""Where a run computes: code, libraries and device, for its report."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import torch

from schemas.files import write_bytes
from schemas.outside import Source, parse_json, read_bytes
from schemas.outside.limits import JSON_BYTES
from schemas.runs import ENVIRONMENT
from schemas.version import code_version


def write_environment(out: Path) -> None:
    """Stores what this process runs on in a run folder, in place of what an earlier start stored.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    write_bytes(out / ENVIRONMENT, f"{json.dumps(environment(), indent=1)}\n".encode())


def read_environment(out: Path) -> dict[str, str]:
    """What the last start of a run computed on; empty for runs that stored nothing.

    Raises:
        DataError: the file is damaged.
    """
    path = out / ENVIRONMENT
    if not path.is_file():
        return {}
    source = Source(str(path), "Remove it; nothing but the report shows it.")
    return {name: str(value) for name, value in parse_json(source, read_bytes(source, path, JSON_BYTES)).items()}


def environment() -> dict[str, str]:
    """Code, libraries and devices of this process by name."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "protoocc": code_version(),
        "Python": platform.python_version(),
        "torch": str(torch.__version__),
        "CUDA": str(torch.version.cuda) if gpus else "not used",
        "GPUs": ", ".join(gpus) or "none",
        "CPU": f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_name() -> str:
    """What Linux calls the processor; elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
