"""Pretraining of image features on the classes and depth of single pixels; the result is a file of weights."""

from protoocc.pretrain.config import PretrainConfig, pretrain_preset
from protoocc.pretrain.trainer import PretrainStep, PretrainSummary, pretrain_images

__all__ = ["PretrainConfig", "PretrainStep", "PretrainSummary", "pretrain_images", "pretrain_preset"]
