"""What can be seen from a point, in grids small enough to draw."""

import numpy as np

from schemas.voxels.lines_of_sight import see_around


def seen(occupied: np.ndarray, origin: list[float]) -> tuple[np.ndarray, np.ndarray]:
    free, surfaces = (np.zeros(occupied.shape, dtype=bool) for _ in range(2))
    see_around(occupied, np.array(origin), free, surfaces)
    return free, surfaces


def test_an_empty_grid_is_free_from_inside_and_from_outside() -> None:
    empty = np.zeros((6, 5, 4), dtype=bool)
    for origin in ([0.0, 2.5, 2.0], [3.2, 2.5, 1.9], [-20.0, 2.5, 2.0]):
        free, surfaces = seen(empty, origin)
        assert free.all()
        assert not surfaces.any()


def test_a_wall_hides_what_is_behind_it() -> None:
    """The wall at x = 3 fills y and z; its front is met, nothing behind it is seen."""
    wall = np.zeros((6, 5, 4), dtype=bool)
    wall[3:5] = True
    free, surfaces = seen(wall, [0.5, 2.5, 2.0])
    assert free[:3].all()
    assert not free[3:].any()
    assert surfaces[3].all()
    assert not surfaces[4:].any()


def test_the_shadow_of_one_voxel_widens() -> None:
    """Seen from (0, 2.5), the post at x in [2, 3), y in [2, 3) hides |y - 2.5| < 0.25 x: at x = 7.5 that is 1.9."""
    post = np.zeros((8, 5, 1), dtype=bool)
    post[2, 2] = True
    free, surfaces = seen(post, [0.0, 2.5, 0.5])
    assert surfaces.sum() == 1
    assert free[:, :, 0].astype(int).tolist() == [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [1, 1, 0, 1, 1],
        [1, 1, 0, 1, 1],
        [1, 1, 0, 1, 1],
        [1, 1, 0, 1, 1],
        [1, 0, 0, 0, 1],
        [1, 0, 0, 0, 1],
    ]
