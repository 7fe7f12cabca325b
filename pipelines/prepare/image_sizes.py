"""Does a camera's file fit the resize and crop of its entry? Asked before anything else is done with the images."""

from __future__ import annotations

from typing import Final

from schemas.datasets import DatasetSpec
from schemas.errors import ConfigError
from schemas.images import ImageSpec
from schemas.records import CameraRecord, SampleRecord

LARGEST_STRETCH: Final = 0.02
"""Images that would be stretched by more in one direction are refused, unless the camera has a resize of its own."""


def check_image_sizes(dataset: DatasetSpec, record: SampleRecord) -> None:
    """Checks the sizes that the record says against `image` and `camera_images` of the entry.

    Raises:
        ConfigError: an image would be stretched, or the crop leaves it; names file, sizes and a line that helps.
    """
    for channel, camera in record.cameras.items():
        image = dataset.image_of(channel)
        size = (camera.width, camera.height)
        if not image.crop_fits(image.resized(size)):
            raise ConfigError(
                f"{camera.path} (sample {record.token}) is {size[0]}x{size[1]} pixels, and the crop (left, top, width, "
                f"height) {image.crop} of '{dataset.name}' in datasets.yaml leaves it. Correct `crop`."
            )
        if channel not in dataset.camera_images and image.resize is not None:
            _check_shape(dataset, channel, camera, record.token)


def _check_shape(dataset: DatasetSpec, channel: str, camera: CameraRecord, token: str) -> None:
    width, height = dataset.image.resized((camera.width, camera.height))
    stretch = (width / camera.width) / (height / camera.height)
    if max(stretch, 1 / stretch) - 1 <= LARGEST_STRETCH:
        return
    suggestion = f"camera_images: {{{channel}: {_suggestion(dataset.image, camera)}}}"
    raise ConfigError(
        f"{camera.path} (sample {token}) is {camera.width}x{camera.height} pixels, and resize [{width}, {height}] of "
        f"'{dataset.name}' in datasets.yaml would stretch it by {100 * (max(stretch, 1 / stretch) - 1):.0f} %. Give "
        f"the camera a size of its own there, such as `{suggestion}`."
    )


def _suggestion(image: ImageSpec, camera: CameraRecord) -> str:
    """The smallest unstretched size that covers the entry's, with the same crop in its middle."""
    width, height = image.resized((camera.width, camera.height))
    scale = max(width / camera.width, height / camera.height)
    own = (max(round(camera.width * scale), width), max(round(camera.height * scale), height))
    crop = [image.crop[0] + (own[0] - width) // 2, image.crop[1] + (own[1] - height) // 2, *image.crop[2:]]
    return f"{{resize: {list(own)}, crop: {crop}}}"
