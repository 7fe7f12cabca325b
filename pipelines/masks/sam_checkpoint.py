"""Segment Anything checkpoints: the published files, and a Sam of any size built from the shapes in a file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipelines.masks.config import SamConfig
from schemas.errors import CheckpointError

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor

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

WIDTHS: Final[Mapping[str, int]] = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280}
"""Width of the image encoder, channels."""

DECODER_HEADS: Final = 8
"""Attention heads of the mask decoder: the same in all Segment Anything models, and not visible in the weights."""


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
    """Builds the Sam that fits a checkpoint and loads the weights, on the CPU.

    Args:
        path: a state dict as segment-anything saves it, of any size.
        model_type: expected size (vit_b, vit_l, vit_h), or None for any.

    Raises:
        CheckpointError: the file is no Sam checkpoint, or another size than ``model_type``.
    """
    state = _read_state(path)
    try:
        shapes = SamShapes.from_state(state)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} is no Segment Anything checkpoint: weight {error} is missing or misshapen. Pass the original file."
        ) from error
    if model_type is not None and WIDTHS[model_type] != shapes.width:
        kinds = {width: kind for kind, width in WIDTHS.items()}
        raise CheckpointError(
            f"{path} holds a {kinds.get(shapes.width, 'model')} (encoder width {shapes.width}), --model-type says "
            f"{model_type} (width {WIDTHS[model_type]}). Pass the matching --model-type or file."
        )
    sam = shapes.build()
    try:
        sam.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit a Segment Anything model: {error}") from error
    return sam


def _read_state(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        state: object = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is no readable checkpoint ({type(error).__name__}); download it again and compare the sha256"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a dict of weights as segment-anything saves it")
    return state


@dataclass(frozen=True, kw_only=True)
class SamShapes:
    """What the shapes of the weights tell about a Sam."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float
    grid: int
    """Patches along each side."""
    patch_px: int
    window: int
    global_blocks: tuple[int, ...]
    prompt_width: int
    mask_channels: int
    decoder_depth: int
    decoder_mlp: int
    decoder_downsample: int
    num_masks: int
    iou_depth: int
    iou_width: int

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> SamShapes:
        """Reads all sizes from a state dict.

        The encoder's heads follow from the width of the relative position tables, its windowed blocks from their
        length (2 * size - 1).

        Raises:
            KeyError: a weight is missing.
        """
        encoder, decoder = "image_encoder.", "mask_decoder."
        _, grid, _, width = state[encoder + "pos_embed"].shape
        tables = _numbered(state, encoder + "blocks.{}.attn.rel_pos_h")
        sizes = [(table.shape[0] + 1) // 2 for table in tables]
        prompt_width = state["prompt_encoder.no_mask_embed.weight"].shape[1]
        cross = state[decoder + "transformer.layers.0.cross_attn_token_to_image.q_proj.weight"]
        iou_head = _numbered(state, decoder + "iou_prediction_head.layers.{}.weight")
        return cls(
            width=width,
            depth=len(tables),
            heads=width // tables[0].shape[1],
            mlp_ratio=state[encoder + "blocks.0.mlp.lin1.weight"].shape[0] / width,
            grid=grid,
            patch_px=state[encoder + "patch_embed.proj.weight"].shape[2],
            window=next((size for size in sizes if size != grid), 0),
            global_blocks=tuple(index for index, size in enumerate(sizes) if size == grid),
            prompt_width=prompt_width,
            mask_channels=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
            decoder_depth=len(_numbered(state, decoder + "transformer.layers.{}.norm1.weight")),
            decoder_mlp=state[decoder + "transformer.layers.0.mlp.lin1.weight"].shape[0],
            decoder_downsample=prompt_width // cross.shape[0],
            num_masks=state[decoder + "mask_tokens.weight"].shape[0] - 1,
            iou_depth=len(iou_head),
            iou_width=iou_head[0].shape[0],
        )

    def build(self) -> Sam:
        """A Sam of these sizes with random weights, in eval mode."""
        import torch
        from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

        image_px = self.grid * self.patch_px
        sam: Any = Sam(
            image_encoder=ImageEncoderViT(
                img_size=image_px,
                patch_size=self.patch_px,
                embed_dim=self.width,
                depth=self.depth,
                num_heads=self.heads,
                mlp_ratio=self.mlp_ratio,
                out_chans=self.prompt_width,
                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=self.window,
                global_attn_indexes=self.global_blocks,
            ),
            prompt_encoder=PromptEncoder(
                embed_dim=self.prompt_width,
                image_embedding_size=(self.grid, self.grid),
                input_image_size=(image_px, image_px),
                mask_in_chans=self.mask_channels,
            ),
            mask_decoder=MaskDecoder(
                transformer_dim=self.prompt_width,
                transformer=TwoWayTransformer(
                    depth=self.decoder_depth,
                    embedding_dim=self.prompt_width,
                    num_heads=DECODER_HEADS,
                    mlp_dim=self.decoder_mlp,
                    attention_downsample_rate=self.decoder_downsample,
                ),
                num_multimask_outputs=self.num_masks,
                iou_head_depth=self.iou_depth,
                iou_head_hidden_dim=self.iou_width,
            ),
        )
        return sam.eval()


def _numbered(state: Mapping[str, Tensor], pattern: str) -> list[Tensor]:
    """Weights whose names count up from 0; at least one must be there."""
    found = [state[pattern.format(0)]]
    while (name := pattern.format(len(found))) in state:
        found.append(state[name])
    return found
