"""ONNX: the file says what PyTorch says, and one that does not is not kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from protoocc.export import ExportOptions, export_onnx
from protoocc.hosts import build_network
from protoocc.presets import read_preset
from schemas.errors import ConfigError
from tests.protoocc.reference.rigs import random_batch

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys, torch
from pathlib import Path
import protoocc.export as export
from protoocc import open_shards
from protoocc.export import ExportOptions, export_onnx
from protoocc.hosts import build_network
from protoocc.predictions_source import ShardSource, to_batch
from schemas.settings import override
from tests.protoocc.conftest import make_config
shards, out, rig, frames = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
config = override(make_config(), [f"model.frames={frames}", "model.frame_interval=1"])
way = sys.argv[5] if len(sys.argv) > 5 else ""
if way in ("monoscene", "tpvformer"):
    from importlib import import_module
    tiny = import_module(f"tests.protoocc.test_{way}").tiny
    config = config.model_copy(update={"model": tiny()})
torch.manual_seed(0)
network = build_network(config.model).eval()
source = ShardSource(open_shards(shards, "train"), config.model, single_frame=False)
sample = to_batch(source.moments[1:2], [source.read(1)], frames)
options = ExportOptions(cameras=source.cameras, calibration=rig)
if way == "differs":
    export.LARGEST_DIFFERENCE = -1.0
export_onnx(network, config, sample, out, options)
"""


def run(shards: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Exports in a process of its own: annotations that are checked while tests run would be traced as well."""
    command = [sys.executable, "-c", SCRIPT, str(shards), str(out), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("preset", ["voxformer-demo", "symphonies-demo"])
def test_networks_that_propose_queries_are_refused_before_any_work(tmp_path: Path, preset: str) -> None:
    config = read_preset(preset, [])
    network, sample = build_network(config.model), random_batch(config.model.grid)
    with pytest.raises(ConfigError, match=f"kind '{config.model.kind}' cannot be written as ONNX"):
        export_onnx(network, config, sample, tmp_path / "x.onnx", ExportOptions(cameras=()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rig", "frames"),
    [pytest.param(*case, marks=SLOW) for case in (("fixed", "1"), ("input", "1"), ("fixed", "2"))],
)
def test_the_file_agrees_with_pytorch(shards: Path, tmp_path: Path, rig: str, frames: str) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "tiny.onnx"
    done = run(shards, out, rig, frames)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "tiny.onnx.json").read_text())
    assert out.stat().st_size > 10_000 and card["opset"] == 20
    cases = ["the sample", "noise"] + (["turned cameras"] if rig == "input" else [])
    assert [one["case"] for one in card["differences"]] == cases
    assert all(one["largest"] < 1e-3 and one["classes"] == 0 for one in card["differences"])
    names = [one["name"] for one in card["inputs"]]
    assert ("image_from_camera" in names) == (rig == "input") == (card["calibration"] is None)
    assert ("past_images" in names) == (frames == "2")
    assert card["inputs"][0]["shape"] == [1, 2, 3, 32, 64]
    assert {one["name"]: one["shape"] for one in card["outputs"]}["semantics"] == [8, 8, 4]
    assert card["cameras"] == ["CAM_FRONT", "CAM_BACK"] and card["classes"]["names"][4] == "car"


@SLOW
@pytest.mark.parametrize("kind", ["monoscene", "tpvformer"])
@pytest.mark.parametrize("rig", ["fixed", "input"])
def test_other_kinds_agree_as_well(shards: Path, tmp_path: Path, kind: str, rig: str) -> None:
    pytest.importorskip("onnxruntime")
    done = run(shards, tmp_path / "tiny.onnx", rig, "1", kind)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "tiny.onnx.json").read_text())
    assert card["network"]["kind"] == kind
    assert all(one["largest"] < 1e-3 and one["classes"] == 0 for one in card["differences"])


@SLOW
def test_a_file_that_differs_is_not_kept(shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = run(shards, tmp_path / "tiny.onnx", "fixed", "1", "differs")
    assert done.returncode != 0 and "onnxruntime and PyTorch differ by" in done.stderr
    assert list(tmp_path.iterdir()) == []
