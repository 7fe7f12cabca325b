"""Ctrl-C and SIGTERM at any moment: one line, exit code 130 or 143 soon, no traceback, no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOON_S = 5.0


def start(folder: Path, code: str) -> subprocess.Popen[str]:
    """A program of its own process group, as a shell starts it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def stop(program: subprocess.Popen[str], number: signal.Signals) -> str:
    """Signals the group, as Ctrl-C does; returns what it printed and checks what must hold."""
    os.killpg(program.pid, number)
    started = time.monotonic()
    errors = program.communicate(timeout=30)[1]
    assert time.monotonic() - started < SOON_S
    assert program.returncode == 128 + number
    assert "Traceback" not in errors
    assert errors.count("stopped; run again") == 1
    with pytest.raises(ProcessLookupError):
        for _ in range(50):  # the last child of a killed one may take a moment to be gone
            os.killpg(program.pid, 0)
            time.sleep(0.05)
    return errors


EARLY = """
import os, signal, sys
sys.argv = ["protoocc", "status", "--runs", "."]

class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == {where!r}:
            os.kill(os.getpid(), signal.SIGINT)

def calling(frame, event, argument):
    if event == "call" and frame.f_code.co_name == {where!r} and frame.f_code.co_filename.endswith("cli/demo.py"):
        os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Importing())
sys.setprofile(calling)
from cli.main import main
main()
"""


@pytest.mark.parametrize("where", ["typer", "cli.bench", "register", "yaml"])
def test_ctrl_c_while_the_program_starts(where: str, tmp_path: Path) -> None:
    """While it is imported, while commands are registered, and in the command's own first lines."""
    program = start(tmp_path, EARLY.format(where=where))
    errors = program.communicate(timeout=120)[1]
    assert (program.returncode, errors) == (130, "stopped; run again to go on\n")


BUSY = """
import sys
from pathlib import Path
import cli.main
from cli.signals import stop_on_signals
from schemas.lock import folder_lock
with stop_on_signals(), folder_lock(Path("store")):
    print("ready", flush=True)
    {what}
"""
WORKERS = """
    from pipelines.scheduler import start_resource_tracker
    start_resource_tracker()
    import multiprocessing, time
    workers = [multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,)) for _ in range(2)]
    [worker.start() for worker in workers]
    print("ready", flush=True)
    [worker.join() for worker in workers]
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["import time; time.sleep(60)", "import threading; threading.Event().wait()"])
def test_stops_with_one_line_and_gives_its_lock_back(what: str, number: signal.Signals, tmp_path: Path) -> None:
    program = start(tmp_path, BUSY.format(what=what))
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    assert (tmp_path / "store.lock").is_file()
    stop(program, number)
    assert not (tmp_path / "store.lock").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_it(number: signal.Signals, tmp_path: Path) -> None:
    """They printed a traceback each on Ctrl-C, and those of `synth` outlived a SIGTERM."""
    program = start(tmp_path, BUSY.format(what=WORKERS.strip()))
    assert program.stdout is not None
    assert [program.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    stop(program, number)


SYNTH = "import sys; sys.argv = ['protoocc', *{arguments}]\nfrom cli.main import main\nmain()"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay_s", [0.3, 0.6, 1.0, 1.5, 2.5, 4.0, 6.0])
def test_synth_stops_at_any_moment(delay_s: float, number: signal.Signals, tmp_path: Path) -> None:
    arguments = ["synth", "world", "--scenes", "2", "--keyframes", "20", "--width", "128", "--workers", "2"]
    program = start(tmp_path, SYNTH.format(arguments=arguments))
    time.sleep(delay_s)
    stop(program, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay_s", [0.5, 1.0, 1.3, 1.6, 2.0, 3.0])
def test_dask_stops_while_it_starts(delay_s: float, number: signal.Signals, tmp_path: Path) -> None:
    """`occupancy` hung over 40 s on a Ctrl-C while its workers started."""
    what = """
    import time
    from pipelines.scheduler import Scheduler, run_tasks
    from pipelines.units import Unit
    list(run_tasks(repr, [Unit(str(number), 1) for number in range(100_000)], Scheduler(workers=2)))
    """
    program = start(tmp_path, BUSY.format(what=what.strip()))
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    time.sleep(delay_s)
    stop(program, number)
