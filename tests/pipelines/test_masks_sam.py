"""Segment Anything with small models from the library's classes: sizes read from weights, label maps, errors."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from distributed.system import MEMORY_LIMIT
from segment_anything.build_sam import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from pipelines.masks import SamConfig, make_masks
from pipelines.masks.found_masks import FoundMasks
from pipelines.masks.label_map import cover_gaps
from pipelines.masks.network_workers import COPIES, WORKING_MEMORY, device_here
from pipelines.masks.sam import SAM, _load_once, sam_generator
from pipelines.masks.sam_checkpoint import PUBLISHED, find_checkpoint, load_sam
from pipelines.masks.sam_small import small_sam as sam_of_shapes
from pipelines.scheduler import MEMORY_SHARE, Scheduler
from pipelines.stage import Runtime, read_manifest
from pipelines.zarr_io import open_store
from schemas.datasets import DatasetSpec
from schemas.errors import CheckpointError, ConfigError, SetupError

SEED = 10
"""Its random weights make masks that neither vanish nor fill the image."""


def small_sam() -> Sam:
    """64 px image, 8x8 patches of 8 px, width 32 in 4 heads, blocks: window 4, global, window 4; random weights."""
    encoder = ImageEncoderViT(
        img_size=64,
        patch_size=8,
        embed_dim=32,
        depth=3,
        num_heads=4,
        mlp_ratio=2,
        out_chans=16,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=4,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(embed_dim=16, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=8)
    transformer = TwoWayTransformer(depth=1, embedding_dim=16, num_heads=8, mlp_dim=24)
    decoder = MaskDecoder(transformer_dim=16, transformer=transformer, iou_head_depth=2, iou_head_hidden_dim=20)
    sam = Sam(encoder, prompts, decoder).eval()
    generator = torch.Generator().manual_seed(SEED)
    for name, weight in sam.state_dict().items():
        weight.normal_(mean=float("norm" in name), std=0.3, generator=generator)
    return sam


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "small.pth"
    torch.save(small_sam().state_dict(), path)
    return path


def loose(checkpoint: Path) -> SamConfig:
    """Takes every mask that the random model makes."""
    return SamConfig(checkpoint=checkpoint, points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0)


@pytest.fixture
def work(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared / "records", tmp_path / "work/records")
    return tmp_path / "work"


def test_loaded_model_computes_what_the_saved_one_did(checkpoint: Path) -> None:
    """Wrong heads, windows or epsilon would load without a complaint and give other features."""
    original, loaded = small_sam(), load_sam(checkpoint, None)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    points = (torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]]))
    with torch.no_grad():
        for model in (original, loaded):
            model.features = model.image_encoder(image)
            sparse, dense = model.prompt_encoder(points=points, boxes=None, masks=None)
            model.result = model.mask_decoder(
                image_embeddings=model.features,
                image_pe=model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
    assert torch.equal(original.features, loaded.features)
    assert torch.equal(original.result[0], loaded.result[0]) and torch.equal(original.result[1], loaded.result[1])
    assert torch.equal(original.pixel_mean, loaded.pixel_mean) and torch.equal(original.pixel_std, loaded.pixel_std)


@pytest.mark.parametrize("kind", ["vit_b", "vit_l", "vit_h"])
def test_published_sizes_come_from_the_library(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights without memory stand in for the file; a small model of the same names must not be built for them."""
    with torch.device("meta"):
        expected = sam_model_registry[kind]()
    monkeypatch.setattr("pipelines.masks.sam_checkpoint._read_state", lambda path: expected.state_dict())
    monkeypatch.setattr("pipelines.masks.sam_checkpoint.small_sam", lambda state: pytest.fail("not a small model"))
    loaded = load_sam(tmp_path / "any.pth", kind)
    assert repr(loaded) == repr(expected)
    assert [(n, w.shape) for n, w in loaded.named_parameters()] == [
        (n, w.shape) for n, w in expected.named_parameters()
    ]
    assert loaded.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])


