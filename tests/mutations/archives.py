"""Ways to damage npz files, torch files and safetensors files, which know what they hold."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
import zipfile
from typing import Any

import numpy as np
import torch

from tests.mutations.mutate import damage_bytes, damage_json


def damage_npz(random_: random.Random, data: bytes) -> bytes:
    """Members of another compression, doubled, gone, huge, pickled or of another type and shape; headers of npy."""
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive}
    name = random_.choice(list(arrays))
    kind = random_.randrange(10)
    if kind == 0:
        arrays[name] = arrays[name].astype(
            random_.choice((bool, np.int64, np.float16, np.float64, "S3", "U2", "c8", "M8[s]"))
        )
    elif kind == 1:
        arrays[name] = random_.choice(
            (arrays[name][:1], arrays[name].T, arrays[name][None], np.uint8(3), np.zeros(0, np.uint8))
        )
    elif kind == 2:
        arrays[name] = arrays[name] + np.uint8(random_.choice((1, 2, 17, 100, 254)))
    elif kind == 3:
        arrays[name] = np.asfortranarray(arrays[name])
    elif kind == 4:
        arrays[name] = np.zeros(200_000_000, np.uint8)
    elif kind == 5:
        arrays[name] = np.array([{"a": 1}], dtype=object)
    elif kind == 6:
        del arrays[name]
    return _write_npz(random_, arrays, name, kind)


def _write_npz(random_: random.Random, arrays: dict[str, np.ndarray], victim: str, kind: int) -> bytes:
    stored = io.BytesIO()
    compression = (
        random_.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED)) if kind == 7 else zipfile.ZIP_DEFLATED
    )
    with zipfile.ZipFile(stored, "w", compression) as archive:
        for name, array in arrays.items():
            npy = io.BytesIO()
            np.lib.format.write_array(npy, array, allow_pickle=True)
            content = npy.getvalue()
            if name == victim and kind == 8:
                content = _damage_npy_header(random_, content)
            archive.writestr(f"{name}.npy", content)
        if kind == 9:  # one member twice, or thousands of further names
            for number in range(random_.choice((1, 20_000))):
                entry = copy.copy(archive.filelist[0])
                entry.filename = f"{victim}.npy" if number == 0 else str(number)
                archive.filelist.append(entry)
    data = bytearray(stored.getvalue())
    if random_.random() < 0.3:  # a field of the list of members: flags, kind, sizes, place
        entry = data.rfind(b"PK\x01\x02")
        place = entry + random_.choice((8, 10, 20, 24, 42))
        data[place : place + 2] = random_.choice((b"\1\0", b"\x63\0", b"\xff\xff", b"\0\0"))
    return bytes(data)


def _damage_npy_header(random_: random.Random, content: bytes) -> bytes:
    size = int.from_bytes(content[8:10], "little")
    header = content[10 : 10 + size]
    old, new = random_.choice(
        (
            (b"(", b"(" + b"9" * 40 + b","), (b"'|u1'", b"'|O'"), (b"'|u1'", b"[('a','<f8')]"), (b"False", b"True"),
            (b"'shape'", b"'shapes'"), (b"}", b"}" + b"(" * 3000), (b"(", b"(-"),
            (b"'descr'", b"__import__('os').system('x')"),
        )
    )  # fmt: skip
    header = header.replace(old, new, 1)
    return content[:8] + len(header).to_bytes(2, "little") + header + content[10 + size :]


class _Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def damage_torch(random_: random.Random, data: bytes) -> bytes:
    """Bytes of the file or of its pickle, compressed members, calls that allocate, tensors that share their memory."""
    kind = random_.randrange(8)
    if kind < 3 or not data.startswith(b"PK"):
        return damage_bytes(random_, data)
    if kind == 3:
        stored = io.BytesIO()
        torch.save({"weight": torch.zeros(1).expand(2**20, 2**20), "x": torch.zeros(3)}, stored)
        return stored.getvalue()
    if kind == 4:
        bomb = random_.choice(
            (
                _Calls(bytearray, 2**33), _Calls(torch.FloatStorage, 2**31), _Calls(eval, "1"), _Calls(set, [1]),
                _Calls(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (2**40,), (1,), False),
            )
        )  # fmt: skip
        stored = io.BytesIO()
        torch.save({"state_dict": {"conv1.weight": torch.zeros(2)}, "meta": bomb}, stored)
        return stored.getvalue()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    if kind == 5:
        members[name] = damage_bytes(random_, members[name])
    elif kind == 6:
        members[name] = random_.choice(
            (
                pickle.dumps([1] * 2_000_000),
                b"\x80\x02" + b"(" * 3_000_000 + b".",
                b"\x80\x02]" + b"\x8a\xff" * 99 + b".",
                b"",
            )
        )
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED if kind == 7 else zipfile.ZIP_STORED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return stored.getvalue()


def damage_safetensors(random_: random.Random, data: bytes) -> bytes:
    """Bytes, the size of the header, or the header as JSON."""
    size = int.from_bytes(data[:8], "little")
    kind = random_.randrange(4)
    if kind == 0:
        return damage_bytes(random_, data)
    if kind == 1:
        return random_.choice((0, 1, size - 1, 2**31, 2**63, 2**64 - 1)).to_bytes(8, "little") + data[8:]
    header = damage_json(random_, data[8 : 8 + size])
    if kind == 2:
        json_value = json.loads(data[8 : 8 + size])
        name = random_.choice([name for name in json_value if name != "__metadata__"])
        json_value[name]["shape"] = random_.choice(([2**40], [2**32, 2**32], [0], [-1], [1] * 1000, [2**63]))
        header = json.dumps(json_value).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + size :]
