"""Settings of the objective, equation (6)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.settings import Frozen


class LossConfig(Frozen):
    """Weights, temperatures and voxel subsets of the losses."""

    lambda_ce: float = Field(10.0, ge=0, description="Weight of the cross entropy (lambda 1), per view.")
    lambda_lovasz: float = Field(1.0, ge=0, description="Weight of the Lovasz-softmax loss (lambda 2), per view.")
    lambda_cls: float = Field(0.1, ge=0, description="Weight of the mean mask contrastive loss (lambda 3).")
    lambda_cons: float = Field(1.0, ge=0, description="Weight of the scene consistency loss (lambda 4).")
    lambda_pixels: float = Field(
        0.5, ge=0, description="Weight of the cross entropy of image cells, where model.pixel_classes adds its head."
    )
    lambda_depth: float = Field(
        0.5,
        ge=0,
        description="Weight of the cross entropy of the cells' depth, where model.pixel_depth adds its head, and of "
        "DFA3D's, where it is the published one.",
    )
    lambda_sem_scal: float = Field(
        0.0, ge=0, description="Weight of the semantic scene-class affinity (MonoScene), per view; 0: left out."
    )
    lambda_geo_scal: float = Field(
        0.0, ge=0, description="Weight of the geometric scene-class affinity (MonoScene), per view; 0: left out."
    )
    lambda_frustum: float = Field(
        0.0, ge=0, description="Weight of the frustum proportion loss (MonoScene), per view; 0: left out."
    )
    lambda_auxiliary: float = Field(
        0.5, ge=0, description="Weight of all losses of a classified voxel by earlier layers, where a network has them."
    )
    tau_cls: float = Field(0.1, gt=0, description="Temperature of the contrastive loss, equation (3).")
    tau_cons: float = Field(0.5, gt=0, description="Temperature that sharpens the mean distribution, equation (4).")
    class_weights: tuple[float, ...] | None = Field(
        None, description="Weight of each class in the cross entropy, by its index in the class table; null: all 1."
    )
    ce_mean: Literal["weights", "voxels"] = Field(
        "weights",
        description="What divides the weighted cross entropy: the sum of the weights, or the number of voxels "
        "(VoxFormer).",
    )
    supervised_voxels: int | None = Field(
        None,
        ge=1,
        description="Observed voxels per sample that cross entropy and Lovasz see: all occupied ones and, drawn at "
        "random, free ones up to this number (a quarter of it at least), which count for those left out; null: all.",
    )
    consistency_voxels: int | None = Field(
        None, ge=1, description="Voxels per sample that equation (5) averages, drawn at random (unbiased); null: all."
    )
