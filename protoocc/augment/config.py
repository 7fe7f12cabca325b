"""Settings of the augmentation of training samples; everything is off unless a run asks for it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from schemas.settings import Frozen


class AugmentConfig(Frozen):
    """What is changed at random in a training sample, afresh in each epoch.

    The photometric parts act on half of the images each, as in the host; a camera's earlier images get the draw of its
    present one. Flips and GridMask are drawn once for all cameras and earlier frames of a sample.
    """

    brightness: float = Field(0.0, ge=0, le=255, description="Largest shift of all colours, of 255; the host: 32.")
    contrast: float = Field(0.0, ge=0, lt=1, description="Colours times 1 - contrast to 1 + contrast; the host: 0.5.")
    saturation: float = Field(0.0, ge=0, lt=1, description="The same for saturation; the host: 0.5.")
    hue_deg: float = Field(0.0, ge=0, le=180, description="Largest turn of the hue, degrees; the host: 18.")
    swap_channels: bool = Field(False, description="Exchange red, green and blue in half of the images; the host: yes.")
    grid_mask: float = Field(0.0, ge=0, le=1, description="Share of samples with squares blanked out; the host: 0.7.")
    flip_images: float = Field(
        0.0, ge=0, le=1, description="Share of samples with all images mirrored, the scene as it is; the host: 0.5."
    )
    flip_x: float = Field(
        0.0, ge=0, le=1, description="Share of samples mirrored front to back: images, calibration, labels, motion."
    )
    flip_y: float = Field(0.0, ge=0, le=1, description="Share of samples mirrored left to right in the same way.")


HOST: Final = AugmentConfig(
    brightness=32.0,
    contrast=0.5,
    saturation=0.5,
    hue_deg=18.0,
    swap_channels=True,
    grid_mask=0.7,
    flip_images=0.5,
)
"""What PanoOcc trains with on Occ3D; it resizes and crops to one fixed size, so there is no jitter of either."""

_OFF: Final = AugmentConfig()


def read_augment(value: Any) -> Any:
    """The word ``host`` as `HOST` and ``off`` as no augmentation, as `--set data.augment=host` gives them."""
    words = {"host": HOST, "off": _OFF}
    if isinstance(value, str) and value not in words:
        raise ValueError(f"expected {', '.join(words)} or single fields, such as data.augment.flip_y=0.5")
    return words[value] if isinstance(value, str) else value


AnyAugment = Annotated[AugmentConfig, BeforeValidator(read_augment)]
"""Settings of the augmentation, or one of the words of `read_augment`."""
