"""Files that someone cuts while they are in use: read before, or one clear error; never the death of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WEIGHTS = """
import os, torch
from pathlib import Path
from safetensors.torch import save_file
from protoocc.checkpoint import read_safetensors
save_file({"a": torch.ones(100_000)}, "weights")
tensors = read_safetensors(Path("weights"))
os.truncate("weights", 0)
print(int(tensors["a"].sum()))
"""
CHECKSUMS = """
import os
from pathlib import Path
from pipelines.unit_files import read_checksums, write_checksums
write_checksums(Path("."), bytes([1]) * 3_200_000)
sums = read_checksums(Path("."))
os.truncate("checksums.npy", 0)
print(int(sums.sum()) // 32)
"""
RASTER = """
import os
import numpy as np
from pathlib import Path
from types import SimpleNamespace
from pipelines.prepare.map_windows import Raster, cut_window
from schemas.errors import DataError
np.save("map.npy", np.full((800, 100), 255, np.uint8))
raster = Raster(path="map.npy", size_px=(800, 800), pixel_m=1.0)
place = SimpleNamespace(scene="a", global_from_vehicle=SimpleNamespace(translation_m=(400.0, 400.0, 0.0)))
assert cut_window(raster, [place], Path("."))
os.truncate("map.npy", 20_000)
try:
    cut_window(raster, [place], Path("."))
except DataError as error:
    print(str(error).split(".")[0])
"""


@pytest.mark.parametrize(
    ("program", "answer"),
    [
        pytest.param(WEIGHTS, "100000", id="weights", marks=pytest.mark.slow),
        pytest.param(CHECKSUMS, "100000", id="checksums"),
        pytest.param(RASTER, "map", id="raster"),
    ],
)
def test_file_that_is_cut_kills_nothing(program: str, answer: str, tmp_path: Path) -> None:
    """Mapped into memory, each of them ended the program with a bus error."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, answer), done.stderr
