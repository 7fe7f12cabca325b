"""Ways to read samples, each opened in the process that uses it: ours, bare decoding, the peers', other containers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from protoocc.data import Keyframe, ShardDataset, ShardSet, open_shards
from protoocc.data.decode import decode_occupancy
from protoocc.shards.members import MemberReader
from schemas.shards import META_MEMBER, OCCUPANCY_MEMBER
from schemas.store import OCCUPANCY

CAMERA_SIZE: Final = (900, 1600)
"""(H, W) of the images of nuScenes, pixels."""
LABELS: Final = "labels.npz"
LIBRARIES: Final = {"litdata": "litdata", "mosaicml-streaming": "streaming"}
"""Other containers, by the name to install and the one to import."""
_READ_BYTES: Final = 2**20


def is_installed(library: str) -> bool:
    """Whether one of `LIBRARIES` can be imported."""
    return find_spec(LIBRARIES[library]) is not None


def decode_bare(members: dict[str, bytes]) -> list[Any]:
    """What no reader can do without: images and masks by OpenCV, arrays by numpy, JSON; nothing is checked."""
    images = [
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        for name, data in members.items()
        if name.endswith((".jpg", ".png"))
    ]
    with np.load(io.BytesIO(members[OCCUPANCY_MEMBER]), allow_pickle=False) as arrays:
        return [*images, *(arrays[spec.name] for spec in OCCUPANCY), json.loads(bytes(members[META_MEMBER]))]


def open_ours(folder: Path, split: str) -> Callable[[int], Keyframe]:
    """The reader: bytes, all checks, keyframes."""
    return ShardDataset(open_shards(folder, split)).__getitem__


def open_bytes(folder: Path, split: str) -> Callable[[int], dict[str, bytes]]:
    """The reader without decoding: members, each checked against its header."""
    shards = open_shards(folder, split)
    reader, names = MemberReader(shards), shards.manifest.extensions
    return lambda number: reader.read(number, names)


def open_bare(folder: Path, split: str, samples: int) -> Callable[[int], list[Any]]:
    """Bare decoding of bytes that were read when it was opened."""
    read = open_bytes(folder, split)
    stored = [read(number) for number in range(samples)]
    return lambda number: decode_bare(stored[number])


def open_raw(tars: tuple[Path, ...]) -> Callable[[int], int]:
    """Whole tars from end to end, without a look at what is in them."""

    def read(number: int) -> int:
        count = 0
        with tars[number].open("rb", buffering=0) as file:
            while block := file.read(_READ_BYTES):
                count += len(block)
        return count

    return read


def write_peers(source: ShardSet, folder: Path, samples: int, images: Path | None) -> float:
    """The files that loaders of raw data read: for each sample a folder of camera images and `labels.npz`.

    Args:
        source: the split.
        folder: for the files.
        samples: how many, the first ones.
        images: folder of JPEGs of `CAMERA_SIZE` that stand for the cameras', in turn; None makes them of the
            network's images, enlarged, with quality 95.

    Returns:
        Mean size of an image, bytes.
    """
    dataset, reader = ShardDataset(source), MemberReader(source)
    found = sorted(images.rglob("*.jpg")) if images else []

    def write(number: int) -> int:
        target, size = folder / f"{number:05d}", 0
        target.mkdir(parents=True)
        frame = dataset[number]
        for camera, picture in enumerate(frame.images):
            data = (
                found[(number * len(frame.images) + camera) % len(found)].read_bytes() if found else _enlarged(picture)
            )
            (target / f"{camera}.jpg").write_bytes(data)
            size += len(data)
        stored = reader.read(number, [OCCUPANCY_MEMBER])[OCCUPANCY_MEMBER]
        np.savez_compressed(target / LABELS, **decode_occupancy("", stored, source.dataset))
        return size

    with ThreadPoolExecutor(2) as pool:
        size = sum(pool.map(write, range(samples)))
    return size / (samples * len(source.dataset.cameras))


def _enlarged(picture: np.ndarray) -> bytes:
    """A network image as a camera of nuScenes would give it: enlarged, as JPEG."""
    large = cv2.resize(picture, CAMERA_SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(large, cv2.COLOR_RGB2BGR), options)[1])


def open_peers(folder: Path, cameras: int, image_shape: tuple[int, int]) -> Callable[[int], list[np.ndarray]]:
    """How loaders of BEVDet and Occ3D read a sample: whole images, resized, cropped at the top, and one npz."""
    height, width = image_shape
    resized = (width, max(round(width * CAMERA_SIZE[0] / CAMERA_SIZE[1]), height))

    def read(number: int) -> list[np.ndarray]:
        arrays = []
        for camera in range(cameras):
            image = cv2.imread(str(folder / f"{number:05d}" / f"{camera}.jpg"))
            small = cv2.resize(image, resized, interpolation=cv2.INTER_LINEAR)
            arrays.append(small[resized[1] - height :])
        with np.load(folder / f"{number:05d}" / LABELS, allow_pickle=False) as labels:
            return arrays + [labels[spec.name] for spec in OCCUPANCY]

    return read


def write_container(library: str, source: ShardSet, folder: Path, samples: int) -> None:
    """The bytes of the members of a split's first samples in a container of `LIBRARIES`."""
    reader, names = MemberReader(source), source.manifest.extensions
    members = (reader.read(number, names) for number in range(samples))
    (_write_litdata if library == "litdata" else _write_mosaic)(folder, members, names)


def _write_litdata(folder: Path, samples: Iterator[dict[str, bytes]], names: tuple[str, ...]) -> None:
    from litdata.streaming import Cache

    cache: Any = Cache(str(folder), chunk_bytes="64MB")
    for number, members in enumerate(samples):
        cache[number] = members
    cache.done()
    cache.merge()


def _write_mosaic(folder: Path, samples: Iterator[dict[str, bytes]], names: tuple[str, ...]) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns=dict.fromkeys(names, "bytes")) as writer:
        for members in samples:
            writer.write(members)


def open_container(library: str, folder: Path) -> Callable[[int], list[Any]]:
    """Samples of a container with bare decoding."""
    dataset: Any
    if library == "litdata":
        from litdata import StreamingDataset

        dataset = StreamingDataset(str(folder))
    else:
        from streaming import LocalDataset

        dataset = LocalDataset(str(folder))
    return lambda number: decode_bare(dataset[number])
