"""Depth-weighted deformable attention in loops: trilinear sampling of the volume features x depth, which it builds."""

from __future__ import annotations

import math
from typing import Any


def depth_weighted(value: Any, depth: Any, locations: Any, weights: Any, sizes: list[tuple[int, int]]) -> Any:
    """One camera: out[n][head][c] from value[cell][head][c], depth[bin][row][column], locations[n][head][level][point].

    A cell of a level has the depth of the depth cell in which its upper left corner lies.
    """
    result: list[Any] = []
    for places, shares in zip(locations, weights, strict=True):
        result.append([])
        for head, (levels, level_shares) in enumerate(zip(places, shares, strict=True)):
            total = [0.0] * len(value[0][head])
            first = 0
            for level, (height, width) in enumerate(sizes):
                volume = _volume(value, depth, (first, height, width), head)
                for place, share in zip(levels[level], level_shares[level], strict=True):
                    sample = _trilinear(volume, place)
                    total = [a + share * b for a, b in zip(total, sample, strict=True)]
                first += height * width
            result[-1].append(total)
    return result


def _volume(value: Any, depth: Any, level: tuple[int, int, int], head: int) -> Any:
    """volume[bin][row][column] = depth probability times feature."""
    first, height, width = level
    lines, columns = len(depth[0]), len(depth[0][0])
    return [
        [
            [
                [
                    layer[row * lines // height][column * columns // width] * x
                    for x in value[first + row * width + column][head]
                ]
                for column in range(width)
            ]
            for row in range(height)
        ]
        for layer in depth
    ]


def _trilinear(volume: Any, place: Any) -> list[float]:
    """Sample at shares (u, v, depth) of the volume; cell i of n has its centre at (i + 0.5) / n; zero outside."""
    counts = (len(volume[0][0]), len(volume[0]), len(volume))
    x, y, z = (share * count - 0.5 for share, count in zip(place, counts, strict=True))
    total = [0.0] * len(volume[0][0][0])
    for layer in (math.floor(z), math.floor(z) + 1):
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= column < counts[0] and 0 <= row < counts[1] and 0 <= layer < counts[2]:
                    share = (1.0 - abs(x - column)) * (1.0 - abs(y - row)) * (1.0 - abs(z - layer))
                    total = [a + share * b for a, b in zip(total, volume[layer][row][column], strict=True)]
    return total
