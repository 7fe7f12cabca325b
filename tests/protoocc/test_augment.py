"""Which samples are changed and how: draws depend on seed and sample alone, colours follow the host's order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import protoocc
from protoocc.augment import BLANK, Augmentation, AugmentConfig
from protoocc.augment.config import HOST
from protoocc.augment.grid_mask import draw_grid_mask
from protoocc.augment.photometric import Distortion, distort, draw_distortion
from protoocc.batch import Batch
from protoocc.config import TrainConfig
from protoocc.data import EpochSampler, ShardDataset, make_loader, open_shards
from protoocc.data.dataset import to_batch
from schemas.errors import ConfigError
from schemas.geometry import VoxelGrid
from schemas.settings import override

ALL = HOST.model_copy(update={"flip_x": 0.5, "flip_y": 0.5})


def sample(shards: Path, index: int = 0) -> Batch:
    return to_batch(ShardDataset(open_shards(shards, "train"), frames=2, interval=1)[index])


def test_off_by_default_and_then_nothing_is_touched(shards: Path, tiny_config: TrainConfig) -> None:
    batch = sample(shards)
    assert tiny_config.data.augment == AugmentConfig()
    assert Augmentation(AugmentConfig(), seed=0)(batch, 3) is batch


def test_words_of_the_setting(tiny_config: TrainConfig) -> None:
    assert override(tiny_config, ["data.augment=host"]).data.augment == HOST
    some = override(tiny_config, ["data.augment=host", "data.augment.flip_y=0.5", "data.augment.hue_deg=0"])
    assert (some.data.augment.flip_y, some.data.augment.hue_deg, some.data.augment.brightness) == (0.5, 0.0, 32.0)
    assert override(some, ["data.augment=off"]).data.augment == AugmentConfig()
    with pytest.raises(ConfigError, match="'data.augment' = 'strong': .*expected host, off or single fields"):
        override(tiny_config, ["data.augment=strong"])


def test_draws_depend_on_seed_and_number_alone(shards: Path) -> None:
    batch = sample(shards, 1)
    images = {
        (seed, number): Augmentation(ALL, seed)(batch, number).images.numpy().tobytes()
        for seed in (0, 1)
        for number in range(20)
    }
    assert len(set(images.values())) > 35  # nearly all of 40 draws differ
    again = Augmentation(ALL, 1)(batch, 7)
    assert images[1, 7] == again.images.numpy().tobytes()
    assert again.images.dtype == torch.uint8 and again.past_images is not None and again.tokens == batch.tokens


def test_shares_are_shares(shards: Path) -> None:
    """1 means every sample, 0 none, and a half about half of them; one part does not change another's draws."""
    batch = sample(shards)
    assert batch.semantics is not None
    flips = [Augmentation(AugmentConfig(flip_y=0.5), 0)(batch, number) for number in range(100)]
    turned = [not torch.equal(other.semantics, batch.semantics) for other in flips if other.semantics is not None]
    assert 35 < sum(turned) < 65
    both = [Augmentation(AugmentConfig(flip_y=0.5, brightness=9), 0)(batch, number) for number in range(100)]
    assert [torch.equal(one.camera_from_ego, other.camera_from_ego) for one, other in zip(flips, both, strict=True)]
    always = Augmentation(AugmentConfig(flip_images=1.0), 0)(batch, 5)
    assert torch.equal(always.images, batch.images.flip(-1))


def test_earlier_images_are_changed_like_the_present_ones(shards: Path) -> None:
    """Sample 0 lies at the start of its scene, so its earlier frame is the same image: it must stay the same."""
    batch = sample(shards)
    for number in range(10):
        changed = Augmentation(ALL, 2)(batch, number)
        assert changed.past_images is not None and torch.equal(changed.past_images[:, 0], changed.images)


def read(shards: Path, sampler: EpochSampler, workers: int, seed: int = 4) -> Iterator[Batch]:
    dataset = ShardDataset(open_shards(shards, "train"))
    return iter(make_loader(dataset, sampler, workers=workers, pin_memory=False, augment=Augmentation(ALL, seed)))


def stream(shards: Path, sampler: EpochSampler, batches: int, workers: int = 0) -> list[bytes]:
    """What the network sees, sample by sample."""
    found = islice(read(shards, sampler, workers), batches)
    return [batch.images[i].numpy().tobytes() for batch in found for i in range(len(batch.tokens))]


def test_the_stream_does_not_depend_on_readers_processes_or_resuming(shards: Path) -> None:
    """5 samples in batches of 2 over 3 epochs: with 2 readers, from 2 processes, and from the third batch on."""
    whole = stream(shards, EpochSampler(5, 2, seed=4), 8)
    assert len(set(whole)) == 16  # each epoch changes its samples anew
    assert stream(shards, EpochSampler(5, 2, seed=4), 8, workers=2) == whole
    halves = [stream(shards, EpochSampler(5, 2, seed=4, rank=rank, world_size=2), 8) for rank in (0, 1)]
    assert [image for pair in zip(*halves, strict=True) for image in pair] == whole
    resumed = EpochSampler(5, 2, seed=4)
    resumed.load_state_dict({"epoch": 0, "position": 4})
    assert stream(shards, resumed, 6) == whole[4:]


