"""Segment Anything checkpoints: the published files and what is wrong with others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipelines.masks.config import SamConfig
from pipelines.masks.sam_small import small_sam
from schemas.errors import CheckpointError
from schemas.outside.weights import check_torch_file, unwrap_state

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor

logger = logging.getLogger(__name__)

PUBLISHED: Final[Mapping[str, tuple[str, int, str]]] = {
    "vit_b": (
        "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": (
        "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": (
        "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}
"""Model type -> (file name, bytes, sha256) of the weights that the Segment Anything project published."""

MOBILE_SAM: Final = "image_encoder.patch_embed.seq.0.c.weight"
"""A weight that only MobileSAM has."""


def find_checkpoint(config: SamConfig) -> Path:
    """The checkpoint file.

    Raises:
        CheckpointError: none was named, it does not exist, or a published file has another size; lists the files.
    """
    published = "\n".join(
        f"  {kind}: {name}, {size:,} bytes, sha256 {sha}" for kind, (name, size, sha) in PUBLISHED.items()
    )
    remedy = (
        f"The Segment Anything project publishes\n{published}\n"
        "Download one of them as its README tells, put it anywhere, for example weights/sam_vit_b_01ec64.pth, and run\n"
        "  protoocc masks --generator sam --checkpoint weights/sam_vit_b_01ec64.pth --model-type vit_b"
    )
    if config.checkpoint is None:
        raise CheckpointError(f"masks --generator sam needs --checkpoint PATH. {remedy}")
    if not config.checkpoint.is_file():
        raise CheckpointError(f"SAM checkpoint {config.checkpoint} does not exist. {remedy}")
    expected = {name: size for name, size, _ in PUBLISHED.values()}.get(config.checkpoint.name)
    found = config.checkpoint.stat().st_size
    if expected is not None and found != expected:
        raise CheckpointError(
            f"SAM checkpoint {config.checkpoint} has {found:,} bytes, the published file has {expected:,}: the "
            f"download is incomplete. {remedy}"
        )
    return config.checkpoint


def load_sam(path: Path, model_type: str | None) -> Sam:
    """The Sam of a checkpoint, on the CPU; it takes the file's weights as they are, so memory holds them once.

    Args:
        path: a state dict as segment-anything saves it, or one that a training script wrapped: a published size, or a
            smaller one (`small_sam`).
        model_type: expected size (vit_b, vit_l, vit_h), or None for any.

    Raises:
        CheckpointError: the file is no Sam checkpoint, or another size than ``model_type``.
    """
    import torch
    from segment_anything import sam_model_registry

    state = _read_state(path)
    if MOBILE_SAM in state:
        raise CheckpointError(
            f"{path} holds MobileSAM (vit_t), whose encoder no package offers. Pass a vit_b, vit_l or vit_h."
        )
    with torch.device("meta"):
        sizes = {kind: sam_model_registry[kind]() for kind in PUBLISHED}
        try:
            found = next((kind for kind, sam in sizes.items() if _width(sam.state_dict()) == _width(state)), None)
            sam = small_sam(state) if found is None else sizes[found]
        except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
            raise CheckpointError(
                f"{path} is no Segment Anything checkpoint: weight {error} is missing or misshapen. "
                "Pass the original file."
            ) from error
    if model_type not in (None, found):
        raise CheckpointError(
            f"{path} holds a {found or 'model'} (encoder width {_width(state)}), --model-type says {model_type} "
            f"(width {_width(sizes[model_type].state_dict())}). Pass the matching --model-type or file."
        )
    try:
        sam.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit a Segment Anything model: {error}") from error
    return sam.float().requires_grad_(False).eval()


def _width(state: Mapping[str, Tensor]) -> int:
    return state["image_encoder.pos_embed"].shape[-1]


def _read_state(path: Path) -> dict[str, Tensor]:
    """Weights by name; entries and prefixes that training scripts put around them are taken off, and said."""
    import torch

    check_torch_file(path)
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways: zip, pickle, encoding, memory
        raise CheckpointError(
            f"{path} is no readable file of weights ({type(error).__name__}); download it again and compare the sha256"
        ) from error
    state, notes = unwrap_state(path, loaded, lambda value: isinstance(value, torch.Tensor))
    for note in notes:
        logger.warning(note)
    for name, weight in state.items():
        if not weight.is_floating_point() or weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: weight {name!r} is {weight.dtype} {tuple(weight.shape)}, no plain float tensor"
            )
    return state
