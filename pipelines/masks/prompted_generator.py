"""Automatic masks of a network of point prompts, as one label map per image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import cv2
import numpy as np
from jaxtyping import Int32, UInt8

from pipelines.masks.compile_errors import explain_compile_errors
from pipelines.masks.config import PromptedConfig
from pipelines.masks.generator import Size
from pipelines.masks.label_map import paint_masks
from pipelines.masks.prompted import PromptedNetwork, find_masks


class PromptedGenerator:
    """Finds masks with a network and paints them into label maps."""

    def __init__(self, network: PromptedNetwork, config: PromptedConfig, size: Size) -> None:
        """Takes a network on its device; images get ``size`` first, so masks are made at the network image's scale."""
        self.network, self.config, self.size = network, config, size

    def generate(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Int32[np.ndarray, "_ _"]]:
        """Label maps of BGR images; `MaskGenerator` has the terms.

        Raises:
            SetupError: the network is to be compiled, and that fails.
        """
        sized = [
            image if self.size is None else cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
            for image in images
        ]
        with one_thread(), explain_compile_errors(self.config.device) if self.config.compile else nullcontext():
            found = find_masks(self.network, self.config, [cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in sized])
        return [
            paint_masks(list(masks.masks), (image.shape[0], image.shape[1]))
            for masks, image in zip(found, sized, strict=True)
        ]


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: sums get the same order, and masks the same bytes, with any number of workers."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
