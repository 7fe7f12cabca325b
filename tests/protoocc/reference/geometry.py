"""Where queries lie and which camera hits them, point by point."""

from __future__ import annotations

from dataclasses import dataclass

from tests.protoocc.reference.arithmetic import Matrix, Vector, dot

NEAREST_M = 0.1


@dataclass(frozen=True)
class Hit:
    """One query that one camera sees: place and depth of each anchor, None where the camera does not see it."""

    camera: int
    query: int
    places: list[tuple[float, float] | None]
    depths_m: Vector


def cell_centers(minimum: Vector, maximum: Vector, shape: tuple[int, int, int]) -> list[Vector]:
    """Centres of the equal cells that cut a box, metres; the last axis runs fastest."""
    steps = [(high - low) / count for low, high, count in zip(minimum, maximum, shape, strict=True)]
    return [
        [low + (i + 0.5) * step for low, i, step in zip(minimum, (x, y, z), steps, strict=True)]
        for x in range(shape[0])
        for y in range(shape[1])
        for z in range(shape[2])
    ]


def project(point_ego: Vector, camera_from_ego: Matrix, image_from_camera: Matrix) -> tuple[float, float, float]:
    """Pinhole camera: p = R x + t, depth = p_z, (u, v) = (K p)_xy / p_z, pixels; (0, 0, depth) when p_z <= 0."""
    point_camera = [dot(row[:3], point_ego) + row[3] for row in camera_from_ego[:3]]
    depth = point_camera[2]
    if depth <= 0.0:
        return 0.0, 0.0, depth
    return dot(image_from_camera[0], point_camera) / depth, dot(image_from_camera[1], point_camera) / depth, depth


def hits(
    anchors_ego: list[Matrix],
    poses: list[Matrix],
    intrinsics: list[Matrix],
    image: tuple[int, int],
    padded: tuple[int, int],
) -> list[Hit]:
    """Hit queries: those with an anchor deeper than 0.1 m and inside the unpadded image, camera after camera.

    Args:
        anchors_ego: ``anchors_ego[query][anchor]``, metres.
        poses: ``camera_from_ego`` of each camera.
        intrinsics: ``image_from_camera`` of each camera, pixels.
        image: height and width, pixels.
        padded: height and width of which places are a share, pixels.
    """
    found = []
    for camera, (pose, intrinsic) in enumerate(zip(poses, intrinsics, strict=True)):
        for query, anchors in enumerate(anchors_ego):
            places: list[tuple[float, float] | None] = []
            depths = []
            for anchor in anchors:
                u, v, depth = project(anchor, pose, intrinsic)
                is_seen = depth > NEAREST_M and 0.0 <= u < image[1] and 0.0 <= v < image[0]
                places.append((u / padded[1], v / padded[0]) if is_seen else None)
                depths.append(depth)
            if any(place is not None for place in places):
                found.append(Hit(camera, query, places, depths))
    return found
