"""`import protoocc`: cheap, complete, and the page that shows it runs as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

import protoocc
from protoocc.hosts import HOSTS
from schemas.datasets import DatasetSpec

ROOT = Path(__file__).parents[2]


def blocks() -> list[str]:
    """Python of docs/python.md."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)


def test_import_is_cheap() -> None:
    code = (
        "import sys, protoocc\n"
        "assert set(protoocc.__all__) <= set(dir(protoocc))\n"
        "print(protoocc.__version__, sorted({'torch', 'numpy', 'pydantic', 'cv2', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{protoocc.__version__} []"


def test_every_public_name_is_there() -> None:
    for name in protoocc.__all__:
        assert getattr(protoocc, name) is not None
    try:
        assert protoocc.__version__ == version("protoocc")
    except PackageNotFoundError:
        assert protoocc.__version__ == "0"
    with pytest.raises(AttributeError, match=r"no attribute 'fit'; its public names: .*build_network"):
        protoocc.fit  # noqa: B018


def test_the_page_names_every_function() -> None:
    page = (ROOT / "docs/python.md").read_text()
    assert all(f"`{name}" in page for name in protoocc.__all__)


@pytest.mark.slow
def test_the_tour_is_ten_lines_and_runs(
    packed: Path, world_dataset: DatasetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The page's first two blocks, word by word, where `protoocc demo` has left its files."""
    tour, labels, _ = blocks()
    assert sum(bool(line) for line in tour.splitlines()) <= 11
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/work").symlink_to(packed.parent)
    entry = world_dataset.model_dump(mode="json", exclude={"name", "work"})
    (tmp_path / "demo/datasets.yaml").write_text(json.dumps({"demo": entry}))
    monkeypatch.chdir(tmp_path)
    exec(compile(tour, "docs/python.md", "exec", dont_inherit=True), {})
    *predictions, iou = capsys.readouterr().out.splitlines()
    assert len(predictions) == 2 and 0.0 <= float(iou) <= 1.0
    exec(compile(labels, "docs/python.md", "exec", dont_inherit=True), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(int(line.split()[1]) > 1000 for line in lines)


def test_the_network_of_the_page_trains(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HOSTS, "mean", HOSTS["protoocc"])  # taken away again after the test
    exec(compile(blocks()[2], "docs/python.md", "exec", dont_inherit=True), {"__name__": "page"})
    grid = json.loads((shards / "manifest.json").read_text())["dataset"]["grid"]
    fields = {"model": {"kind": "mean", "grid": grid}, "loss": {}, "schedule": {"steps": 2, "warmup_steps": 0}}
    config = protoocc.TrainConfig.model_validate(fields)
    assert protoocc.train(config, shards, tmp_path / "run").steps == 2
    assert protoocc.load_network(tmp_path / "run")[1].model.kind == "mean"
