"""Weights to start from: torchvision's ResNets, PanoOcc's checkpoints, FCOS3D's backbone, and our own pretraining."""

from protoocc.weights.files import WeightsFile, read_weights, reread_weights
from protoocc.weights.fill import LEAST_SHARES, check_weights, fill
from protoocc.weights.parts import fill_parts
from protoocc.weights.report import Group, PartShare, WeightsReport

__all__ = [
    "LEAST_SHARES",
    "Group",
    "PartShare",
    "WeightsFile",
    "WeightsReport",
    "check_weights",
    "fill",
    "fill_parts",
    "read_weights",
    "reread_weights",
]