def test_a_run_trains_on_what_is_augmented(shards: Path, tiny_config: TrainConfig, tmp_path: Path) -> None:
    config = override(tiny_config, ["schedule.steps=2", "schedule.warmup_steps=0"])
    plain = protoocc.train(config, shards, tmp_path / "plain").last["ce"]
    assert protoocc.train(override(config, ["data.augment=host"]), shards, tmp_path / "host").last["ce"] != plain


def test_training_refuses_flips_of_a_lopsided_grid(own_shards: Path, tiny_config: TrainConfig, tmp_path: Path) -> None:
    grid = VoxelGrid(minimum_m=(-3.0, -4.0, -1.0), voxel_size_m=1.0, shape=(8, 8, 4))
    manifest = own_shards / "manifest.json"
    manifest.write_text(manifest.read_text().replace("[-4.0, -4.0, -1.0]", "[-3.0, -4.0, -1.0]"))
    model = tiny_config.model.model_copy(update={"grid": grid})
    config = tiny_config.model_copy(update={"model": model})
    with pytest.raises(ConfigError, match="flip_x mirrors the scene along x, but the grid reaches from -3 to 5 m"):
        protoocc.train(override(config, ["data.augment.flip_x=0.5"]), own_shards, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_colours_by_hand() -> None:
    """Brightness is added, contrast multiplied: (100 + 20) * 0.5 = 60; afterwards channels are exchanged."""
    image = np.full((2, 3, 3), (100, 150, 250), np.uint8)
    draw = Distortion(brightness=20.0, contrast=0.5, channels=(2, 0, 1))
    assert distort(image, draw)[0, 0].tolist() == [round(270 * 0.5), 60, 85]
    assert distort(image, Distortion(brightness=-120.0, contrast_first=False))[1, 2].tolist() == [0, 30, 130]
    assert distort(image, Distortion()) is image


def test_hue_and_saturation_by_hand() -> None:
    """A third of the circle turns red into green; half the saturation of a pure colour leaves half of its white."""
    red = np.full((1, 1, 3), (200, 0, 0), np.uint8)
    assert distort(red, Distortion(hue_deg=120.0))[0, 0].tolist() == [0, 200, 0]
    assert distort(red, Distortion(hue_deg=-120.0))[0, 0].tolist() == [0, 0, 200]
    assert distort(red, Distortion(saturation=0.5))[0, 0].tolist() == [200, 100, 100]
    grey = np.full((1, 1, 3), 77, np.uint8)
    assert distort(grey, Distortion(hue_deg=90.0, saturation=1.4))[0, 0].tolist() == [77, 77, 77]


def test_contrast_before_or_after_the_colours_differs() -> None:
    """Before: 200 * 1.5 is clipped at 255 before the hue turns; the order is half of the draws each."""
    image = np.full((1, 1, 3), (200, 100, 100), np.uint8)
    first = distort(image, Distortion(contrast=1.5, saturation=0.5))
    last = distort(image, Distortion(contrast=1.5, saturation=0.5, contrast_first=False))
    assert first[0, 0].tolist() == [255, 202, 202] and last[0, 0].tolist() == [255, 225, 225]
    generator = np.random.default_rng(0)
    draws = [draw_distortion(HOST, generator) for _ in range(2000)]
    for value in ("brightness", "contrast", "saturation", "hue_deg"):
        changed = [getattr(draw, value) for draw in draws if getattr(draw, value) != getattr(Distortion(), value)]
        assert 900 < len(changed) < 1100
    assert 900 < sum(draw.contrast_first for draw in draws) < 1100
    assert max(abs(draw.brightness) for draw in draws) <= 32 < 1.05 * max(abs(draw.brightness) for draw in draws)
    assert max(draw.contrast for draw in draws) <= 1.5 and min(draw.saturation for draw in draws) >= 0.5
    assert max(abs(draw.hue_deg) for draw in draws) <= 18


def test_each_camera_has_its_own_colours(shards: Path) -> None:
    images = Augmentation(AugmentConfig(brightness=60.0), 0)(sample(shards), 1).images[0].float()
    before = sample(shards).images[0].float()
    shifts = (images - before).median(-1).values.median(-1).values.median(-1).values
    assert shifts[0] != shifts[1]


def test_grid_mask_is_a_grid() -> None:
    """Squares of half the period in both directions: a quarter of the image, at changing places."""
    generator = np.random.default_rng(3)
    masks = [draw_grid_mask((60, 90), generator) for _ in range(40)]
    for mask in masks:
        assert mask.shape == (60, 90)
        assert np.array_equal(mask, mask.any(1)[:, None] & mask.any(0)[None])
        counts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1
        edges = np.diff(np.pad(mask.any(1).astype(int), 1))
        assert counts >= (edges == 1).sum() > 0 or not mask.any()
    assert 0.15 < np.mean([mask.mean() for mask in masks]) < 0.35
    assert len({mask.tobytes() for mask in masks}) > 35


def test_blanked_squares_have_the_mean_colour(shards: Path) -> None:
    batch = sample(shards)
    blanked = Augmentation(AugmentConfig(grid_mask=1.0), 0)(batch, 3).images
    changed = (blanked != batch.images).any(2)
    assert changed.any() and not changed.all()
    assert torch.equal(changed[0, 0], changed[0, 1])  # one grid for all cameras
    colours = blanked.movedim(2, -1)[changed]
    assert (colours == torch.tensor(BLANK, dtype=torch.uint8)).all()