def test_shapes_give_the_library_s_own_models() -> None:
    """The reader of shapes, told a published model, builds that one."""
    with torch.device("meta"):
        expected = sam_model_registry["vit_l"]()
        built = sam_of_shapes(expected.state_dict())
    assert repr(built) == repr(expected)
    for block, other in zip(built.image_encoder.blocks, expected.image_encoder.blocks, strict=True):
        assert (block.window_size, block.attn.num_heads) == (other.window_size, other.attn.num_heads)


def test_half_precision_files_become_floats(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    torch.save({name: weight.half() for name, weight in state.items()}, tmp_path / "half.pth")
    assert {weight.dtype for weight in load_sam(tmp_path / "half.pth", None).state_dict().values()} == {torch.float32}


def test_a_process_loads_the_model_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when its threads ask at the same time, as a threads scheduler does."""
    loads: list[Path] = []

    def slow_load(path: Path, model_type: str | None) -> Sam:
        loads.append(path)
        time.sleep(0.2)
        return load_sam(path, model_type)

    monkeypatch.setattr("pipelines.masks.sam.load_sam", slow_load)
    _load_once.cache_clear()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: sam_generator(loose(checkpoint), (16, 9)), range(4)))
    assert loads == [checkpoint]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that the machine has four GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def sparse(path: Path, size: int) -> Path:
    """A file of that size that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize(
    ("device", "told", "expected"), [("cuda", None, 4), ("cuda:1", None, 1), ("cpu", None, 1), ("cuda", 2, 2)]
)
def test_one_worker_per_gpu(device: str, told: int | None, expected: int, checkpoint: Path, gpus: None) -> None:
    config = SamConfig(checkpoint=checkpoint, device=device)
    plenty = MEMORY_LIMIT * MEMORY_SHARE >= 4 * WORKING_MEMORY * 1.01
    if expected == 4 and not plenty:
        expected = int(MEMORY_LIMIT * MEMORY_SHARE / (WORKING_MEMORY * 1.01))
    for kind in ("processes", "threads"):
        assert SAM.schedule(Scheduler(kind=kind, workers=told), config).workers == expected


def test_largest_model_gets_the_memory_it_needs(tmp_path: Path, gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 GB, four GPUs, vit_h: an equal share for all cores of a large machine would not even load it."""
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 64 << 30)
    name, size, _ = PUBLISHED["vit_h"]
    config = SamConfig(checkpoint=sparse(tmp_path / name, size), device="cuda")
    needed = COPIES * size + WORKING_MEMORY
    filled = SAM.schedule(Scheduler(), config)
    assert filled.workers == 4
    assert filled.worker_memory(4) >= needed
    crowded = SAM.schedule(Scheduler(workers=16), config)
    assert crowded.worker_memory(16) >= int(needed)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 16 << 30)
    assert SAM.schedule(Scheduler(), config).workers == 1
    assert SAM.schedule(Scheduler(memory_limit="3GiB"), config).memory_limit == "3GiB"
    assert SAM.schedule(Scheduler(kind="tcp://far:1"), config) == Scheduler(kind="tcp://far:1", needs_gpu=True)


def test_each_worker_has_a_gpu_of_its_own(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, expected in ((0, "cuda:0"), (3, "cuda:3"), (4, "cuda:0")):
        monkeypatch.setattr("pipelines.masks.network_workers.worker_number", lambda number=number: number)
        assert device_here("cuda") == expected
    assert (device_here("cuda:2"), device_here("cpu")) == ("cuda:2", "cpu")


def test_label_map_covers_the_image(checkpoint: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (45, 80, 3), dtype=np.uint8)
    generator = sam_generator(loose(checkpoint), (40, 24))
    (found,) = generator.generate([image])
    assert found.shape == (24, 40)
    labels = cover_gaps(found)
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert labels.max() >= 1, "the random model must make masks, or this tests nothing"
    np.testing.assert_array_equal(generator.generate([image])[0], found)


def test_number_of_torch_threads_is_restored(checkpoint: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    sam_generator(loose(checkpoint), (16, 9)).generate([np.zeros((9, 16, 3), dtype=np.uint8)])
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.slow
def test_stage_writes_the_same_bytes_with_threads(
    checkpoint: Path, work: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    shutil.copytree(work, tmp_path / "other")
    summary = make_masks(world_dataset, work, loose(checkpoint), sync_runtime)
    threads = Runtime(scheduler=Scheduler(kind="threads", workers=2))
    make_masks(world_dataset, tmp_path / "other", loose(checkpoint), threads)
    store = open_store(work / "masks-sam.zarr", "masks")
    ids, counts = store["segment_id"][:], store["segment_count"][:]
    assert (summary.done, ids.shape) == (4, (4, 6, 104, 200))
    assert (ids.reshape(4, 6, -1).max(axis=2) < counts).all()
    assert counts.max() > 1
    np.testing.assert_array_equal(open_store(tmp_path / "other/masks-sam.zarr", "masks")["segment_id"][:], ids)


def test_other_weights_are_another_input(
    checkpoint: Path, work: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, tmp_path: Path
) -> None:
    config = SamConfig(checkpoint=checkpoint, points_per_side=1)
    make_masks(world_dataset, work, config, sync_runtime)
    state = torch.load(checkpoint, weights_only=True)
    state["mask_decoder.iou_token.weight"] += 1
    torch.save(state, tmp_path / "tuned.pth")
    with pytest.raises(ConfigError, match="inputs.checkpoint: was '"):
        make_masks(world_dataset, work, config.model_copy(update={"checkpoint": tmp_path / "tuned.pth"}), sync_runtime)


def test_without_checkpoint_the_published_files_are_named(
    work: Path, world_dataset: DatasetSpec, sync_runtime: Runtime
) -> None:
    with pytest.raises(CheckpointError) as caught:
        make_masks(world_dataset, work, SamConfig(), sync_runtime)
    message = str(caught.value)
    for name, size, sha in PUBLISHED.values():
        assert name in message and f"{size:,} bytes" in message and sha in message
    assert "--checkpoint weights/sam_vit_b_01ec64.pth" in message
    assert not (work / "masks-sam.zarr").exists()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"SAM checkpoint .*none.pth does not exist"):
        find_checkpoint(SamConfig(checkpoint=tmp_path / "none.pth"))


def test_incomplete_download_is_recognised_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_l_0b3195.pth"
    path.write_bytes(b"123")
    with pytest.raises(CheckpointError, match="has 3 bytes, the published file has 1,249,524,607"):
        find_checkpoint(SamConfig(checkpoint=path))


def test_other_model_type_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"encoder width 32\), --model-type says vit_b \(width 768\)"):
        load_sam(checkpoint, "vit_b")


def test_text_and_cut_files_are_no_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    for number, data in enumerate([b"hello", b"", checkpoint.read_bytes()[:5000]]):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=rf"{number}.pth is no readable file of weights"):
            load_sam(path, None)


def test_other_weights_and_shapes_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match="no Segment Anything checkpoint: weight 'image_encoder.pos_embed' is"):
        load_sam(tmp_path / "resnet.pth", None)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds one list; expected named tensors"):
        load_sam(tmp_path / "list.pth", None)
    state = torch.load(checkpoint, weights_only=True)
    del state["image_encoder.neck.1.weight"]
    torch.save(state, tmp_path / "holed.pth")
    with pytest.raises(CheckpointError, match="does not fit a Segment Anything model"):
        load_sam(tmp_path / "holed.pth", None)


@pytest.mark.parametrize(
    ("wrap", "notes"),
    [
        (lambda state: {"model": state, "epoch": 3}, ["taken from its entry 'model'"]),
        (lambda state: {"state_dict": state}, ["taken from its entry 'state_dict'"]),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, ["'module.' taken off"]),
        (
            lambda state: {"model": {"state_dict": {f"module.{name}": value for name, value in state.items()}}},
            ["taken from its entry 'model'", "taken from its entry 'state_dict'", "'module.' taken off"],
        ),
    ],
)
def test_wrapped_weights_are_read_and_said(
    checkpoint: Path,
    tmp_path: Path,
    wrap: Callable[[dict[str, torch.Tensor]], object],
    notes: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = torch.load(checkpoint, weights_only=True)
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    loaded = load_sam(tmp_path / "wrapped.pth", None).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert len(caplog.messages) == len(notes)
    assert all(f"wrapped.pth: {'' if note[0] == chr(39) else 'weights '}{note}" in caplog.text for note in notes)


def test_python_object_beside_the_weights_is_explained(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    torch.save({"model": state, "args": argparse.Namespace(lr=1)}, tmp_path / "object.pth")
    with pytest.raises(CheckpointError, match=r"holds Python objects .*\(argparse.Namespace\).*copy the tensors once"):
        load_sam(tmp_path / "object.pth", None)
    torch.save({"model": state, "state_dict": state}, tmp_path / "two.pth")
    with pytest.raises(
        CheckpointError, match="a dict of 2: 'model' .OrderedDict., 'state_dict' .OrderedDict.; expected named"
    ):
        load_sam(tmp_path / "two.pth", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_absent_gpu_is_named(checkpoint: Path) -> None:
    config = SamConfig(checkpoint=checkpoint, device="cuda")
    with pytest.raises(SetupError, match="--device cuda: torch finds no CUDA device"):
        sam_generator(config, (40, 24))


def test_bgr_files_reach_the_model_as_rgb(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(network: object, config: object, images: Sequence[np.ndarray]) -> list[FoundMasks]:
        seen.extend(images)
        return [FoundMasks.none((9, 16))]

    monkeypatch.setattr("pipelines.masks.prompted_generator.find_masks", spy)
    red_bgr = cv2.merge([np.full((9, 16), value, np.uint8) for value in (0, 0, 200)])
    (labels,) = sam_generator(loose(checkpoint), (16, 9)).generate([red_bgr])
    assert seen[0][0, 0].tolist() == [200, 0, 0]
    assert (labels == -1).all() and (cover_gaps(labels) == 0).all(), "an image without a mask is one segment"


def test_images_without_masks_are_counted(
    checkpoint: Path, work: Path, world_dataset: DatasetSpec, sync_runtime: Runtime
) -> None:
    """No mask of the random model is as sure of itself as asked; every image is one segment, which is legal."""
    config = SamConfig(checkpoint=checkpoint, points_per_side=1, stability_score_thresh=1)
    summary = make_masks(world_dataset, work, config, sync_runtime)
    assert summary.counts == {"images": 24, "segments": 24, "one_segment": 24, "uncovered": 24, "outside_splits": 0}
    assert read_manifest(work / "masks-sam.zarr").counts["one_segment"] == 24
    assert (open_store(work / "masks-sam.zarr", "masks")["segment_id"][:] == 0).all()


def test_weights_are_known_by_their_checksum(
    checkpoint: Path, work: Path, world_dataset: DatasetSpec, sync_runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert SAM.needs(SamConfig(checkpoint=checkpoint, sha256=sha256)) == {"checkpoint": sha256}
    config = SamConfig(checkpoint=checkpoint, sha256="0" * 64)
    with pytest.raises(CheckpointError, match=f"small.pth has SHA-256 {sha256}, --set sha256 says 0000"):
        make_masks(world_dataset, work, config, sync_runtime)
    assert not (work / "masks-sam.zarr").exists()
    published = {"vit_b": ("small.pth", checkpoint.stat().st_size, "1" * 64)}
    monkeypatch.setattr("pipelines.masks.sam.PUBLISHED", published)
    with pytest.raises(CheckpointError, match="the published file has 1111.*give weights of your own another name"):
        SAM.needs(SamConfig(checkpoint=checkpoint))
