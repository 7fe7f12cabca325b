"""What messages quote is shown as it is, on any terminal, and into any pipe."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cli.progress_lines import ProgressLines
from cli.say import name_of, say, shown
from cli.status import print_status
from pipelines.status import StageRow

ROOT = Path(__file__).parents[2]


def printed(text: str, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    say(text, to=Console(file=file, width=40))
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "folder data[red]/x[/] and [link=file://x]y[/link]",
        "an [/unopened] tag",
        ":warning: is no picture",
        "a line that is longer than the forty characters of this terminal, and stays one line",
        "größe 大",
    ],
)
def test_text_stays_as_it_is(text: str) -> None:
    assert printed(text) == f"{text}\n"


def test_control_characters_become_visible() -> None:
    assert printed("name\x1b[31m\r.png") == "name\\x1b[31m\\r.png\n"
    assert name_of("two\nlines") == "two\\nlines"


def test_ascii_terminal_gets_escapes() -> None:
    assert printed("größe", "ascii") == "gr\\xf6\\xdfe\n"


def test_long_values_lose_their_middle() -> None:
    text = shown("x" * 10_000).plain
    assert len(text) < 4100
    assert "6000 characters left out" in text


def test_names_in_the_table_of_status_are_no_markup() -> None:
    file = io.StringIO()
    row = StageRow(stage="run [b]x[/b]", folder=Path("runs/[/red]"), state="missing", next_command="protoocc train [a]")
    print_status([row], Console(file=file, width=200))
    assert "run [b]x[/b]" in file.getvalue()
    assert "runs/[/red]" in file.getvalue()
    assert "Next: protoocc train [a]" in file.getvalue()


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell line with the command as `protoocc`, in a folder without datasets."""
    command = f'protoocc() {{ "{sys.executable}" -c "from cli.main import main; main()" "$@"; }}\n{script}'
    place = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["bash", "-c", command], env=place, capture_output=True, text=True, timeout=300)


def test_ascii_output_is_no_bug() -> None:
    """Help has boxes of lines and messages have any name; both used to end in a UnicodeEncodeError."""
    done = run("protoocc --help && protoocc status --datasets größe.yaml", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "gr\\xf6\\xdfe.yaml" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_pipe_that_closes_and_closed_output_are_no_fault(tmp_path: Path, unbuffered: str) -> None:
    (tmp_path / "datasets.yaml").write_text(
        "d: {format: nuscenes, root: x, version: y, image: {resize: [16, 16], crop: [0, 0, 16, 16]}, "
        "splits: {train: {scenes: [a]}}}"
    )
    script = f"cd {tmp_path}; protoocc status | head -n 1 >&2; echo ${{PIPESTATUS[0]}}; protoocc status >&-; echo $?"
    done = run(script, PYTHONUNBUFFERED=unbuffered)
    assert done.stdout.split() == ["0", "0"], done.stderr
    assert "stage" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_output_is_one_message(unbuffered: str) -> None:
    """Also where Python keeps what it could not write, and would fail over it once more at its end."""
    done = run("protoocc --version >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_progress_lines_tell_rate_and_time_left() -> None:
    """60 of 404 samples were done before; 60 more in 30 s make 2 per second, so 284 take 142 s."""
    seconds = [0.0]
    lines: list[str] = []
    progress = ProgressLines("masks", "samples", write=lines.append, clock=lambda: seconds[0])
    with progress:
        progress.update(60, 404)
        seconds[0] = 30.0
        progress.update(120, 404)
    assert lines == ["masks: 120 / 404 samples (29 %), 2.00/s, 0:00:30 so far, 0:02:22 left"]


def test_progress_lines_come_while_nothing_finishes() -> None:
    lines: list[str] = []
    progress = ProgressLines("train", "steps", every_s=0.01, write=lines.append)
    with progress:
        while len(lines) < 2:
            pass
    assert lines[0].startswith("train: 0 / ? steps")
