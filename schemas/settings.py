"""Changes to settings from the command line: `--set path=value`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.datasets import describe_validation
from schemas.errors import ConfigError

Settings = TypeVar("Settings", bound=BaseModel)


def override(config: Settings, assignments: Sequence[str]) -> Settings:
    """The same settings with some fields changed, as `--set path=value` asks.

    Args:
        config: a complete configuration, such as a preset.
        assignments: `path=value`; the path has dots, the value is JSON or, failing that, a plain word.

    Raises:
        ConfigError: no such field (names the known ones), or a value that the field does not take.
    """
    values = config.model_dump(mode="json")
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {assignment}: expected path=value, such as optimizer.lr=1e-3")
        _assign(values, path, _value(text))
    try:
        return type(config).model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe_validation("--set", error)) from error


def _assign(values: dict[str, Any], path: str, value: Any) -> None:
    *parents, name = path.split(".")
    node: Any = values
    for depth, part in enumerate([*parents, name]):
        if not isinstance(node, dict) or part not in node:
            known = ", ".join(node) if isinstance(node, dict) else "none, it is a single value"
            where = ".".join([*parents, name][:depth]) or "the configuration"
            raise ConfigError(f"--set {path}: unknown field '{part}'; known fields of {where}: {known}")
        if depth == len(parents):
            node[part] = value
        node = node[part]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
