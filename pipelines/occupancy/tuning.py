"""Constants of single steps of the label maker, fields of `LidarConfig`.

Defaults were tuned on generated worlds of seeds 3 and 5 and checked on others (docs/labels.md). Lengths in voxels were
tuned with voxels of 0.4 m.
"""

from __future__ import annotations

from pydantic import Field

from schemas.settings import Frozen


class HeightDriftConfig(Frozen):
    """How the height that poses miss is measured, see `height_drift.measure_height_drift`."""

    column_m: float = Field(0.5, gt=0, description="Edge of the columns that two keyframes are compared in, in metres.")
    flat_m: float = Field(
        0.1, gt=0, description="Columns whose points differ more in height show no ground, in metres."
    )
    min_shared: int = Field(
        100, ge=1, description="Flat columns that two keyframes must share before their heights are compared."
    )


class GroundFitConfig(Frozen):
    """How the ground is found in scenes without point labels, see `ground.fit_ground`."""

    cell_m: float = Field(1.0, gt=0, description="Edge of the cells whose lowest points are taken, in metres.")
    slope: float = Field(
        0.08, ge=0, description="Steepest rise over the vehicle's own plane that still counts as ground."
    )
    most_m: float = Field(
        2.0, gt=0, description="Largest height over that plane that counts as ground at any distance, in metres."
    )
    bump_m: float = Field(
        0.25, gt=0, description="A cell that lies this much above its smooth surroundings shows no ground, in metres."
    )
    smooth_cells: float = Field(1.5, gt=0, description="Standard deviation of the smoothing, in cells.")


class GroundSurfaceConfig(Frozen):
    """How the ground between its points is sampled, see `completion.ground_votes`."""

    samples: int = Field(4, ge=1, description="Samples across a voxel, along x and along y.")
    smooth_voxels: float = Field(
        2.5, gt=0, description="Standard deviation of the Gaussian that smooths heights near known ground, in voxels."
    )
    trend_voxels: float = Field(
        10.0, gt=0, description="Standard deviation of the Gaussian that weighs heights for the trend, in voxels."
    )
    step_voxels: float = Field(
        1.0,
        gt=0,
        description="Unknown matter within this height of the surface keeps known ground from spreading there.",
    )


class SurfaceConfig(Frozen):
    """When a plane through points fills a voxel, see `surfaces.fill_surfaces`."""

    min_points: int = Field(6, ge=3, description="Points in the voxel and the 26 around it that make a plane.")
    flatness: float = Field(
        0.45, gt=0, description="Largest thickness of a surface, as a share of its width (standard deviations)."
    )
    margin: float = Field(
        0.9,
        gt=0,
        le=1,
        description="How deep in a voxel the plane must pass: largest share of the way from its middle to its corner "
        "along the normal.",
    )
    foot_margin: float = Field(
        0.5, gt=0, le=1, description="The same where a voxel of the ground becomes the foot of an upright surface."
    )
    upright: float = Field(
        0.3, gt=0, le=1, description="Largest upward part of the normal of a wall whose foot is looked for."
    )
    foot_below: float = Field(
        1.6,
        gt=0,
        description="The floor of a foot lies at most so far below the middle of its wall's points, in voxels.",
    )
    near_middle: float = Field(
        0.95,
        gt=0,
        description="Largest distance along the surface between the middles of voxel and points, in voxels, so that "
        "no edge is extended.",
    )


class EvidenceConfig(Frozen):
    """When rays through a voxel outweigh what was found in it, see `outvoted.outvoted_voxels`."""

    ratio: float = Field(
        0.6, ge=0, lt=1, description="A voxel becomes free whose hits / (hits + passes) are not above this."
    )
    prior_hits: float = Field(
        2.0,
        ge=0,
        description="Hits that an occupied voxel starts with, times 1 + the logarithm of 1 + all that was found in it: "
        "a few rays past a corner free nothing, and more rays are needed against more matter.",
    )
    ignore_end_voxels: float = Field(
        2.5,
        ge=0,
        description="A ray does not count as a pass so near its hit, in voxels: surfaces lie somewhere in a voxel, not "
        "in its middle.",
    )
