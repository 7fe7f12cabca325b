"""Every loss against a literal float64 loop, by hand, and its invariances."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from protoocc.batch import Batch
from protoocc.losses import LossConfig, VoxelChoice, choose_voxels, compute_losses
from protoocc.losses.consistency import consistency_loss, sharpen
from protoocc.losses.contrastive import cell_segments, contrastive_loss, mask_contrast
from protoocc.losses.lovasz import lovasz_softmax
from protoocc.network import NetworkOutput
from schemas.classes import OCC3D
from schemas.errors import DataError
from schemas.store import NO_SEGMENT


def make_batch(seeds: list[int] | None = None, **changes: torch.Tensor | None) -> Batch:
    """Two samples of 2 x 2 x 2 voxels and one camera of 16 x 16 pixels."""
    generator = torch.Generator().manual_seed(0)
    fields: dict[str, torch.Tensor | None] = {
        "images": torch.zeros(2, 1, 3, 16, 16, dtype=torch.uint8),
        "image_from_camera": torch.eye(3).expand(2, 1, 3, 3),
        "camera_from_ego": torch.eye(4).expand(2, 1, 4, 4),
        "segment_id": torch.randint(0, 3, (2, 1, 16, 16), generator=generator),
        "semantics": torch.tensor([0, 1, 2, 255, 1, 1, 0, 2] * 2).view(2, 2, 2, 2),
        "mask_camera": torch.tensor([1, 1, 1, 1, 0, 1, 1, 0] * 2).bool().view(2, 2, 2, 2),
        "mask_lidar": torch.ones(2, 2, 2, 2, dtype=torch.bool),
    }
    return Batch(tokens=["a", "b"], seeds=seeds, **{**fields, **changes})  # type: ignore[arg-type]


def one_sample(batch: Batch, sample: int) -> Batch:
    """The batch of one of its samples."""
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    own = {name: value[sample : sample + 1] for name, value in fields.items() if isinstance(value, torch.Tensor)}
    return Batch(tokens=[batch.tokens[sample]], **own)  # type: ignore[arg-type]


def make_output(choice: VoxelChoice, views: int = 3) -> NetworkOutput:
    """Random logits of three classes and random pixel features on 2 x 2 cells of 8 pixels."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(views, len(choice.all), 3, generator=generator)
    features = torch.randn(2, 1, 2, 2, 4, generator=generator)
    return NetworkOutput(logits, choice.all, features, torch.ones(2, 1, 2, 2, dtype=torch.bool), 8)


def test_contrast_by_hand() -> None:
    """Orthogonal masks of one cell each: -log(e^(1/tau) / (e^(1/tau) + 1)) with tau 1; a single mask costs nothing."""
    both = torch.ones(1, 2, dtype=torch.bool)
    two = mask_contrast(torch.eye(2)[None], torch.tensor([[0, 1]]), both, 1.0)
    torch.testing.assert_close(two, torch.full((2,), math.log(1 + math.exp(-1))))
    assert mask_contrast(torch.eye(2)[None], torch.tensor([[5, 5]]), both, 1.0).sum() == 0


def test_contrast_counts_only_seen_cells_with_a_mask() -> None:
    """Unseen cells and cells without mask change nothing, not even the centroids; an empty image costs nothing."""
    features = torch.randn(1, 6, 3, dtype=torch.float64)
    segments = torch.tensor([[0, 0, 1, 1, NO_SEGMENT, 1]])
    seen = torch.tensor([[True, True, True, True, True, False]])
    summed, mean = contrastive_loss(features, seen, segments, temperature=0.1)
    alone = mask_contrast(features[:, :4], segments[:, :4], seen[:, :4], 0.1)
    torch.testing.assert_close(summed, alone.sum())
    torch.testing.assert_close(mean, alone.mean())
    summed, mean = contrastive_loss(features, torch.zeros(1, 6, dtype=torch.bool), segments, temperature=0.1)
    assert summed == 0
    assert mean == 0


def test_relabelled_masks_change_nothing() -> None:
    """Names of pseudo masks carry no meaning."""
    features, segments = torch.randn(2, 50, 8), torch.randint(0, 5, (2, 50))
    names = torch.tensor([17, 3, 900, 4, 65000])
    seen = torch.ones(2, 50, dtype=torch.bool)
    first = contrastive_loss(features, seen, segments, temperature=0.1)
    second = contrastive_loss(features, seen, names[segments], temperature=0.1)
    torch.testing.assert_close(first, second)


