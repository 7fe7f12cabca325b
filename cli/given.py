"""What the user typed: options that do not apply are refused, paths are expanded and looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import typer
from typer.core import TyperCommand

from cli.say import end_pipe, say
from cli.signals import how_to_go_on
from schemas.errors import ConfigError

FILES: Final = frozenset({"datasets", "checkpoint", "weights", "calibration", "onnx", "sam_checkpoint"})
FOLDERS: Final = frozenset(
    {
        "root",
        "out",
        "data",
        "labels",
        "depth_maps",
        "write_npz",
        "write_voxels",
        "compare",
        "shards",
        "run",
        "runs",
        "pictures",
        "scratch",
        "predictions",
        "images",
        "folder",
        "source",
        "target",
        "place",
    }
)
ADDRESSES: Final = frozenset({"shards", "source", "target", "place"})
"""Folders that may lie elsewhere; as text they are an address where they hold `://`."""

PLACES: Final = ("entry", "name", "datasets", "out", "shards", "root", "version")
"""Parameters that say on what a command works."""

_USAGE_ERROR: Final = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])
"""Click's error for wrong words; typer does not export it."""

_typed: ContextVar[Mapping[str, str]] = ContextVar("typed", default=MappingProxyType({}))
"""Parameter -> option as the user knows it, for each parameter that was typed."""

_places: ContextVar[Mapping[str, object]] = ContextVar("places", default=MappingProxyType({}))


class Command(TyperCommand):
    """A command that knows which options were typed and checks its paths before it runs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words; one too many may be the dataset, which most commands take as an option."""
        try:
            return list(super().parse_args(ctx, args))
        except _USAGE_ERROR as error:
            takes_name = any("--dataset" in parameter.opts for parameter in self.params)
            if takes_name and error.message.startswith("Got unexpected extra argument"):
                error.message += ". The dataset is named with --dataset NAME."
            raise

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        typed = {}
        for parameter in self.params:
            source = ctx.get_parameter_source(parameter.name)
            if source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP"):
                typed[parameter.name] = _option_name(parameter)
        for name, option in typed.items():
            ctx.params[name] = _checked(name, option, ctx.params[name])
        _typed.set(typed)
        is_of_dataset = "datasets" in ctx.params
        set_places({name: ctx.params[name] for name in PLACES if is_of_dataset and name in typed})
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            end_pipe()
        except KeyboardInterrupt:
            say(how_to_go_on())  # of programs with signals of their own; `cli.signals` ends this one
            raise SystemExit(130) from None


def add_command(app: typer.Typer, function: Any, name: str | None = None) -> None:
    """Registers a function as a command of this kind."""
    app.command(name, cls=Command)(function)


def set_places(places: Mapping[str, object]) -> None:
    """Says where the running command works; `PLACES` are taken from what was typed, unless it says otherwise."""
    _places.set(places)


def places() -> Mapping[str, object]:
    """Dataset, files and folders of the running command that other commands need as well."""
    return _places.get()


def is_typed(parameter: str) -> bool:
    """Whether the user typed this option of the running command; ``parameter`` is its name in the function."""
    return parameter in _typed.get()


def refuse(parameters: Sequence[str], when: bool, reason: str) -> None:
    """Refuses options that were typed and would be ignored.

    Args:
        parameters: names in the function.
        when: whether they do not apply.
        reason: why, to follow "--option does not apply: ".

    Raises:
        ConfigError: one of them was typed.
    """
    options = [_typed.get()[name] for name in parameters if when and is_typed(name)]
    if options:
        verb = "does" if len(options) == 1 else "do"
        raise ConfigError(f"{', '.join(options)} {verb} not apply: {reason}")


def _option_name(parameter: Any) -> str:
    longest = max(parameter.opts, key=len)
    return str(longest if longest.startswith("-") else parameter.name.upper())


def _checked(name: str, option: str, value: Any) -> Any:
    """The value with `~` expanded.

    Raises:
        ConfigError: a file where a folder is wanted, or the other way round.
    """
    if isinstance(value, list | tuple):
        return [_checked(name, option, part) for part in value]
    if isinstance(value, str) and name in ADDRESSES and "://" not in value:
        return str(_checked(name, option, Path(value)))
    if not isinstance(value, Path):
        return value
    from schemas.datasets import expanded

    path = expanded(value)
    if name in FILES and path.is_dir():
        raise ConfigError(f"{option} {path}: it is a folder, a file is wanted")
    if name in FOLDERS:
        blocking = next((part for part in (path, *path.parents) if part.exists() or part.is_symlink()), None)
        if blocking is not None and not blocking.is_dir():
            where = "it" if blocking == path else str(blocking)
            raise ConfigError(f"{option} {path}: {where} is no folder, a folder is wanted")
    return path
