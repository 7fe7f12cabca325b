"""The driveable area around each scene, cut once out of the map's mask, so that no later stage opens a whole city.

A mask of nuScenes holds up to 1.2e9 pixels in a PNG, which no reader opens in part: it is decoded once per run (about
10 s and one byte per pixel: 1.2 GB, the peak of `prepare`), and its black and white pixels are left as a raster of one
bit per pixel, of which the tasks read their own rows.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from pipelines.files import write_bytes
from pipelines.prepare.source import MapImage, Source
from schemas.errors import DataError, disk_errors, raise_machine_fault, read_errors
from schemas.names import file_key
from schemas.records import MapWindow, SampleRecord
from schemas.settings import Frozen

WINDOWS: Final = "maps"
"""Folder of the windows, below the records."""
RASTERS: Final = "rasters"
"""Folder of the rasters, below the records until these are finished."""
REACH_M: Final = 120.0
"""A window reaches so far beyond the vehicle's places: farther than any LiDAR point that is looked up in it."""
_THRESHOLD: Final = 127
_STRIP_ROWS: Final = 512


class Raster(Frozen):
    """A map's mask as a file of bits that tasks map into memory."""

    path: str = Field(
        description="Below the records folder: `.npy` of packed bits (height, width / 8 rounded up), north first."
    )
    size_px: tuple[int, int] = Field(description="Width and height, pixels.")
    pixel_m: float = Field(description="Edge of a pixel, metres.")

    def covers(self, record: SampleRecord) -> bool:
        """Whether the vehicle stands on the map."""
        place = zip(record.global_from_vehicle.translation_m, self.size_px, strict=False)
        return all(0 <= value_m < pixels * self.pixel_m for value_m, pixels in place)


def unpack_maps(source: Source, scenes: Sequence[str], folder: Path) -> Mapping[str, Raster]:
    """Decodes the masks of some scenes, each once, one after the other.

    Args:
        source: knows the masks.
        scenes: scene names.
        folder: the records folder; rasters are put below it.

    Returns:
        Raster of each scene that has a map.

    Raises:
        DataError: a mask is no whole image.
    """
    images = {scene: image for scene in scenes if (image := source.map_image(scene)) is not None}
    rasters = {
        image: _unpack(image, folder, f"{RASTERS}/{number:03d}.npy")
        for number, image in enumerate(sorted(set(images.values())))
    }
    return {scene: rasters[image] for scene, image in images.items()}


def _unpack(image: MapImage, folder: Path, path: str) -> Raster:
    target = folder / path
    Image.MAX_IMAGE_PIXELS = None  # PIL warns of images that nuScenes surpasses
    try:
        with Image.open(image.path) as mask:
            mask.load()
            width, height = mask.size
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                shape = (height, -(-width // 8))
                with target.open("wb") as file:  # written, not mapped: a mapped file on a full disk kills the process
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
                    for top in range(0, height, _STRIP_ROWS):
                        strip = np.asarray(mask.crop((0, top, width, min(top + _STRIP_ROWS, height))).convert("L"))
                        file.write(np.packbits(strip > _THRESHOLD, axis=1).tobytes())
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise_machine_fault(error)
        raise DataError(f"{image.path}: map mask is missing or no whole image ({error}); copy it again") from error
    return Raster(path=path, size_px=(width, height), pixel_m=image.pixel_m)


def cut_window(raster: Raster, records: Sequence[SampleRecord], folder: Path) -> MapWindow | None:
    """Writes the window around one scene's keyframes as ``folder/maps/<key of the scene>.png``, of one bit per pixel.

    Args:
        raster: mask of the scene's map.
        records: keyframes of one scene, at least one.
        folder: the records folder.

    Returns:
        Where the window is and what it covers; None if the vehicle never comes near the map.
    """
    places_m: Float64[np.ndarray, "k 3"] = np.array([record.global_from_vehicle.translation_m for record in records])
    low = np.floor((places_m[:, :2].min(axis=0) - REACH_M) / raster.pixel_m).astype(np.int64)
    high = np.ceil((places_m[:, :2].max(axis=0) + REACH_M) / raster.pixel_m).astype(np.int64)
    low, high = np.maximum(low, 0), np.minimum(high, raster.size_px)
    (left, bottom), (right, top) = low.tolist(), high.tolist()
    if left >= right or bottom >= top:
        return None
    height = raster.size_px[1]
    bits = _read_rows(folder / raster.path, raster, height - top, height - bottom)
    rows = np.unpackbits(bits[:, left // 8 : -(-right // 8)], axis=1)
    window = rows[:, left % 8 : left % 8 + right - left].astype(bool)
    path = f"{WINDOWS}/{file_key(records[0].scene)}.png"
    png = io.BytesIO()
    Image.fromarray(window).save(png, format="PNG")
    write_bytes(folder / path, png.getvalue())
    x_m, y_m = (low * raster.pixel_m).tolist()
    return MapWindow(path=path, corner_m=(x_m, y_m), pixel_m=raster.pixel_m)


def _read_rows(path: Path, raster: Raster, first: int, stop: int) -> UInt8[np.ndarray, "rows bytes"]:
    """Some rows of a raster, eight pixels to a byte; read, not mapped: a mapped file that is cut kills the process.

    Raises:
        DataError: the file is cut or cannot be read.
    """
    width = -(-raster.size_px[0] // 8)
    with read_errors(path), path.open("rb") as file:
        np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
        file.seek(first * width, os.SEEK_CUR)
        data = file.read((stop - first) * width)
    if len(data) != (stop - first) * width:
        raise DataError(f"{path} was cut while it was read. Run `protoocc prepare --overwrite`.")
    return np.frombuffer(data, np.uint8).reshape(-1, width)
