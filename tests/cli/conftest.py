"""A calm run of all stages, once for the tests that disturb them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cli.stages import DATASETS, STAGES
from tests.programs import command_line


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """Folder of a run that was left alone, and how long each stage took, seconds."""
    folder, seconds = tmp_path_factory.mktemp("calm"), {}
    (folder / "datasets.yaml").write_text(DATASETS.format(root="world"))
    for stage, (_, command) in STAGES.items():
        started = time.monotonic()
        assert command_line(folder, *command).wait(600) == 0, (folder / "said").read_text()
        seconds[stage] = time.monotonic() - started
    return folder, seconds
