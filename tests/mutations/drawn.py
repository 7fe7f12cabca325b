"""Damage that hypothesis draws, so that a fault shrinks to the smallest one and is met again by the same run."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from hypothesis import strategies as st

from tests.mutations import mutate
from tests.mutations.published import LIES

TAR_FIELDS: Final = {
    "name": (0, 100), "mode": (100, 8), "owner": (108, 8), "size": (124, 12), "time": (136, 12), "sum": (148, 8),
    "type": (156, 1), "link": (157, 100), "magic": (257, 8), "device": (329, 16), "prefix": (345, 155),
}  # fmt: skip
"""Offset and width of the fields of a tar's header."""
TAR_VALUES: Final = (
    b"../../canary.txt", b"/etc/passwd", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S", b"V",
    b"77777777777", b"00000000000", b"\x80" + b"\xff" * 11, b"\0", b"././@LongLink", b"GNU.sparse", b"\xff" * 155,
)  # fmt: skip
KINDS: Final = ("flip", "overwrite", "cut", "drop", "insert", "repeat", "fill")


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes, blocks: bool = False) -> bytes:
    """One to four edits: flips, cuts, ranges that are overwritten, dropped, put in, doubled or filled.

    Args:
        draw: of hypothesis.
        data: the whole file.
        blocks: half of the places lie at the start of a tar's block.
    """
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(changed) - 1, 0)))
        if blocks and draw(st.booleans()):
            place -= place % 512
        size = draw(st.sampled_from((1, 2, 4, 8, 12, 100, 512, 1024, 5000)))
        _edit(changed, draw(st.sampled_from(KINDS)), place, size, draw(st.binary(min_size=1, max_size=8)))
    return bytes(changed)


def _edit(data: bytearray, kind: str, place: int, size: int, value: bytes) -> None:
    if kind == "flip" and data:
        data[place] ^= 1 << value[0] % 8
    elif kind == "overwrite":
        data[place : place + len(value)] = value
    elif kind == "cut":
        del data[place:]
    elif kind == "drop":
        del data[place : place + size]
    elif kind == "insert":
        data[place:place] = value * size
    elif kind == "repeat":
        data[place:place] = data[place : place + size]
    elif kind == "fill":
        data[place : place + size] = bytes(value[:1]) * size


@st.composite
def damaged_headers(draw: st.DrawFn, data: bytes) -> bytes:
    """One to three fields of headers of a tar with another value; half of the time the sum of the header is right."""
    changed = bytearray(data)
    headers = [place for place in range(0, len(data), 512) if data[place + 257 : place + 262] == b"ustar"]
    for _ in range(draw(st.integers(1, 3))):
        block = draw(st.sampled_from(headers))
        offset, width = TAR_FIELDS[draw(st.sampled_from(sorted(TAR_FIELDS)))]
        value = draw(st.one_of(st.sampled_from(TAR_VALUES), st.binary(max_size=12)))[:width].ljust(width, b"\0")
        changed[block + offset : block + offset + width] = value
        if draw(st.booleans()):
            changed[block + 148 : block + 156] = b" " * 8
            changed[block + 148 : block + 156] = b"%06o\0 " % sum(changed[block : block + 512])
    return bytes(changed)


@st.composite
def damaged_json(draw: st.DrawFn, data: bytes) -> bytes:
    """One to three values at drawn places, deleted, scaled or replaced: by lies, or by other values of the file."""
    root = {"": json.loads(data)}
    for _ in range(draw(st.integers(1, 3))):
        node, key = draw_place(draw, root)
        action = draw(st.sampled_from(("lie", "lie", "lie", "delete", "other", "scale", "double")))
        if action == "delete" and key != "":
            del node[key]
        elif action == "other":
            other, name = draw_place(draw, root)
            node[key] = json.loads(json.dumps(other[name]))
        elif action == "scale" and type(node[key]) in (int, float):
            node[key] = node[key] * draw(st.sampled_from((-1, 0, 2, 1000, 2**40))) + draw(st.sampled_from((0, 1, 512)))
        elif action == "double" and isinstance(node, list):
            node.append(node[key])
        else:
            lie = draw(st.one_of(st.sampled_from(LIES), st.text(max_size=8), st.integers(), st.floats()))
            node[key] = copy.deepcopy(lie)  # a later edit may change it
    return json.dumps(root[""]).encode()


def draw_place(draw: st.DrawFn, root: dict[str, Any]) -> tuple[Any, Any]:
    """A container and a key of it, at any depth."""
    node: Any = root
    key: Any = ""
    while isinstance(node[key], dict | list) and node[key] and draw(st.integers(0, 9)):
        node = node[key]
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    return node, key


def seeded(mutators: Sequence[mutate.Mutator], data: bytes) -> st.SearchStrategy[bytes]:
    """Damage of `tests.mutations.mutate` and `archives`, by a drawn seed."""

    def damage(mutator: Callable[[random.Random, bytes], bytes], seed: int) -> bytes:
        return mutator(random.Random(seed), data)

    return st.builds(damage, st.sampled_from(tuple(mutators)), st.integers(0, 2**32))