def test_cell_takes_the_pixel_at_its_centre() -> None:
    """Stride 4 on an image of 6 x 10: rows 2 and 6 (padding), columns 2, 6 and 10 (padding)."""
    segments = torch.arange(60).view(1, 6, 10)
    cells = cell_segments(segments, (2, 3), 4)
    assert cells.tolist() == [[[22, 26, NO_SEGMENT], [NO_SEGMENT] * 3]]


def jaccard_loss(wrong: set[int], foreground: set[int]) -> float:
    """1 - IoU when the voxels in `wrong` are misclassified."""
    return 1.0 - len(foreground - wrong) / len(foreground | wrong)


def test_lovasz_ends_of_the_scale() -> None:
    """A perfect prediction costs 0, a fully wrong one 1, no voxel 0."""
    labels = torch.tensor([0, 1, 2, 2])
    perfect = torch.nn.functional.one_hot(labels, 3).float()[None]
    assert lovasz_softmax(perfect, labels, torch.ones(4)) == 0
    assert lovasz_softmax(perfect.roll(1, dims=-1), labels, torch.ones(4)) == 1
    assert lovasz_softmax(torch.zeros(1, 0, 3), torch.zeros(0, dtype=torch.int64), torch.ones(0)) == 0


def test_lovasz_gradient() -> None:
    """Analytic and numeric gradients agree away from ties."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 1, 1, 0])
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x.softmax(-1), labels, torch.ones(6)), (logits,))


def test_sharpen_by_hand() -> None:
    """Temperature 0.5 squares: 0.6, 0.4 become 0.36 / 0.52, 0.16 / 0.52; a certain class stays; 1 changes nothing."""
    torch.testing.assert_close(sharpen(torch.tensor([0.6, 0.4]), 0.5), torch.tensor([0.36 / 0.52, 0.16 / 0.52]))
    torch.testing.assert_close(sharpen(torch.tensor([1.0, 0.0]), 0.5), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(sharpen(torch.tensor([0.7, 0.3]), 1.0), torch.tensor([0.7, 0.3]))


def test_consistency_target_carries_no_gradient() -> None:
    """d/dp of mean (p - target)^2 is 2 (p - target) / (views * voxels), with the target held fixed."""
    probabilities = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]], dtype=torch.float64, requires_grad=True)
    consistency_loss(probabilities, 0.5).backward()
    target = torch.tensor([0.49, 0.09], dtype=torch.float64) / 0.58  # the mean is 0.7, 0.3
    torch.testing.assert_close(probabilities.grad, 2 * (probabilities.detach() - target) / 2)


def test_choose_voxels_takes_observed_known_ones() -> None:
    """Voxels 4 and 7 are not observed, 3 is unknown; the second sample starts at 8."""
    choice = choose_voxels(make_batch(), LossConfig(), OCC3D)
    assert choice.supervised.tolist() == [0, 1, 2, 5, 6, 8, 9, 10, 13, 14]
    assert choice.consistency.tolist() == list(range(16))
    assert choice.all.tolist() == choice.supervised.tolist() + list(range(16))


def test_choose_voxels_draws_by_seeds() -> None:
    """All occupied voxels and a subset of the free ones, the same for the same seed whatever the neighbour.

    Voxel 5 is occupied; of the free ones 0, 1, 2 and 6 two are drawn, each of which stands for two.
    """
    config = LossConfig(supervised_voxels=3, consistency_voxels=5)
    semantics = torch.tensor([17, 17, 17, 255, 1, 1, 17, 2] * 2).view(2, 2, 2, 2)
    first = choose_voxels(make_batch(seeds=[3, 4], semantics=semantics), config, OCC3D)
    second = choose_voxels(make_batch(seeds=[6, 3], semantics=semantics), config, OCC3D)
    assert first.counts(make_batch()) == [3, 3]
    assert first.supervised[[0, 3]].tolist() == [5, 13]
    assert set(first.supervised.tolist()) <= {0, 1, 2, 5, 6, 8, 9, 10, 13, 14}
    assert len(set(first.supervised.tolist())) == 6
    assert first.weights.tolist() == [1, 2, 2, 1, 2, 2]
    # Both samples have the same labels: seed 3 chooses the same voxels, 8 places further in the second sample.
    assert torch.equal(first.supervised[:3] + 8, second.supervised[3:])
    assert torch.equal(first.consistency[:5] + 8, second.consistency[5:])
    assert not torch.equal(first.consistency[:5], second.consistency[:5])


def test_drawn_free_voxels_stand_for_all() -> None:
    """Over many seeds the weighted sum of anything over the free voxels has the sum over all of them as its mean."""
    semantics = torch.tensor([17, 17, 17, 255, 1, 1, 17, 2] * 2).view(2, 2, 2, 2)
    value = torch.arange(16.0)
    config, sums = LossConfig(supervised_voxels=3, consistency_voxels=1), []
    for seed in range(200):
        choice = choose_voxels(make_batch(seeds=[seed, seed], semantics=semantics), config, OCC3D)
        sums.append(float((value[choice.supervised] * choice.weights)[:3].sum()))
    assert abs(sum(sums) / len(sums) - (5 + 0 + 1 + 2 + 6)) < 0.7


def test_losses_are_means_over_samples() -> None:
    """Samples of unlike numbers of voxels and cells weigh alike: shares of a batch have its losses as their mean."""
    mask = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 1, 0, 0]]).bool().view(2, 2, 2, 2)
    batch, config = make_batch(mask_camera=mask), LossConfig(class_weights=(1.0, 2.0, 0.5))
    choice = choose_voxels(batch, config, OCC3D)
    output = make_output(choice)
    assert choice.counts(batch) == [5, 2]
    assert output.pixel_features is not None and output.pixel_seen is not None
    output.pixel_seen[1, :, 0] = False
    together = compute_losses(output, batch, choice, config)
    shares = []
    for sample, (voxels, others) in enumerate((((0, 5), (7, 15)), ((5, 7), (15, 23)))):
        part = one_sample(batch, sample)
        own = choose_voxels(part, config, OCC3D)
        logits = torch.cat([output.logits[:, slice(*voxels)], output.logits[:, slice(*others)]], dim=1)
        cells = (output.pixel_features[sample : sample + 1], output.pixel_seen[sample : sample + 1], 8)
        shares.append(compute_losses(NetworkOutput(logits, own.all, *cells), part, own, config))
    for name, value in together.items():
        torch.testing.assert_close(value, (shares[0][name] + shares[1][name]) / 2)


def test_total_is_the_weighted_sum() -> None:
    """Equation (6), with cross entropy from the definition over the three views."""
    batch, config = make_batch(), LossConfig(lambda_ce=3, lambda_lovasz=5, lambda_cls=7, lambda_cons=11)
    choice = choose_voxels(batch, config, OCC3D)
    output = make_output(choice)
    losses = compute_losses(output, batch, choice, config)
    assert batch.semantics is not None
    labels = batch.semantics.flatten()[choice.supervised].tolist()
    shares = output.logits.double().softmax(-1)
    expected = -sum(math.log(float(shares[v, i, c])) for v in range(3) for i, c in enumerate(labels)) / len(labels)
    assert math.isclose(float(losses["ce"]), expected, rel_tol=1e-5)
    total = 3 * losses["ce"] + 5 * losses["lovasz"] + 7 * losses["cls"] + 11 * losses["cons"]
    torch.testing.assert_close(losses["total"], total)
    torch.testing.assert_close(losses["cls_sum"], losses["cls"] * 4)  # cells of one sample


def test_unknown_label_is_ignored_everywhere() -> None:
    """Voxel 3 is 255: its logits change no supervised loss."""
    batch, config = make_batch(), LossConfig(consistency_voxels=1)
    choice = choose_voxels(batch, config, OCC3D)
    assert 3 not in choice.supervised.tolist()
    nothing = make_batch(semantics=torch.full((2, 2, 2, 2), 255))
    empty = choose_voxels(nothing, config, OCC3D)
    losses = compute_losses(make_output(empty), nothing, empty, config)
    assert losses["ce"] == 0
    assert losses["lovasz"] == 0
    assert torch.isfinite(losses["total"])


def test_parts_that_are_off_are_zero() -> None:
    """One view has nothing to agree with; without pixel features there is no mask loss and no mask is needed."""
    batch = make_batch(segment_id=None)
    choice = choose_voxels(batch, LossConfig(), OCC3D)
    output = NetworkOutput(make_output(choice, views=1).logits, choice.all, None, None, 8)
    losses = compute_losses(output, batch, choice, LossConfig())
    assert losses["cls"] == 0
    assert losses["cons"] == 0
    assert losses["ce"] > 0


def test_missing_targets_are_named() -> None:
    """The message names the samples and what to do."""
    choice = choose_voxels(make_batch(), LossConfig(), OCC3D)
    with pytest.raises(DataError, match=r"\['a', 'b'\].*pseudo masks.*protoocc masks"):
        compute_losses(make_output(choice), make_batch(segment_id=None), choice, LossConfig())
    with pytest.raises(DataError, match="no semantics"):
        choose_voxels(make_batch(semantics=None), LossConfig(), OCC3D)
