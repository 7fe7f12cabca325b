"""`depth.npz` of a sample: points of the LiDAR in the images, checked and put into the pixels."""

from __future__ import annotations

import numpy as np

from protoocc.labels import check_labels
from protoocc.shards import PACK_AGAIN
from schemas.errors import DataError
from schemas.outside import Source, read_npz
from schemas.outside.limits import LIDAR_M
from schemas.shards import DEPTH_ARRAYS, DEPTH_MEMBER, DatasetInfo


def decode_depth_points(where: str, data: bytes, dataset: DatasetInfo) -> dict[str, np.ndarray]:
    """`depth_m` (V, H, W) float32 and `pixel_classes` (V, H, W) uint8 of all cameras.

    Args:
        where: shard and sample, for messages.
        data: the file.
        dataset: says the cameras, their image size and the class table.

    Returns:
        Depth in metres, 0 where there is no point; and its class, unknown where there is none.

    Raises:
        DataError: no npz, an array is missing or of another type or size, a point lies outside its image or where no
            LiDAR sees, or a class is not in the table.
    """
    source = Source(f"{where}: {DEPTH_MEMBER}", PACK_AGAIN)
    cameras, (height, width) = len(dataset.cameras), dataset.image_shape
    arrays = read_npz(source, data, list(DEPTH_ARRAYS), 8 * cameras * height * width)
    _check_types(source, arrays, cameras)
    count, u, v, depth_m, label = (arrays[name] for name in DEPTH_ARRAYS)
    if (u >= width).any() or (v >= height).any():
        raise source.damaged(f"a point at pixel ({u.max()}, {v.max()}) or before, the images are {width} x {height}")
    if not ((depth_m > 0) & (depth_m <= LIDAR_M)).all():
        raise source.damaged(f"a depth that is not above 0 and up to {LIDAR_M:g} m")
    check_labels(f"{where}: {DEPTH_MEMBER}", label, dataset.classes, may_be_unknown=True)
    camera = np.repeat(np.arange(cameras), count.astype(np.int64))
    depth = np.zeros((cameras, height, width), np.float32)
    classes = np.full((cameras, height, width), dataset.classes.ignored, np.uint8)
    depth[camera, v, u], classes[camera, v, u] = depth_m, label
    return {"depth_m": depth, "pixel_classes": classes}


def _check_types(source: Source, arrays: dict[str, np.ndarray], cameras: int) -> None:
    """All arrays are there, of their types; the counts of the cameras add up to the points."""
    missing = [name for name in DEPTH_ARRAYS if name not in arrays]
    if missing:
        raise source.damaged(f"'{missing[0]}' is missing")
    points = sum(arrays["count"].tolist()) if arrays["count"].shape == (cameras,) else -1
    for name, dtype in DEPTH_ARRAYS.items():
        expected = (cameras,) if name == "count" else (points,)
        if arrays[name].dtype != dtype or arrays[name].shape != expected:
            raise DataError(
                f"{source.where}: '{name}' is {arrays[name].dtype} {arrays[name].shape}, expected {dtype} with one "
                f"value for each of {cameras} cameras (count) or of the points that it tells. {PACK_AGAIN}"
            )
