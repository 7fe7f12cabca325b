"""Pretrained image features and their head of classes as an ONNX file: an image in, the class of each pixel out.

`protoocc masks --generator classes` takes such a file, as it takes those of other programs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from protoocc.export import open_session, translate
from protoocc.pretrain.card import WeightsCard
from protoocc.pretrain.config import PretrainConfig
from protoocc.pretrain.network import PixelNetwork
from protoocc.pretrain.scores import at_pixels
from protoocc.weights import read_weights
from schemas.errors import CheckpointError, ConfigError, DataError, disk_errors
from schemas.files import PARTIAL
from schemas.images import ImageSpec
from schemas.outside import Source, parse_json

CLASSES: Final = "classes"
"""Entry of the file's metadata: JSON list of the name of each class, by index."""
SILENT: Final = "-"
"""Name of what lies outside the crop and of what is too uncertain: nothing is told there."""
CONFIDENCE: Final = 0.8
"""Least probability of a class that is told."""
LARGEST_SHARE: Final = 1e-3
"""Of pixels whose class may differ between onnxruntime and PyTorch: near ties."""


class PixelClasses(nn.Module):
    """Class of each pixel of an image, within the crop that the features were trained on."""

    def __init__(self, network: PixelNetwork, crop: tuple[int, int, int, int]) -> None:
        """Takes over a network with a head of classes; the crop is (left, top, width, height), pixels."""
        super().__init__()
        self.network = network
        self.crop = crop

    def forward(self, image: UInt8[Tensor, "1 3 H W"]) -> UInt8[Tensor, "1 H W"]:
        """The most probable class; one more than the last where it is too uncertain, and outside the crop. RGB in."""
        left, top, width, height = self.crop
        inside = image[..., top : top + height, left : left + width]
        logits: Float[Tensor, "1 L h w"] | None = self.network(inside)[0].classes
        if logits is None:
            raise ValueError("the network has no head of classes")
        probability, classes = at_pixels(logits, inside).softmax(1).max(1)
        silent = logits.shape[1]
        classes = torch.where(probability < CONFIDENCE, silent, classes).to(torch.uint8)
        rest = image.shape[-1] - left - width, image.shape[-2] - top - height
        return functional.pad(classes, (left, rest[0], top, rest[1]), value=silent)


def export_pixel_classes(weights: Path, spec: ImageSpec, out: Path) -> float:
    """Writes an ONNX file and checks it against PyTorch on noise with onnxruntime; nothing is kept if that fails.

    Args:
        weights: image_features.safetensors of `protoocc pretrain images`.
        spec: how camera images become those that the features were trained on. The file takes the whole image at
            that scale and tells nothing outside the crop.
        out: the ONNX file.

    Returns:
        Share of pixels whose class differs, at most `LARGEST_SHARE`.

    Raises:
        CheckpointError: no such weights, or both differ.
        SetupError: a package is missing.
        ConfigError: ``spec`` has no size or another shape than the images of the training, or an operator cannot be
            translated.
        DataError: the file cannot be written.
    """
    if spec.resize is None:
        raise ConfigError("the entry's `image` has no `resize`: a network takes images of one size")
    network, names = _load(weights, spec.shape)
    model = PixelClasses(network, spec.crop).eval()
    generator = torch.Generator().manual_seed(0)
    width, height = spec.resize
    image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)
    partial = out.with_name(out.name + PARTIAL)
    with torch.no_grad(), disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        program = translate(model, {"image": image}, [CLASSES])
        program.model.metadata_props[CLASSES] = json.dumps([*names, SILENT])
        try:
            program.save(str(partial))
            share = _difference(partial, model, image)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    return share


def _load(path: Path, shape: tuple[int, int]) -> tuple[PixelNetwork, list[str]]:
    """The network of a file with a card, and the names of its classes."""
    weights = read_weights(path, "protoocc")
    source = Source(f"{path}: its card", "Make it again with `protoocc pretrain images`.")
    try:
        card = WeightsCard.model_validate(parse_json(source, weights.settings.encode()))
        network = PixelNetwork(PretrainConfig.model_validate(card.settings).model)  # type: ignore[arg-type]
        network.load_state_dict({name: tensor.float() for name, tensor in weights.tensors.items()})
    except (ConfigError, DataError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} holds no image features with a head of classes: {error}") from error
    trained_on = tuple(card.data.get("image_shape", ()))
    if trained_on != shape:
        raise ConfigError(
            f"{path} was trained on images of {trained_on} (height, width), the entry's `image` gives {shape}; "
            "give the entry the same resize and crop"
        )
    return network, list(card.classes)


def _difference(path: Path, model: PixelClasses, image: Tensor) -> float:
    (found,) = open_session(path).run(None, {"image": image.numpy()})
    share = float((found != model(image).numpy()).mean())
    if share > LARGEST_SHARE:
        raise CheckpointError(
            f"onnxruntime and PyTorch tell {100 * share:.2f} % of the pixels apart, at most {100 * LARGEST_SHARE:g} % "
            "are allowed; nothing was kept"
        )
    return share
