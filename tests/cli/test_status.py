"""The table of `protoocc status`."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from cli.status import print_status
from pipelines.status import StageRow


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        StageRow(stage="records", folder=Path("work/records"), state="done", done=8, total=8, num_bytes=12_345_678),
        StageRow(
            stage="occupancy",
            folder=Path("work/occupancy.zarr"),
            state="partial",
            done=7,
            total=8,
            dropped=1,
            detail="2 units",
            next_command="protoocc occupancy --dataset mini",
        ),
    ]
    print_status(rows, Console(width=200))
    printed = capsys.readouterr().out
    assert "12.3 MB" in printed and "partial (2 units)" in printed and "7 / 8" in printed
    assert "Next: protoocc occupancy --dataset mini" in printed
