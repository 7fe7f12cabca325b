"""`bench stages`: what it prints and when it warns; the measurement itself is tested in pipelines/test_scale.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from pipelines.bench_stages import StageCost
from pipelines.scheduler import Scheduler


def cost(stage: str, samples: int, driver_mb: float) -> StageCost:
    """Half a millisecond a sample, twice that for `masks`; each has 11 tasks."""
    seconds = samples / (1000 if stage == "masks" else 2000)
    figures = {"plan_s": 1.0, "start_s": 2.0, "tasks_s": 0.5, "seconds": seconds, "cpu_s": seconds, "rerun_s": 0.25}
    return StageCost(stage=stage, samples=samples, tasks=11, driver_mb=driver_mb, worker_mb=300.0, **figures)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Scheduler]]:
    """Replaces the measurement; returns what it was asked for."""
    asked: list[tuple[int, Scheduler]] = []

    def bench(scratch: Path, samples: int, scheduler: Scheduler, on_stage: Callable[[str], None]) -> list[StageCost]:
        asked.append((samples, scheduler))
        on_stage("geometry")
        return [cost("geometry", samples, 200.0), cost("masks", samples, 700.0)]

    monkeypatch.setattr("pipelines.bench_stages.bench_stages", bench)
    return asked


def test_half_is_measured_first_and_compared(measured: list[tuple[int, Scheduler]]) -> None:
    done = CliRunner().invoke(app, ["bench", "stages", "--samples", "5000", "--workers", "2", "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert measured == [(2500, Scheduler(workers=2)), (5000, Scheduler(workers=2))]
    assert [(row["stage"], row["samples"], row["task_ms"], row["growth"]) for row in answer["stages"]] == [
        ("geometry", 5000, 50.0, 2.0),
        ("masks", 5000, 50.0, 2.0),
    ]
    assert answer["limits"]["driver_mb"] == 600


def test_figures_over_their_limit_are_marked(
    measured: list[tuple[int, Scheduler]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    done = CliRunner().invoke(app, ["bench", "stages", "--samples", "100000"])
    geometry, masks = (
        next(line for line in done.stdout.splitlines() if name in line) for name in ("geometry", "masks")
    )
    assert "!" not in geometry
    assert "100.0 !" in masks and "700 !" in masks and masks.count("!") == 2
    assert "limit" in done.stdout
