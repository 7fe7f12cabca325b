"""Straight lines through a voxel grid: which voxels they pass, what they meet first, what cameras see.

The one place below `pipelines` and `protoocc` that walks voxels, and the only one in `schemas` that needs numba; so
nothing else in `schemas` imports it. `walk` holds the steps, `first_hit` and `visibility` what is asked most.

Conventions of every function here:
    Coordinates are voxel units: (p - minimum) / voxel size, so voxel i of an axis covers [i, i + 1).
    A ray goes on until it leaves the grid. A segment starts in voxel floor(start) and ends in voxel floor(end); both
    belong to its path.
    One step crosses one face. Where two faces are met at the same time (an edge or a corner), x goes before y before z.
    A line that starts outside the grid begins where it enters.
    Everything is float64 and runs in one fixed order, so results are the same on every run.

Source: Amanatides and Woo, A fast voxel traversal algorithm for ray tracing, 1987.
"""
