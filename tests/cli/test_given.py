"""Options that do not apply, paths of the wrong kind, near misses, and commands that can be copied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from cli.again import complete_commands
from cli.failures import failure_of, missing_library
from cli.given import add_command, is_typed, refuse, set_places
from cli.options import Dataset, check_parallel, expected
from cli.sources import mask_generator, occupancy_source
from protoocc import read_preset
from schemas.datasets import expanded
from schemas.errors import ConfigError, DataError

SAM: dict[str, Any] = {"model_type": "vit_b", "device": "cpu"}

app = typer.Typer()


@app.callback()
def _root() -> None:
    """Makes `take` a command with a name."""


def take(
    out: Annotated[Path, typer.Option("--out")] = Path("work"),
    checkpoint: Annotated[Path | None, typer.Option("--checkpoint")] = None,
    shards: Annotated[str | None, typer.Option("--shards")] = None,
    name: Dataset = None,
) -> None:
    """Prints what it was given."""
    refuse(("checkpoint",), name == "seeds", "seeds need no network")
    typer.echo(f"{shards or out} {is_typed('out')}")


add_command(app, take)


def outcome(*words: str) -> str:
    """What the command prints, or the message of its error."""
    result = CliRunner().invoke(app, ["take", *words])
    return str(result.exception) if isinstance(result.exception, ConfigError) else result.output.strip()


def test_typed_options_are_known() -> None:
    assert outcome() == "work False"
    assert outcome("--out", "work") == "work True"


def test_option_that_would_be_ignored_is_refused() -> None:
    message = "--checkpoint does not apply: seeds need no network"
    assert outcome("--dataset", "seeds", "--checkpoint", "x.pth") == message


def test_paths_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert outcome("--out", str(file)) == f"--out {file}: it is no folder, a folder is wanted"
    assert outcome("--out", str(file / "x")) == f"--out {file / 'x'}: {file} is no folder, a folder is wanted"
    assert outcome("--shards", str(file)) == f"--shards {file}: it is no folder, a folder is wanted"
    assert outcome("--checkpoint", str(tmp_path)) == f"--checkpoint {tmp_path}: it is a folder, a file is wanted"


def test_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert outcome("--out", "~/work") == "/home/ann/work True"
    assert outcome("--shards", "~/shards") == "/home/ann/shards False"
    assert outcome("--shards", "https://host/~ann/shards") == "https://host/~ann/shards False"
    assert expanded(Path("~/data")) == Path("/home/ann/data")
    with pytest.raises(ConfigError, match="write the folder without ~"):
        expanded(Path("~nobody-of-that-name/data"))


def test_dataset_as_a_bare_word_is_explained() -> None:
    assert "--dataset" in outcome("mini")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: occupancy_source("lidr", "default"), "Did you mean lidar?"),
        (lambda: occupancy_source("lidar", "releaselike"), "Did you mean release-like?"),
        (lambda: mask_generator("sed", **SAM), "Did you mean seeds?"),
        (lambda: mask_generator("sam", **SAM | {"device": "gpu"}), "expected cpu, cuda or one GPU"),
        (lambda: check_parallel("sinc"), "Did you mean sync?"),
        (lambda: read_preset("protoocc-smal"), "Did you mean protoocc-small?"),
        (lambda: read_preset("demo", ["schedule.step=3"]), "Did you mean steps?"),
    ],
)
def test_near_misses_are_suggested(call, words) -> None:
    with pytest.raises(ConfigError) as error:
        call()
    assert words in str(error.value)
    assert "mean" not in str(expected("--x", "nothing-like-it", ["seeds", "sam"]))


def test_commands_in_messages_get_the_places_of_this_run() -> None:
    set_places({"datasets": "my sets.yaml", "out": "work/b"})
    assert (
        complete_commands("Run `protoocc prepare mini --overwrite` or\n  protoocc train --dataset mini --resume")
        == "Run `protoocc prepare mini --overwrite --datasets 'my sets.yaml' --out work/b` or\n"
        "  protoocc train --resume --shards work/b/shards"
    )
    set_places({"entry": "mini", "root": "/data"})
    assert complete_commands("`protoocc prepare`") == "`protoocc prepare mini --root /data`"
    assert complete_commands("`protoocc prepare mini`") == "`protoocc prepare mini --root /data`"
    assert complete_commands("`protoocc pack --dataset maxi`") == "`protoocc pack --dataset maxi`"
    set_places({})
    assert complete_commands("`protoocc pack`") == "`protoocc pack`"


def test_missing_library_is_named_with_its_package() -> None:
    message = "libGL.so.1: cannot open shared object file: No such file or directory"
    failure = failure_of(ImportError(message))
    assert failure.code == 2
    assert "sudo apt-get install libgl1" in failure.text
    assert "libodd.so.3" in missing_library("libodd.so.3: cannot open shared object file: No such file")
    assert missing_library("no module named cv2") == ""


def test_failures_of_the_machine_are_no_bugs() -> None:
    assert failure_of(OSError(28, "No space left on device", "a/b")).text.startswith("a/b: the disk is full")
    assert failure_of(MemoryError()).code == 2
    assert failure_of(ModuleNotFoundError("No module named 'cv2'", name="cv2")).code == 2
    assert failure_of(DataError("x")).text == "x"
    assert failure_of(ZeroDivisionError("x")).code == 1


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    own = typer.Typer()
    own.callback()(_root)

    def interrupted() -> None:
        raise KeyboardInterrupt

    add_command(own, interrupted)
    result = CliRunner().invoke(own, ["interrupted"])
    assert result.exit_code == 130
    assert "stopped; run again to go on" in result.output + capsys.readouterr().err
