"""The pretraining loop over a folder of image targets: step, log, save, go on, score, write the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from protoocc.checkpoint import load_state
from protoocc.data import EpochSampler, ShardSet, open_shards, reader_deaths
from protoocc.inference import default_device
from protoocc.model.image_config import ImageConfig
from protoocc.optimizer import lr_factor, set_learning_rate
from protoocc.pretrain.card import WeightsCard, write_weights
from protoocc.pretrain.config import PretrainConfig
from protoocc.pretrain.folder import STATE, claim_folder, save_state
from protoocc.pretrain.network import PixelNetwork, pixel_losses
from protoocc.pretrain.scores import PixelScores, score_pixels
from protoocc.pretrain.targets import WORKERS, PixelBatch, PixelDataset, mirrored, pixel_loader, recoloured
from protoocc.reproducible import reproducible
from protoocc.run_folder import RunLog
from schemas.errors import CheckpointError, ConfigError, StageError
from schemas.lock import folder_lock
from schemas.version import code_version

_COUNTED: Final = 100
"""Keyframes whose pixels say how rare each class is."""


@dataclass(frozen=True)
class PretrainStep:
    """One step, for a progress bar: its number, the length of the run, and the losses by name."""

    step: int
    steps: int
    losses: dict[str, float]


@dataclass(frozen=True)
class PretrainSummary:
    """What a finished run leaves: the file of weights, its scores on held-out images, and the time of this call."""

    weights: Path
    scores: PixelScores
    steps: int
    seconds: float


def pretrain_images(
    config: PretrainConfig,
    targets: Path,
    out: Path,
    *,
    resume: bool = False,
    command: str = "",
    on_step: Callable[[PretrainStep], None] = lambda step: None,
) -> PretrainSummary:
    """Trains the image features of a network on image targets and writes them as a file of weights.

    A GPU computes if there is one; on a CPU the same settings and targets give the same bytes, also after a kill.

    Args:
        config: complete settings.
        targets: folder of the stage `pixels`, with splits `train` and `val`.
        out: folder for settings, losses, the state to go on from, and the weights.
        resume: go on from the state in ``out``, if there is one.
        command: command line that made it, for the card.
        on_step: called after each step.

    Raises:
        ConfigError: ``out`` holds another run or foreign files, or the classes do not fit the network.
        DataError: targets are missing or damaged, or the disk is full.
        CheckpointError: the state to go on from is damaged.
        StageError: a loss is not finite, or a process that reads ahead died.
        SetupError: shared memory is too small for the processes that read ahead.
    """
    started = time.monotonic()
    device = default_device()
    train, held_out = (open_shards(targets, split, pixels=True) for split in ("train", "val"))
    _check_classes(config, train)
    with folder_lock(out), reproducible(config.seed, device), reader_deaths(WORKERS):
        claim_folder(out, config, resume=resume)
        run = _Run(config, train, device)
        run.restore(out / STATE)
        run.loop(out, on_step)
        scores = score_pixels(run.network.eval(), PixelDataset(held_out), held_out.dataset.classes, device)
        card = _card(config, (train, held_out), scores, command=command)
        weights = write_weights(out, run.network.state_dict(), card, half=config.half)
    return PretrainSummary(weights, scores, run.step, time.monotonic() - started)


class _Run:
    """What a run carries from step to step."""

    def __init__(self, config: PretrainConfig, shards: ShardSet, device: torch.device) -> None:
        if not isinstance(config.model, ImageConfig) or config.schedule.steps is None:
            raise ConfigError("pretraining needs a network with image features and a number of steps")
        self.config, self.device, self.step, self.steps = config, device, 0, config.schedule.steps
        self.fingerprint = shards.fingerprint
        self.dataset = PixelDataset(shards)
        self.weights = class_weights(self.dataset, config)
        self.network = PixelNetwork(config.model).to(device).train()
        decayed = [p for p in self.network.parameters() if p.ndim >= 2]
        plain = [p for p in self.network.parameters() if p.ndim < 2]
        groups = [
            {"params": decayed, "lr_factor": 1.0, "weight_decay": config.optimizer.weight_decay},
            {"params": plain, "lr_factor": 1.0, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.optimizer.lr)
        self.sampler = EpochSampler(len(self.dataset), config.batch_size, seed=config.seed)

    def restore(self, path: Path) -> None:
        """Goes on from a stored state, if there is one.

        Raises:
            CheckpointError: it is damaged, or of other image targets.
        """
        if not path.is_file():
            return
        state = load_state(path)
        if state.get("targets") != self.fingerprint:
            raise CheckpointError(f"{path} was trained on other image targets; choose another folder")
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.sampler.load_state_dict(state["sampler"])
            self.step = int(state["step"])
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise CheckpointError(f"{path} is damaged: no state of this run ({error!r})") from error

    def loop(self, out: Path, on_step: Callable[[PretrainStep], None]) -> None:
        """Runs to the last step."""
        loader = pixel_loader(
            self.dataset, self.sampler, workers=self.config.workers, pin_memory=self.device.type == "cuda"
        )
        log = RunLog(out, first_step=self.step + 1)
        try:
            batches = iter(loader) if self.step < self.steps else iter(())
            while self.step < self.steps:
                started = time.perf_counter()
                losses = self._train_step(next(batches))
                log.write(self.step, {**losses, "seconds": time.perf_counter() - started})
                on_step(PretrainStep(self.step, self.steps, losses))
                if self.step % self.config.checkpoint_every == 0 or self.step == self.steps:
                    self._save(out / STATE)
        finally:
            log.close()

    def _train_step(self, batch: PixelBatch) -> dict[str, float]:
        rate = self.config.optimizer.lr * lr_factor(self.step, self.steps, self.config.schedule)
        set_learning_rate(self.optimizer, rate)
        batch = changed(batch.to(self.device), self.config, self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            scales = self.network(batch.images)
        losses = pixel_losses(self.network, scales, batch, self.config, self.weights)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses["total"])
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.clip_norm)
        numbers = _finite({**losses, "gradient_norm": norm}, batch.names, self.step + 1)
        self.optimizer.step()
        self.sampler.advance()
        self.step += 1
        return {"lr": rate, **numbers}

    def _save(self, path: Path) -> None:
        state = {"step": self.step, "targets": self.fingerprint, "network": self.network.state_dict()}
        state |= {"optimizer": self.optimizer.state_dict(), "sampler": self.sampler.state_dict()}
        save_state(path, state)


def _finite(losses: Mapping[str, Tensor], names: Sequence[str], step: int) -> dict[str, float]:
    """The losses as numbers.

    Raises:
        StageError: one is not finite; names the images.
    """
    numbers = {name: float(value.detach()) for name, value in losses.items()}
    broken = [name for name, value in numbers.items() if not math.isfinite(value)]
    if broken:
        raise StageError(
            f"step {step}: {', '.join(broken)} not finite with images {', '.join(names)}. Lower "
            "optimizer.lr; the state so far is whole."
        )
    return numbers


def changed(batch: PixelBatch, config: PretrainConfig, step: int) -> PixelBatch:
    """The batch with some images mirrored and all recoloured; seed and step decide, so a resumed run does the same."""
    generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % 2**63)
    count = len(batch.images)
    chosen = torch.rand(count, generator=generator) < 0.5
    common, single = torch.rand(count, 1, generator=generator), torch.rand(count, 3, generator=generator)
    strength = (1 + config.colour * (2 * common - 1)) * (1 + 0.5 * config.colour * (2 * single - 1))
    if config.flip:
        batch = mirrored(batch, chosen.to(batch.images.device))
    return recoloured(batch, strength.to(batch.images.device)) if config.colour else batch


def class_weights(dataset: PixelDataset, config: PretrainConfig) -> list[float]:
    """Weight of each class: its rarity to the power of ``class_balance``, such that the mean over the pixels is 1.

    Counted on up to `_COUNTED` keyframes, evenly spread. Classes that do not occur weigh as much as the rarest one.
    """
    classes = dataset.shards.dataset.classes.num_classes
    stride = max(len(dataset) // _COUNTED, 1)
    counts = torch.zeros(classes, dtype=torch.int64)
    for index in range(0, len(dataset), stride):
        labels = dataset.classes(index)
        counts += torch.bincount(labels[labels < classes].long(), minlength=classes)
    if not counts.any():
        return [1.0] * classes
    share = counts.double() / counts.sum()
    share = share.clamp_min(float(share[share > 0].min()))
    rarity = share**-config.class_balance
    mean = (counts * rarity).sum() / counts.sum()
    return [float(weight) for weight in (rarity / mean).tolist()]


def _check_classes(config: PretrainConfig, shards: ShardSet) -> None:
    """Refuses image targets of another number of classes than the network's."""
    found = shards.dataset.classes.num_classes
    if config.model.num_classes != found:
        raise ConfigError(
            f"{shards.folder} has {found} classes, model.num_classes is {config.model.num_classes}: pass "
            f"--set model.num_classes={found}"
        )


def _card(
    config: PretrainConfig, splits: tuple[ShardSet, ShardSet], scores: PixelScores, *, command: str
) -> WeightsCard:
    train, held_out = splits
    data: dict[str, Any] = {
        "name": train.manifest.name,
        "source": train.manifest.pixels,
        "fingerprint": train.fingerprint,
        "image_shape": list(train.dataset.image_shape),
        "keyframes": {shards.split: len(shards.samples) for shards in splits},
        "scenes": {shards.split: sorted({sample.scene for _, sample in shards.samples}) for shards in splits},
    }
    return WeightsCard(
        version=code_version(),
        command=command,
        settings=config.model_dump(mode="json"),
        data=data,
        classes=held_out.dataset.classes.names,
        scores=scores,
        stored_as="float16" if config.half else "float32",
        steps=config.schedule.steps or 0,
    )
