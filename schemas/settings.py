"""Settings: the frozen base of all of them, clear validation messages, and changes from the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import ConfigError, did_you_mean
from schemas.outside import shorten

_SHOWN_FIELDS: Final = 10
_MANY_FIELDS: Final = 1000
"""More wrong fields than these are counted only: a hostile file has a million."""

Settings = TypeVar("Settings", bound=BaseModel)


class Frozen(BaseModel):
    """Base of every stored or configured value: never changed after it was made, unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def describe_validation(where: str, error: ValidationError) -> str:
    """One line per wrong field of a pydantic error, `_SHOWN_FIELDS` at most: where, field, value, expectation."""
    count = error.error_count()
    if count > _MANY_FIELDS:
        return f"{where}: {count:,} fields are wrong or missing"
    problems = error.errors(include_url=False)
    lines = [_describe_field(where, problem) for problem in problems[:_SHOWN_FIELDS]]
    return "\n".join(lines + ([f"{where}: ... and {count - len(lines)} more"] if count > len(lines) else []))


def _describe_field(where: str, problem: Mapping[str, Any]) -> str:
    field = shorten(".".join(str(part) for part in problem["loc"]))[1:-1] or "(whole entry)"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown field '{field}' (value {shorten(problem['input'])}); remove or correct it"
    if problem["type"] == "missing":
        return f"{where}: field '{field}' is missing"
    return f"{where}: field '{field}' = {shorten(problem['input'])}: {problem['msg']}"


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
    values = _every_field(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {assignment}: expected path=value, such as optimizer.lr=1e-3")
        if _lies_in_a_word(values, path):
            values = _every_field(_validated(config, values))
        _assign(values, path, _value(text))
    return _validated(config, values)


def _every_field(config: BaseModel) -> dict[str, Any]:
    """The settings as JSON has them, with the fields that are not stored while they have their defaults."""
    values = config.model_dump(mode="json")
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            values[name] = _every_field(value)
        elif name not in values:
            values[name] = value
    return values


def changed_fields(config: Settings, over: Settings | None = None) -> dict[str, Any]:
    """The fields, as JSON has them, in which settings differ from others, or from their defaults."""
    usual = {
        name: field.get_default(call_default_factory=True) if over is None else getattr(over, name)
        for name, field in type(config).model_fields.items()
    }
    return {name: value for name, value in _every_field(config).items() if getattr(config, name) != usual[name]}


def set_options(config: Settings, over: Settings | None = None, *, without: Sequence[str] = ()) -> list[str]:
    """The `--set path=value` of all fields that `changed_fields` names, words that `override` reads back.

    Args:
        config: settings.
        over: the settings that they change; None for the defaults.
        without: fields that another option gives.
    """
    changed = [(name, value) for name, value in changed_fields(config, over).items() if name not in without]
    words = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in changed]
    return [option for word in words for option in ("--set", word)]


def _validated(config: Settings, values: Mapping[str, Any]) -> Settings:
    try:
        return type(config).model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe_validation("--set", error)) from error


def _lies_in_a_word(values: Mapping[str, Any], path: str) -> bool:
    """Whether an earlier change gave a part of the path as a word for all its fields, such as data.augment=host."""
    node: Any = values
    for part in path.split(".")[:-1]:
        node = node.get(part) if isinstance(node, dict) else None
    return isinstance(node, str)


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
