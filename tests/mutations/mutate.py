"""Ways to damage bytes, JSON, YAML and images; all of them drawn from one seeded source."""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

Mutator = Callable[[random.Random, bytes], bytes]

DIGITS = "1" * 5000
_RAW = {
    '"@digits"': DIGITS,
    '"@huge"': "1e999",
    '"@nan"': "NaN",
    '"@inf"': "-Infinity",
    '"@deep"': "[" * 3000 + "]" * 3000,
}
_RAW['"@deeper"'] = '{"a":' * 200_000 + "1" + "}" * 200_000
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 0.5, 2**31, 2**63 - 1, 2**64, -(2**63), 10**18, 1e300, 1e-300,
    *(name.strip('"') for name in _RAW), "", "x", "..", "../../etc/passwd", "a/b", "\0", "\ud800", "é" * 300,
    "y" * 100_000, [], {}, [[]], {"a": 1},
    [0] * 200_000, [[1.0, 0.0, 0.0]] * 3, [[0.0] * 4] * 4, {str(number): number for number in range(50_000)},
)  # fmt: skip


def damage_bytes(random_: random.Random, data: bytes) -> bytes:
    """One to three flips, cuts, insertions, overwritten or doubled ranges."""
    changed = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 3))):
        place, size = random_.randrange(len(changed) or 1), random_.choice((1, 2, 4, 8, 64, 1024))
        kind = random_.randrange(8)
        if kind == 0 and changed:
            changed[place] ^= 1 << random_.randrange(8)
        elif kind == 1:
            changed[place : place + size] = random_.randbytes(size)
        elif kind == 2:
            del changed[place:]
        elif kind == 3:
            del changed[place : place + size]
        elif kind == 4:
            changed[place:place] = random_.randbytes(size)
        elif kind == 5:
            changed[place : place + size] = random_.choice((b"\0", b"\xff", b"\x7f")) * size
        elif kind == 6:
            changed[place:place] = changed[place : place + size * 16]
        else:
            number = random_.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            width = random_.choice((2, 4, 8))
            order = random_.choice(("little", "big"))
            changed[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, order)
    return bytes(changed)


def damage_json(random_: random.Random, data: bytes) -> bytes:
    """One or two fields deleted, doubled, swapped or given another value; huge numbers and depths among them."""
    value = json.loads(data)
    for _ in range(random_.choice((1, 1, 2))):
        value = _damage_value(random_, value)
    text = json.dumps(value)
    for name, raw in _RAW.items():
        text = text.replace(name, raw, 1)
    return text.encode()


def _damage_value(random_: random.Random, value: Any) -> Any:
    if not isinstance(value, (dict, list)) or not value or random_.random() < 0.02:
        return copy.deepcopy(random_.choice(_VALUES))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = random_.choice(keys)
    if isinstance(value[key], (dict, list)) and value[key] and random_.random() < 0.85:
        value[key] = _damage_value(random_, value[key])
        return value
    kind = random_.randrange(6)
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, list):
        value.append(value[key])
    elif kind == 2:
        other = random_.choice(keys)
        value[key], value[other] = value[other], value[key]
    elif kind == 3 and type(value[key]) in (int, float):
        value[key] = value[key] * random_.choice((-1, 0, 2, 1000, 1e9)) + random_.choice((0, 1, 512))
    else:
        value[key] = copy.deepcopy(random_.choice(_VALUES))
    return value


def damage_lines(random_: random.Random, data: bytes) -> bytes:
    """One line of JSON lines damaged as JSON, dropped or doubled."""
    lines = data.splitlines(keepends=True)
    number = random_.randrange(len(lines))
    kind = random_.randrange(4)
    lines[number : number + 1] = (
        [] if kind == 0 else [lines[number]] * 2 if kind == 1 else [damage_json(random_, lines[number]) + b"\n"]
    )
    return b"".join(lines)


def damage_yaml(random_: random.Random, data: bytes) -> bytes:
    """JSON is YAML, so values are damaged as there; or aliases, tags, anchors and depths are put in."""
    if random_.random() < 0.6:
        return damage_json(random_, data)
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    pieces = (
        bomb, "a: &a [*a]\n", "[" * 5000, "a: !!python/object/apply:os.system [x]\n",
        f"a: {DIGITS}\n", f"a: 0x{DIGITS}\n", "a: 2001-99-99\n", "a: !!timestamp x\n", "? [1]\n: 2\n",
        "a: .nan\n", "a: 1:99:99999\n",
        "<<: 1\n", "%YAML 9.9\n---\n",
    )  # fmt: skip
    piece = random_.choice(pieces).encode()
    place = random_.choice((0, len(data), random_.randrange(len(data))))
    return piece if random_.random() < 0.5 else data[:place] + piece + data[place:]


def damage_jpeg(random_: random.Random, data: bytes) -> bytes:
    """The size in the frame header, its kind, empty scans, the end, another container."""
    place = data.find(b"\xff\xc0")
    kind = random_.randrange(8)
    if kind < 3:
        sides = [random_.choice((0, 1, 8, 65535, 30000, 32, 64)) for _ in range(2)]
        return data[: place + 5] + struct.pack(">2H", *sides) + data[place + 9 :]
    if kind == 3:
        return data[: place + 1] + bytes([random_.randrange(0xC0, 0xD0)]) + data[place + 2 :]
    if kind == 4:
        return (
            data[:-2]
            + random_.choice((b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00", b"\xff\xff", b"\0")) * 5000
            + data[-2:]
        )
    if kind == 5:
        return data[:2] + b"\xff\xe1\xff\xff" + random_.randbytes(65533) + data[2:]
    if kind == 6:
        return (
            random_.choice(
                (b"GIF89a", b"BM", b"II*\0", b"\x89PNG\r\n\x1a\n", b"\0\0\0\x0cjP  \r\n\x87\n", b"#?RADIANCE\n")
            )
            + data
        )
    return data[: random_.randrange(len(data))] + b"\xff\xd9"


def damage_png(random_: random.Random, data: bytes) -> bytes:
    """The header, with its checksum made right, or chunks put in: text that inflates to megabytes, animations."""
    kind = random_.randrange(5)
    if kind < 3:
        width, height, *rest = struct.unpack(">2I5B", data[16:29])
        width, height = random_.choice(
            ((width, height), (2**31 - 1, 1), (100_000, 100_000), (0, height), (height, width))
        )
        rest[random_.randrange(5)] = random_.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        header = b"IHDR" + struct.pack(">2I5B", width, height, *rest)
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    body = random_.choice(
        (
            (b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 50_000_000)),
            (b"iCCP", b"k\0\0" + zlib.compress(b"\0" * 50_000_000)),
            (b"acTL", struct.pack(">2I", 2**31 - 1, 0)),
            (b"IHDR", data[16:29]),
            (b"PLTE", b"\0" * 768),
        )
    )
    chunk = struct.pack(">I", len(body[1])) + body[0] + body[1] + struct.pack(">I", zlib.crc32(body[0] + body[1]))
    return data[:33] + chunk + data[33:]
