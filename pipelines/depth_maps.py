"""The user's depth maps: a file beside each camera file, as metres at the network's image, sparse or dense."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float32, UInt16

from pipelines.images import take_and_crop
from schemas.datasets import DatasetSpec
from schemas.errors import DataError, raise_machine_fault
from schemas.images import ImageSpec
from schemas.network_images import encode_image, resized_size
from schemas.outside import Source, image_size
from schemas.outside.arrays import read_npy
from schemas.outside.limits import CAMERA_PIXELS
from schemas.pixels import encode_depth
from schemas.records import SampleRecord

_ENDINGS: Final = (".npy", ".png")
_STEPS_A_METRE: Final = 256
"""A 16-bit PNG of depth holds metres * 256, as KITTI's do; 0 is no depth."""
REMEDY: Final = "Restore the map, or leave --depth-maps away."
"""What to do about a map that cannot be read."""
_SMALL_PNG: Final = [cv2.IMWRITE_PNG_COMPRESSION, 4]


def map_paths(folder: Path, dataset: DatasetSpec, record: SampleRecord) -> list[Path]:
    """The map of each camera of a keyframe: its camera file's path, below ``folder``, ending in .npy or .png.

    Raises:
        DataError: a camera has none.
    """
    cameras = [(channel, record.cameras[channel].path) for channel in dataset.cameras]
    return [find_map(f"sample {record.token}, {channel}", folder, path) for channel, path in cameras]


def depth_map_member(folder: Path, dataset: DatasetSpec, record: SampleRecord) -> bytes:
    """`input_depth.png`: depth of the network's images of all cameras, below each other, in centimetres.

    Raises:
        DataError: a map is missing, damaged, of another size than its camera file, or holds what is no depth.
    """
    images = []
    for channel, path in zip(dataset.cameras, map_paths(folder, dataset, record), strict=True):
        camera = record.cameras[channel]
        source = Source(f"sample {record.token}: depth map {path}", REMEDY)
        images.append(network_map(source, path, (camera.height, camera.width), dataset.image_of(channel)))
    return encode_image(".png", np.concatenate(images), _SMALL_PNG)


def network_map(source: Source, path: Path, shape: tuple[int, int], spec: ImageSpec) -> UInt16[np.ndarray, "H W"]:
    """A map as a depth image of the network's image, centimetres; arguments and errors as of the two parts below."""
    return encode_depth(to_network_image(read_depth_map(source, path, shape), spec))


def read_depth_map(source: Source, path: Path, shape: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """Depth along the camera's axis of each pixel of a camera file, metres; 0 where there is none.

    Args:
        source: says in messages what the file is and what to do about it.
        path: .npy of float32 or float64 in metres, or a grey 16-bit .png of metres * 256.
        shape: (rows, columns) of the camera file.

    Raises:
        DataError: missing, damaged, of another type or shape, or with a negative or infinite depth.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise_machine_fault(error)
        raise source.error(f"cannot be read ({error.strerror})") from error
    if path.suffix == ".png":
        return _read_png(source, data, shape).astype(np.float32) / _STEPS_A_METRE
    depth = read_npy(source, data, 8 * CAMERA_PIXELS)
    if depth.dtype not in (np.float32, np.float64) or depth.shape != shape:
        raise source.error(f"holds {depth.dtype} {depth.shape}, expected float32 {shape}, metres, as the camera file")
    if not (np.isfinite(depth) & (depth >= 0)).all():
        wrong = depth[~(np.isfinite(depth) & (depth >= 0))][0]
        raise source.error(f"holds a depth of {wrong}, expected metres, and 0 where there is none")
    return depth.astype(np.float32)


def to_network_image(depth_m: Float32[np.ndarray, "h w"], spec: ImageSpec) -> Float32[np.ndarray, "H W"]:
    """Depth at the network's image; no value is mixed with another one, which would put points between two things.

    Where an image shrinks, a pixel has the nearest of the depths that fall into it, as with points of a LiDAR: a sparse
    map loses none of its places. Where it grows or stays, a pixel has the depth of the pixel that it lies in.

    Raises:
        DataError: the crop leaves the image.
    """
    width, height = resized_size(depth_m, spec)
    if width >= depth_m.shape[1] and height >= depth_m.shape[0]:
        return take_and_crop(depth_m, spec)
    left, top, columns, rows = spec.crop
    row, column = np.nonzero(depth_m)
    depth = depth_m[row, column]
    row = ((row + 0.5) * height / depth_m.shape[0]).astype(np.int64) - top
    column = ((column + 0.5) * width / depth_m.shape[1]).astype(np.int64) - left
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    nearest = np.full((rows, columns), np.inf, np.float32)
    np.minimum.at(nearest, (row[inside], column[inside]), depth[inside])
    return np.where(np.isfinite(nearest), nearest, np.float32(0))


def find_map(where: str, folder: Path, photo: str) -> Path:
    """The map of a camera file: at the same path below ``folder``, ending in .npy or .png.

    Args:
        where: what has no map, for the message.
        folder: of the maps.
        photo: path of the camera file below its own folder; of one that lies elsewhere only the name counts.

    Raises:
        DataError: there is none.
    """
    relative = Path(photo)
    stem = (folder / (relative.name if relative.is_absolute() else relative)).with_suffix("")
    found = [path for ending in _ENDINGS if (path := stem.with_name(stem.name + ending)).is_file()]
    if not found:
        raise DataError(
            f"{where}: no depth map {stem}.npy or .png; --depth-maps expects one for each camera file, at the same "
            "path below its folder. Add it, or leave --depth-maps away."
        )
    return found[0]


def _read_png(source: Source, data: bytes, shape: tuple[int, int]) -> UInt16[np.ndarray, "h w"]:
    header = image_size(source, data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.shape != shape:
        raise source.error(
            f"is a {header.bits}-bit image of {(header.height, header.width)}, expected a grey one of 16 bits and "
            f"{shape}, metres * {_STEPS_A_METRE}, as the camera file"
        )
    return image
