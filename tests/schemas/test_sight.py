import numpy as np

from schemas.voxels.sight import reveal


def meets(occupied: np.ndarray, start: np.ndarray, eye: np.ndarray) -> bool:
    """Whether a line meets an occupied voxel but the eye's own: the line is clipped to each of them by slabs."""
    boxes = np.argwhere(occupied)
    boxes = boxes[np.any(boxes != np.floor(eye), axis=1)]
    faces = (boxes[:, :, None] + [0, 1] - start[:, None]) / (eye - start)[:, None]
    enters, leaves = faces.min(axis=2).max(axis=1), faces.max(axis=2).min(axis=1)
    return bool(np.any(np.maximum(enters, 0.0) < np.minimum(leaves, 1.0)))


def test_wall_hides_what_is_behind_it_and_itself() -> None:
    occupied = np.zeros((6, 3, 1), bool)
    occupied[2, :, 0] = True
    hidden = np.ones_like(occupied)
    reveal(hidden, occupied, np.array([[-3.0, 1.5, 0.5]]))
    assert hidden[:, :, 0].tolist() == [[False] * 3] * 2 + [[True] * 3] * 4


def test_voxel_is_seen_from_any_point_and_stays_seen() -> None:
    occupied = np.zeros((5, 1, 1), bool)
    occupied[2] = True
    hidden = np.ones_like(occupied)
    reveal(hidden, occupied, np.array([[-1.0, 0.5, 0.5], [6.0, 0.5, 0.5]]))
    assert hidden.ravel().tolist() == [False, False, True, False, False]
    reveal(hidden, np.ones_like(occupied), np.array([[-1.0, 0.5, 0.5]]))
    assert hidden.ravel().tolist() == [False, False, True, False, False]


def test_the_points_own_voxel_hides_nothing() -> None:
    occupied = np.zeros((4, 1, 1), bool)
    occupied[3] = True
    hidden = np.ones_like(occupied)
    reveal(hidden, occupied, np.array([[3.5, 0.5, 0.5]]))
    assert hidden.ravel().tolist() == [False, False, False, True]


def test_agrees_with_a_literal_walk_from_many_points() -> None:
    generator = np.random.default_rng(0)
    occupied = generator.random((9, 8, 5)) < 0.2
    eyes = generator.uniform([-6.0, 1.0, 1.0], [12.0, 7.0, 4.0], (6, 3))
    hidden = np.ones_like(occupied)
    reveal(hidden, occupied, eyes)
    voxels = np.argwhere(np.ones_like(occupied))
    expected = [all(meets(occupied, voxel + 0.5, eye) for eye in eyes) or occupied[tuple(voxel)] for voxel in voxels]
    assert hidden.ravel().tolist() == expected
    assert 0.13 < hidden.mean() < 0.9 and hidden.sum() > occupied.sum()
