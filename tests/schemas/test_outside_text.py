"""JSON and YAML of strangers: what they may hold."""

from __future__ import annotations

import pytest

from schemas.errors import DataError
from schemas.outside import Source, parse_json, parse_yaml

SOURCE = Source("file.json", "Make it again.")


@pytest.mark.parametrize("text", [rb'{"a": "\ud800"}', rb'{"\uDFFF": 1}', rb'{"a": ["\udc00\ud800"]}'])
def test_half_a_character_is_no_text(text: bytes) -> None:
    """It could neither be stored again nor shown."""
    with pytest.raises(DataError, match="file.json"):
        parse_json(SOURCE, text)
    with pytest.raises(DataError, match="file.json"):
        parse_yaml(SOURCE, text)


def test_a_pair_of_halves_is_a_character() -> None:
    assert parse_json(SOURCE, rb'{"a": "\ud83d\ude97"}') == {"a": "\U0001f697"}


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400 + ".0", "9223372036854775808", "NaN", "-Infinity"])
def test_numbers_beyond_64_bits_are_refused(number: str) -> None:
    with pytest.raises(DataError, match="file.json"):
        parse_json(SOURCE, f'{{"a": {number}}}'.encode())


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("1e308", 1e308),
        ("0.00043836543988257093123", 0.00043836543988257093123),
        ("9223372036854775807", 2**63 - 1),
        ("1E+2", 100.0),
        ("-0.0", 0.0),
    ],
)
def test_numbers_within_64_bits_are_read(number: str, value: float) -> None:
    assert parse_json(SOURCE, f'{{"a": {number}}}'.encode()) == {"a": value}
