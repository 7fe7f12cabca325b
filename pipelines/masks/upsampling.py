"""From the logits of a decoder to the pixels of an image, as two matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor


class Upsampler:
    """Bilinear to the network's square image, the padding cut off, bilinear to the size of the image.

    Both steps are linear and separable: along each side they are one matrix, which is what they make of unit vectors.
    """

    def __init__(self, logits_side: int, square: int, shown: tuple[int, int], shape: tuple[int, int]) -> None:
        """Makes the matrices.

        Args:
            logits_side: side of the logits, in their own pixels.
            square: side of the network's image, in pixels.
            shown: (height, width) of the part of it that the image fills, from the top left.
            shape: (H, W) of the image.
        """
        self.vertical, self.horizontal = (
            _resize_matrix(logits_side, square, part, size) for part, size in zip(shown, shape, strict=True)
        )
        self.rows = int(self.vertical.any(dim=0).nonzero().max()) + 1
        """Rows of the logits, from the top, that the image needs."""

    def __call__(self, logits: Float[Tensor, "M h w"]) -> Float[Tensor, "M H W"]:
        """Logits of every pixel, from at least the first `rows` rows."""
        vertical, horizontal = self.vertical.to(logits), self.horizontal.to(logits)
        return vertical[:, : self.rows] @ (logits[:, : self.rows] @ horizontal.T)


def _resize_matrix(size: int, square: int, shown: int, wanted: int) -> Float[Tensor, "wanted size"]:
    import torch
    from torch.nn.functional import interpolate

    full = interpolate(torch.eye(size)[None], square, mode="linear", align_corners=False)
    return interpolate(full[..., :shown], wanted, mode="linear", align_corners=False)[0].T.contiguous()
