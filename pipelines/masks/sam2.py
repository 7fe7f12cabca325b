"""SAM 2 as a generator, by the `transformers` package (extra `sam2`), from weights that the user brings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float, UInt8

from pipelines.masks.config import PromptedConfig, Sam2Config
from pipelines.masks.generator import GeneratorKind, Size
from pipelines.masks.network_workers import device_here, network_scheduler
from pipelines.masks.prompted_generator import PromptedGenerator
from pipelines.masks.weights_file import weights_fingerprint
from schemas.errors import CheckpointError, SetupError
from schemas.outside.weights import check_safetensors_file

if TYPE_CHECKING:
    from torch import Tensor

FILES: Final = ("model.safetensors", "config.json")
"""Weights and sizes of a published SAM 2, in one folder."""
_LOADING: Final = Lock()


class Sam2Network:
    """A `Sam2Model` on its device, as a network of point prompts; images fill its square whatever their shape."""

    def __init__(self, model: Any, config: PromptedConfig) -> None:
        """Takes a model in evaluation mode; ``config`` says its precision and whether it is compiled."""
        import torch
        from transformers import Sam2ImageProcessor

        self.model = model
        self.square = int(model.config.prompt_encoder_config.image_size)
        self.logits_side = 4 * self.square // int(model.config.prompt_encoder_config.patch_size)
        self.prepare = Sam2ImageProcessor(size={"height": self.square, "width": self.square})
        self.autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
        self.run_encoder, self.run_decoder = model.get_image_embeddings, model.forward
        if config.compile:
            self.run_encoder, self.run_decoder = torch.compile(self.run_encoder), torch.compile(self.run_decoder)

    def shown(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of any image in the encoder's: all of it."""
        return self.square, self.square

    def encode(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[list[Float[Tensor, "1 _ _ _"]]]:
        """Features of RGB images: a map of each scale."""
        pixels = self.prepare(list(images), return_tensors="pt")["pixel_values"].to(self.model.device)
        with self.autocast:
            scales = self.run_encoder(pixels)
        return [[scale[number : number + 1].float() for scale in scales] for number in range(len(images))]

    def decode(
        self, features: list[Float[Tensor, "1 _ _ _"]], points: Float[np.ndarray, "B 2"], above: float, rows: int
    ) -> tuple[Float[Tensor, "M h w"], Float[Tensor, " M"]]:
        """Logits and predicted IoU of the masks of points, as `PromptedNetwork` asks."""
        import torch

        prompts = torch.as_tensor(points, dtype=torch.float32, device=self.model.device)[None, :, None]
        with self.autocast:
            answer = self.run_decoder(image_embeddings=list(features), input_points=prompts, multimask_output=True)
        quality = answer.iou_scores[0].float()
        wanted = quality > above if above > 0 else torch.ones_like(quality, dtype=torch.bool)
        return answer.pred_masks[0][wanted].float(), quality[wanted]


def find_sam2(config: Sam2Config) -> Path:
    """The file of the weights, with ``config.json`` beside it.

    Raises:
        CheckpointError: none was named, or a file is missing or has another name.
    """
    remedy = (
        "Download both files of a SAM 2 for transformers, such as facebook/sam2.1-hiera-tiny, into one folder and run\n"
        "  protoocc masks --generator sam2 --checkpoint FOLDER/model.safetensors"
    )
    if config.checkpoint is None:
        raise CheckpointError(f"masks --generator sam2 needs --checkpoint PATH. {remedy}")
    for name in FILES:
        if config.checkpoint.name != FILES[0] or not (path := config.checkpoint.with_name(name)).is_file():
            raise CheckpointError(
                f"SAM 2 checkpoint {config.checkpoint}: expected files {' and '.join(FILES)}. {remedy}"
            )
        if name == FILES[0]:
            check_safetensors_file(path)
    return config.checkpoint


def sam2_generator(config: Sam2Config, size: Size) -> PromptedGenerator:
    """Takes the process's model, loading it first, for images that become (width, height) ``size``.

    Raises:
        CheckpointError: there is no checkpoint, or it is no SAM 2.
        SetupError: the device or the package is not available.
    """
    with _LOADING:
        model = _load_once(find_sam2(config), device_here(config.device))
    return PromptedGenerator(Sam2Network(model, config), config, size)


@cache
def _load_once(path: Path, device: str) -> Any:
    """Reads safetensors and JSON alone; nothing of the folder is run, nothing is fetched."""
    from transformers import Sam2Model

    loader: Any = Sam2Model
    try:
        model, report = loader.from_pretrained(
            path.parent, local_files_only=True, use_safetensors=True, dtype="float32", output_loading_info=True
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} and its config.json are no SAM 2 that transformers reads: {error}") from error
    missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if missing:
        raise CheckpointError(
            f"{path} is no SAM 2 of the size in its config.json: {len(missing)} weights are missing or misshapen, such "
            f"as {missing[0]}. Download both files again."
        )
    return model.to(device).requires_grad_(False).eval()


def _needs(config: Sam2Config) -> dict[str, str]:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise SetupError(
            "--generator sam2 needs the package transformers. Install it with\n  pip install 'protoocc[sam2]'"
        ) from error
    path = find_sam2(config)
    sizes = weights_fingerprint(path.with_name(FILES[1]), None, {})["checkpoint"]
    return weights_fingerprint(path, config.sha256, {}) | {"checkpoint_config": sizes}


SAM2: Final = GeneratorKind(
    config=Sam2Config,
    unit_size=4,
    needs=_needs,
    build=sam2_generator,
    schedule=lambda scheduler, config: network_scheduler(scheduler, config.device, find_sam2(config)),
)
"""Entry of the table of generators."""
