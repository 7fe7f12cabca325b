"""The card beside an exported model: what goes in, what comes out, and how well it agrees with PyTorch."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field

from schemas.classes import ClassTable
from schemas.geometry import VoxelGrid
from schemas.settings import Frozen

_TENSORS: Final[dict[str, tuple[str, str, str]]] = {
    "images": ("uint8", "0..255", "RGB, batch of one, camera, colour, row, column; resized and cropped as in training"),
    "image_from_camera": ("float32", "pixels", "3x3 intrinsics of each image as it is given"),
    "camera_from_ego": ("float32", "metres", "4x4 pose of the ego frame in each camera"),
    "past_images": ("uint8", "0..255", "as images, of earlier keyframes, the nearest first"),
    "past_image_from_camera": ("float32", "pixels", "as image_from_camera, of earlier keyframes"),
    "past_camera_from_ego": ("float32", "metres", "as camera_from_ego, with the ego frame of the earlier keyframe"),
    "past_from_ego": ("float32", "metres", "4x4 pose of the present ego frame in that of each earlier keyframe"),
    "input_depth_m": ("float32", "metres", "depth of each pixel along the axis of its camera, 0 where there is none"),
    "logits": ("float32", "1", "score of each class at each voxel (x, y, z) of the grid; softmax gives probabilities"),
    "semantics": ("uint8", "class", "most probable class of each voxel (x, y, z)"),
}
"""dtype, unit and meaning by name."""


class TensorCard(Frozen):
    """One input or output."""

    name: str = Field(description="Name in the graph.")
    shape: tuple[int, ...] = Field(description="All of it is fixed.")
    dtype: str = Field(description="Of its values.")
    unit: str = Field(description="Of its values.")
    meaning: str = Field(description="What it is; axes from left to right.")


class Difference(Frozen):
    """One comparison of onnxruntime with PyTorch."""

    case: str = Field(description="What both were run on.")
    largest: float = Field(description="Largest difference of a logit.")
    classes: int = Field(description="Voxels whose class differs: near ties.")
    voxels: int = Field(description="Voxels compared.")


class ModelCard(Frozen):
    """`<model>.onnx.json`."""

    opset: int = Field(description="ONNX opset of the graph.")
    code_version: str = Field(description="Release and commit of the program.")
    weights: str = Field(description="SHA-256 over the network's weights and settings, as in predictions.json.")
    network: dict[str, Any] = Field(description="Settings of the network.")
    inputs: tuple[TensorCard, ...] = Field(description="In their order.")
    outputs: tuple[TensorCard, ...] = Field(description="In their order.")
    cameras: tuple[str, ...] = Field(description="Names of the images in their order.")
    calibration: dict[str, Any] | None = Field(description="Matrices in the graph; null where they are inputs.")
    grid: VoxelGrid = Field(description="Output grid, ego frame: x forward, y left, z up.")
    classes: ClassTable = Field(description="Names and colours of the classes by number.")
    largest_difference: float = Field(description="What the check allows.")
    differences: tuple[Difference, ...] = Field(description="What it found.")


def describe_tensor(name: str, shape: tuple[int, ...]) -> TensorCard:
    """What an input or output is."""
    dtype, unit, meaning = _TENSORS[name]
    return TensorCard(name=name, shape=shape, dtype=dtype, unit=unit, meaning=meaning)
