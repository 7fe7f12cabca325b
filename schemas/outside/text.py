"""JSON and YAML from outside: size, depth and numbers have limits."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from itertools import accumulate
from typing import Any, Final

import yaml

from schemas.errors import DataError
from schemas.outside.limits import DEPTH, DIGITS, JSON_BYTES, JSON_VALUES, YAML_VALUES
from schemas.outside.source import Source, shorten

_OTHERS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_STEPS: Final = {ord("["): 1, ord("]"): -1}
_YamlLoader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader of libyaml where it is there: ten times as fast; both make plain values alone."""
_INTEGERS: Final = range(-(2**63), 2**63)
_MANY_DIGITS: Final = re.compile(rb"\d{19}")
_LARGE_EXPONENT: Final = re.compile(rb"[eE]\+?\d{3}")
"""What a number beyond 64 bits or beyond the floats has: 19 digits or an exponent of three. Other text may have it too;
two plain patterns are searched ten times as fast as one that looks where the digits stand."""
_MAYBE_LONE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
"""Half a character as JSON may spell it; alone it is no text that could be written again."""


def parse_json(source: Source, data: bytes, largest: int = JSON_BYTES) -> dict[str, Any]:
    """A JSON object whose numbers are finite and fit 64 bits.

    Args:
        source: for messages.
        data: the text, UTF-8.
        largest: bytes that it may have.

    Raises:
        DataError: no JSON object, or larger, deeper or with larger numbers than `limits` allows.
    """
    value = parse_json_value(source, data, largest)
    if not isinstance(value, dict):
        raise source.damaged(f"expected a JSON object, found {type(value).__name__}")
    return value


def parse_json_value(source: Source, data: bytes, largest: int = JSON_BYTES) -> Any:
    """As `parse_json`, for any value.

    Raises:
        DataError: as `parse_json`.
    """
    check_nesting(source, data, largest)
    parse = _parse_checked if _MANY_DIGITS.search(data) or _LARGE_EXPONENT.search(data) else _parse_small
    try:
        value = parse(data.decode())
    except RecursionError as error:
        raise source.error(f"nested more than {DEPTH} deep") from error
    except ValueError as error:
        raise source.damaged(error) from error
    check_characters(source, data, value)
    return value


def check_characters(source: Source, data: bytes, value: Any) -> None:
    """Checks that parsed JSON could be written again; the value is only walked where the text spells half a character.

    Args:
        source: for messages.
        data: the text.
        value: what it was parsed to.

    Raises:
        DataError: a string holds half a character.
    """
    if not _MAYBE_LONE.search(data):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise source.damaged(error) from error


def check_nesting(source: Source, data: bytes, largest: int = JSON_BYTES) -> None:
    """What `parse_json_value` asks of the text before it is parsed, for models that parse it themselves.

    Raises:
        DataError: more bytes or values, or deeper, than `limits` allows.
    """
    if len(data) > largest:
        raise source.error(f"has {len(data):,} bytes, at most {largest:,} are allowed")
    values = max(JSON_VALUES, JSON_VALUES * largest // JSON_BYTES)
    if data.count(b",") > values:
        raise source.error(f"holds more than {values:,} values")
    if _depth(data) > DEPTH:
        raise source.error(f"nested more than {DEPTH} deep")


def parse_yaml(source: Source, data: bytes) -> Any:
    """A YAML value; see `_check_tree` for what it may hold.

    Args:
        source: for messages.
        data: the text, UTF-8, at most `limits.YAML_BYTES`.

    Raises:
        DataError: no YAML, or beyond the limits.
    """
    try:
        value = yaml.load(data, _YamlLoader)
    except RecursionError as error:
        raise source.error(f"nested more than {DEPTH} deep") from error
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"{source.where} is no valid YAML: {error}") from error
    _check_tree(source, value, YAML_VALUES)
    return value


def _check_tree(source: Source, value: Any, largest: int) -> None:
    """Checks a parsed value: number of values, depth, numbers.

    Aliases count each time, so a file whose aliases multiply is refused before anything walks through it.

    Args:
        source: for messages.
        value: mappings and lists of plain values.
        largest: number of values that it may have.

    Raises:
        DataError: more or deeper values, a number that is not finite or has over 64 bits.
    """
    count, pending = 0, [(value, 1)]
    while pending:
        node, depth = pending.pop()
        count += 1
        if count > largest:
            raise source.error(f"holds more than {largest:,} values, those of aliases counted each time")
        if isinstance(node, (dict, list, tuple, set)):
            if depth > DEPTH:
                raise source.error(f"nested more than {DEPTH} deep")
            inner = [*node.keys(), *node.values()] if isinstance(node, dict) else node
            pending.extend((entry, depth + 1) for entry in inner)
        elif isinstance(node, str) and not node.isascii():
            _check_text(source, node)
        elif (isinstance(node, int) and node not in _INTEGERS) or (isinstance(node, float) and not math.isfinite(node)):
            raise source.error(f"holds the number {shorten(node)}; expected finite ones of at most 64 bits")


def _check_text(source: Source, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise source.error(f"holds {shorten(text)}, which is no text: {error.reason}") from error


def _depth(data: bytes) -> int:
    """Brackets open at the same time, at most; those in strings count too, which only long strings of them notice.

    Pairs without anything between them are taken away, one level after the other.
    """
    brackets = data.translate(_SQUARE, _OTHERS)
    for level in range(DEPTH + 1):
        if not brackets:
            return level
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):  # some are not closed
            return level + max(accumulate(map(_STEPS.__getitem__, brackets)))
        brackets = inner
    return DEPTH + 1


def _whole_number(text: str) -> int:
    if len(text) > DIGITS + 1 or (value := int(text)) not in _INTEGERS:
        raise ValueError(f"the number {shorten(text)} has over 64 bits")
    return value


def _finite_number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {shorten(text)} is not finite")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no finite number")


_parse_small = partial(json.loads, parse_constant=_no_constant)
_parse_checked = partial(_parse_small, parse_int=_whole_number, parse_float=_finite_number)
