"""Segment Anything checkpoints: the published files and what is wrong with others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipelines.masks.config import SamConfig
from pipelines.masks.sam_small import ENCODER, MOBILE_SAM, small_sam
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
    "vit_t": (
        "mobile_sam.pt",
        40_728_226,
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    ),
}
"""Model type -> (file name, bytes, sha256) of the weights that Segment Anything and MobileSAM (`vit_t`) published."""

WIDTHS: Final[Mapping[str, int]] = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280, "vit_t": 320}
"""Model type -> channels at the end of its encoder, before the neck."""

COUNTER: Final = ".num_batches_tracked"
"""End of the names of whole numbers: how many batches a batch normalisation has seen."""


def find_checkpoint(config: SamConfig) -> Path:
    """The checkpoint file.

    Raises:
        CheckpointError: none was named, it does not exist, or a published file has another size; lists the files.
    """
    published = "\n".join(
        f"  {kind}: {name}, {size:,} bytes, sha256 {sha}" for kind, (name, size, sha) in PUBLISHED.items()
    )
    remedy = (
        f"The Segment Anything project publishes, and MobileSAM (vit_t),\n{published}\n"
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
        path: a state dict as segment-anything or MobileSAM saves it, or one that a training script wrapped: a published
            size, or a smaller one (`small_sam`).
        model_type: expected size (vit_b, vit_l, vit_h, vit_t), or None for any.

    Raises:
        CheckpointError: the file is no Sam checkpoint, or another size than ``model_type``.
    """
    import torch

    state = _read_state(path)
    try:
        found = _model_type(state)
        with torch.device("meta"):
            sam = small_sam(state) if found is None else published_sam(found)
    except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no Segment Anything checkpoint: weight {error} is missing or misshapen. Pass the original file."
        ) from error
    if model_type not in (None, found):
        raise CheckpointError(
            f"{path} holds a {found or 'model'} (encoder width {_width(state)}), --model-type says {model_type} "
            f"(width {WIDTHS[model_type]}). Pass the matching --model-type or file."
        )
    _check_fit(path, sam.state_dict(), state)
    sam.load_state_dict(state, assign=True)
    return sam.float().requires_grad_(False).eval()


def published_sam(kind: str) -> Sam:
    """A Sam of a published size with weights of its own; MobileSAM differs from the others in its encoder alone."""
    from segment_anything import sam_model_registry

    if kind != "vit_t":
        return sam_model_registry[kind]()
    from pipelines.masks.tiny_vit import TinyVit, TinyVitSizes

    sam = sam_model_registry["vit_b"]()
    sam.image_encoder = TinyVit(TinyVitSizes(), sam.image_encoder.img_size)
    return sam.eval()


def _model_type(state: Mapping[str, Tensor]) -> str | None:
    """The published size that a state dict has by its width; None is another one."""
    kinds = ("vit_t",) if MOBILE_SAM in state else ("vit_b", "vit_l", "vit_h")
    return next((kind for kind in kinds if WIDTHS[kind] == _width(state)), None)


def _width(state: Mapping[str, Tensor]) -> int:
    return state[ENCODER + ("norm_head.weight" if MOBILE_SAM in state else "pos_embed")].shape[-1]


def _check_fit(path: Path, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Compares names and shapes with the model's.

    Raises:
        CheckpointError: weights are missing, left over or misshapen; counts them and names one of each.
    """
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(weight.shape)}"
        for name, weight in wanted.items()
        if name in state and state[name].shape != weight.shape
    ]
    kinds = {
        "missing": [name for name in wanted if name not in state],
        "left over": [name for name in state if name not in wanted],
        "misshapen": misshapen,
    }
    if any(kinds.values()):
        said = "; ".join(f"{len(names)} {kind}, such as {names[0]}" for kind, names in kinds.items() if names)
        raise CheckpointError(f"{path} does not fit a Segment Anything model. Weights: {said}. Pass the original file.")


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
        is_number = weight.is_floating_point() or name.endswith(COUNTER)
        if not is_number or weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: weight {name!r} is {weight.dtype} {tuple(weight.shape)}, no plain float tensor"
            )
    return state
