"""Settings: the frozen base of all of them, clear validation messages, and changes from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import ConfigError, did_you_mean, quoted

Settings = TypeVar("Settings", bound=BaseModel)


class Frozen(BaseModel):
    """Base of every stored or configured value: never changed after it was made, unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def describe_validation(where: str, error: ValidationError) -> str:
    """One line per wrong field of a pydantic error: where, field, value, expectation."""
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"]) or "(whole entry)"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown field '{field}' (value {quoted(problem['input'])}); remove or correct it")
        elif problem["type"] == "missing":
            lines.append(f"{where}: field '{field}' is missing")
        else:
            lines.append(f"{where}: field '{field}' = {quoted(problem['input'])}: {problem['msg']}")
    return "\n".join(lines)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted paths: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat.update(flatten(inner, f"{prefix}.{name}" if prefix else str(name)))
    return flat


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
            near = did_you_mean(part, node if isinstance(node, dict) else ())
            raise ConfigError(f"--set {path}: unknown field '{part}'; known fields of {where}: {known}.{near}")
        if depth == len(parents):
            node[part] = value
        node = node[part]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
