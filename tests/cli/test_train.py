"""What `train` says while it works, and which of several processes says it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.model import note_of
from cli.processes import is_first, shared_process
from protoocc.training_report import StepReport
from schemas.errors import ConfigError


def report(step: int, seconds: float, data_seconds: float) -> StepReport:
    losses = {"ce": 2.0, "lovasz": 1.5, "cls": 0.25, "cons": 0.125, "total": 9.0, "gradient_norm": 1.0}
    return StepReport(step, 9, 1e-3, losses, seconds, data_seconds, 3.26, {})


def test_note_behind_a_line() -> None:
    """Losses and memory of the last step; of 4 seconds in all 1 was spent on waiting."""
    note = note_of([report(1, 3.0, 1.0), report(2, 1.0, 0.0)])
    assert note == "ce 2.000 lovasz 1.500 cls 0.250 cons 0.125, 3.3 GB, 25 % waiting for data"


def test_first_process_talks(monkeypatch: pytest.MonkeyPatch) -> None:
    """RANK alone, which other programs set as well, means nothing."""
    monkeypatch.setenv("RANK", "3")
    assert is_first()
    with shared_process() as device:
        assert device is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert not is_first()
    monkeypatch.setenv("RANK", "0")
    assert is_first()


def test_torchrun_takes_no_nproc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "0")
    result = CliRunner().invoke(app, ["train", "--nproc", "2"])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "--nproc does not apply: torchrun has started the processes already"


@pytest.mark.parametrize("option", [("--set", "seed=1"), ("--ablation", "table4-none"), ("--resume",)])
def test_prolonging_changes_nothing_else(option: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["train", "--extend", "5", *option])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == f"{option[0]} does not apply: --extend goes on with the settings of the run"
