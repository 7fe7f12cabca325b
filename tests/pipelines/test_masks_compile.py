"""`--set compile=true` on a CPU: with a C++ compiler, and without one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.pipelines.test_masks_sam import small_sam

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
import torch
from pipelines.masks import SamConfig
from pipelines.masks.sam import sam_generator
from schemas.errors import SetupError

image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
loose = SamConfig(checkpoint=Path(sys.argv[1]), points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0)
try:
    plain, compiled = (
        sam_generator(loose.model_copy(update={"compile": asked}), (40, 24)).generate([image])[0]
        for asked in (False, True)
    )
    print(plain.max(), (plain == compiled).mean(), torch._dynamo.utils.counters["stats"]["unique_graphs"])
except SetupError as error:
    print(error)
"""
"""Runs by itself: shape checks at run time are Python that cannot be compiled, and compilers are looked for once."""


def run_program(folder: Path, path: str) -> str:
    """What the program prints with that PATH; nothing compiled before is at hand."""
    torch.save(small_sam().state_dict(), folder / "small.pth")
    environment = {
        "PATH": path,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
    }
    command = [sys.executable, "-c", PROGRAM, str(folder / "small.pth")]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_compiled_networks_find_the_same_masks(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    last, agreement, graphs = map(float, run_program(tmp_path, str(Path(compiler).parent)).split())
    assert last >= 1, "the random model must make masks"
    assert agreement > 0.99
    assert graphs >= 2, "encoder and decoder"


@pytest.mark.slow
def test_absent_compiler_is_one_message(tmp_path: Path) -> None:
    """No program is on the PATH."""
    said = run_program(tmp_path, str(tmp_path))
    assert said.startswith("--set compile=true: torch.compile failed on --device cpu, where it needs a C++ compiler")
    assert "No working C++ compiler found" in said
    assert said.endswith("Install it, or leave compile out.\n") and said.count("\n") == 1
