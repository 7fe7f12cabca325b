"""Equations (3) to (6), cross entropy and Lovasz against loops in float64, gradients, and the borders."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from protoocc.batch import Batch
from protoocc.losses import LossConfig, VoxelChoice, choose_voxels, compute_losses, cross_entropy
from protoocc.losses.consistency import consistency_loss, sharpen
from protoocc.losses.contrastive import cell_segments, contrastive_loss, mask_contrast
from protoocc.losses.lovasz import lovasz_softmax
from protoocc.network import NetworkOutput
from schemas.classes import OCC3D
from schemas.store import NO_SEGMENT
from tests.protoocc.reference import losses as literal
from tests.protoocc.reference.arithmetic import assert_agrees, cosine, slopes, softmax

WEIGHTS = LossConfig(
    lambda_ce=3.0,
    lambda_lovasz=5.0,
    lambda_cls=7.0,
    lambda_cons=11.0,
    tau_cls=0.3,
    tau_cons=0.4,
    class_weights=(0.5, 1.0, 2.0, 1.5),
)
CLASSES = 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def counted_masks(segments: Tensor, seen: Tensor) -> list[int | None]:
    """Masks of one image for the reference: None where a cell carries no loss."""
    return [
        s if looked and s != NO_SEGMENT else None for s, looked in zip(segments.tolist(), seen.tolist(), strict=True)
    ]


# --- (3), the mask contrast


@pytest.mark.parametrize(("grid", "stride"), [((5, 6), 8), ((3, 4), 3), ((40, 41), 1), ((2, 9), 16)])
def test_cells_take_the_pixel_at_their_centre(grid: tuple[int, int], stride: int) -> None:
    """An image of 37 x 45 pixels, smaller or larger than the grid."""
    segments = integers(9, 2, 37, 45)
    cells = cell_segments(segments, grid, stride)
    for image, actual in zip(segments.tolist(), cells, strict=True):
        expected = literal.cell_masks(image, *grid, stride)
        assert actual.flatten().tolist() == [NO_SEGMENT if mask is None else mask for mask in expected]


@pytest.mark.parametrize("masks", [5, 1])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_mask_contrast(masks: int, temperature: float) -> None:
    """Equation (3) cell by cell; a single mask costs nothing."""
    features, segments = normal(1, 12, 4), integers(masks, 1, 12) + 40
    expected = literal.contrast(features[0].tolist(), segments[0].tolist(), temperature)
    counted = torch.ones(1, 12, dtype=torch.bool)
    assert_agrees(mask_contrast(features, segments, counted, temperature), [expected[cell] for cell in range(12)])


def test_masks_of_other_images_mean_nothing() -> None:
    """Images with one, three and no masks, the same numbers in both: cell after cell as each image has it alone."""
    features, segments = normal(3, 6, 4), torch.tensor([[7] * 6, [7, 0, 2, 7, 2, 0], [1] * 6])
    counted = torch.tensor([[True] * 6, [True, True, True, True, False, True], [False] * 6])
    losses = mask_contrast(features, segments, counted, 0.5)
    alone = [mask_contrast(features[[i]], segments[[i]], counted[[i]], 0.5) for i in range(3)]
    assert [len(part) for part in alone] == [6, 5, 0]
    assert_agrees(alone[0], [0.0] * 6)
    torch.testing.assert_close(losses, torch.cat(alone))


def test_contrastive_loss() -> None:
    """Sum and mean over three images: cells without mask, cells that no query looked at, and a blind camera."""
    features, segments = normal(3, 15, 4), integers(4, 3, 15)
    segments[0, :3] = NO_SEGMENT
    seen = torch.rand(3, 15, generator=torch.Generator().manual_seed(3)) < 0.7
    seen[2] = False
    parts: list[float] = []
    for image, mask, looked in zip(features, segments, seen, strict=True):
        parts += literal.contrast(image.tolist(), counted_masks(mask, looked), 0.2).values()
    summed, mean = contrastive_loss(features, seen, segments, temperature=0.2)
    assert_agrees(summed, sum(parts))
    assert_agrees(mean, sum(parts) / len(parts))


def test_mask_with_no_cell_does_not_count() -> None:
    """A mask that resizing leaves without a cell, or of which no cell is seen, has no mean and no place in the sum."""
    features, seen = normal(1, 6, 4), torch.tensor([[True, True, True, True, False, False]])
    segments = torch.tensor([[3, 3, 8, 8, 5, 5]])  # 4, 6 and 7 never occur; 5 is not seen
    losses = contrastive_loss(features, seen, segments, temperature=0.2)
    assert_agrees(losses[0], sum(literal.contrast(features[0].tolist(), [3, 3, 8, 8, None, None], 0.2).values()))


def test_unseen_cells_change_no_mean() -> None:
    """X is zero at unseen cells: to average them into M_s scales it, and the cosine does not notice."""
    features, seen = normal(1, 8, 4), torch.tensor([[True, True, False, True, True, True, False, True]])
    features = features * seen[..., None]
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    centroids = [[sum(x) / 4 for x in zip(*features[0, 4 * s : 4 * s + 4].tolist(), strict=True)] for s in (0, 1)]
    for cell in (0, 1, 3, 4, 5, 7):
        powers = softmax([cosine(m, features[0, cell].tolist()) / 0.2 for m in centroids])
        expected = literal.contrast(features[0].tolist(), counted_masks(segments[0], seen[0]), 0.2)[cell]
        assert abs(-torch.tensor(powers[cell // 4], dtype=torch.float64).log() - expected) < 1e-9


def test_contrast_gradient() -> None:
    """To X, through the means of the masks as well; cells that do not count get exactly zero."""
    features, segments = normal(2, 7, 3).requires_grad_(), integers(3, 2, 7)
    seen = torch.ones(2, 7, dtype=torch.bool)
    seen[0, 2], segments[1, 4] = False, NO_SEGMENT
    assert gradcheck(lambda x: contrastive_loss(x, seen, segments, temperature=0.3), (features,))
    (gradient,) = torch.autograd.grad(contrastive_loss(features, seen, segments, temperature=0.3)[0], features)
    assert gradient[0, 2].abs().sum() + gradient[1, 4].abs().sum() == 0


# --- (4) and (5), the scene consistency


@pytest.mark.parametrize("temperature", [0.25, 0.5, 1.0, 2.0])
def test_sharpen(temperature: float) -> None:
    """Equation (4); certain and impossible classes included."""
    distributions = torch.cat([normal(6, CLASSES).softmax(-1), torch.eye(CLASSES, dtype=torch.float64)])
    expected = [literal.sharpen(distribution, temperature) for distribution in distributions.tolist()]
    assert_agrees(sharpen(distributions, temperature), expected)
    assert gradcheck(lambda x: sharpen(x.softmax(-1), temperature), (normal(3, CLASSES).requires_grad_(),))


@pytest.mark.parametrize("views", [1, 2, 4])
def test_consistency(views: int) -> None:
    """Equation (5): the mean distribution of the views, sharpened, against each of them."""
    probabilities = normal(views, 5, CLASSES).softmax(-1)
    mean = literal.mean_distribution(probabilities.tolist())
    target = [literal.sharpen(distribution, 0.4) for distribution in mean]
    assert_agrees(consistency_loss(probabilities, 0.4), literal.consistency(probabilities.tolist(), target))


def test_consistency_gradient() -> None:
    """Slopes of the loops with the target held fixed: the target is not differentiated."""
    logits = normal(3, 4, CLASSES).requires_grad_()
    consistency_loss(logits.softmax(-1), 0.4).backward()
    fixed = logits.detach()
    target = [literal.sharpen(d, 0.4) for d in literal.mean_distribution(fixed.softmax(-1).tolist())]
    expected = slopes(lambda x: literal.consistency(x.softmax(-1).tolist(), target), fixed)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-6, atol=1e-9)


# --- cross entropy and Lovasz-softmax


@pytest.mark.parametrize("class_weights", [None, (0.5, 1.0, 0.0, 1.5)])
def test_cross_entropy(class_weights: tuple[float, ...] | None) -> None:
    """Each view on its own, weighted by class or not; a class of weight 0 does not count in the mean.

    A voxel of weight 3 counts as three voxels.
    """
    logits, labels, weights = normal(2, 9, CLASSES), integers(CLASSES, 9), 1 + integers(3, 9)
    repeated, known = logits.repeat_interleave(weights, dim=1), labels.repeat_interleave(weights)
    expected = [
        literal.cross_entropy(view, known.tolist(), class_weights or (1.0,) * CLASSES) for view in repeated.tolist()
    ]
    assert_agrees(cross_entropy(logits.log_softmax(-1), labels, weights.double(), class_weights), expected)
    logits.requires_grad_()
    assert gradcheck(lambda x: cross_entropy(x.log_softmax(-1), labels, weights.double(), class_weights), (logits,))


@pytest.mark.parametrize("labels", [[0, 2, 2, 3, 0, 3, 2], [1] * 7, [0, 1, 2, 3, 0, 1, 2]])
def test_lovasz(labels: list[int]) -> None:
    """The integral of the Jaccard loss over thresholds: classes that do not occur, one class, all classes.

    A voxel of weight 3 counts as three voxels.
    """
    probabilities, known, weights = normal(2, 7, CLASSES).softmax(-1), torch.tensor(labels), 1 + integers(3, 7)
    repeated = probabilities.repeat_interleave(weights, dim=1).tolist()
    expected = [literal.lovasz(view, known.repeat_interleave(weights).tolist()) for view in repeated]
    assert_agrees(lovasz_softmax(probabilities, known, weights.double()), expected)
    logits = normal(2, 7, CLASSES).requires_grad_()
    assert gradcheck(lambda x: lovasz_softmax(x.softmax(-1), known, weights.double()), (logits,))


def test_lovasz_of_equal_errors() -> None:
    """Ties may be broken in any order: the value stays that of the integral."""
    probabilities = torch.full((1, 6, CLASSES), 0.25, dtype=torch.float64)
    labels = [0, 1, 1, 2, 2, 2]
    assert_agrees(
        lovasz_softmax(probabilities, torch.tensor(labels), torch.ones(6)),
        [literal.lovasz(probabilities[0].tolist(), labels)],
    )


# --- (6), the objective


def make_case(views: int = 3) -> tuple[NetworkOutput, Batch, VoxelChoice]:
    """Two samples of two cameras with 3 x 4 cells of 4 pixels (the last column is padding) and 2 x 3 x 2 voxels."""
    segments = integers(3, 2, 2, 12, 13)
    segments[0, 1, :5] = NO_SEGMENT
    semantics = integers(CLASSES, 2, 2, 3, 2, seed=1)
    semantics[0, 0, 0] = 255
    batch = Batch(
        images=torch.zeros(2, 2, 3, 12, 13, dtype=torch.uint8),
        image_from_camera=torch.eye(3).expand(2, 2, 3, 3),
        camera_from_ego=torch.eye(4).expand(2, 2, 4, 4),
        tokens=["a", "b"],
        segment_id=segments,
        semantics=semantics,
        mask_camera=torch.rand(2, 2, 3, 2, generator=torch.Generator().manual_seed(2)) < 0.7,
        mask_lidar=torch.ones(2, 2, 3, 2, dtype=torch.bool),
    )
    choice = choose_voxels(batch, WEIGHTS, OCC3D)
    seen = torch.rand(2, 2, 3, 4, generator=torch.Generator().manual_seed(3)) < 0.8
    seen[1, 0] = False
    logits, features = normal(views, len(choice.all), CLASSES, seed=4), normal(2, 2, 3, 4, 5, seed=5)
    return NetworkOutput(logits, choice.all, features, seen, 4), batch, choice


def literal_objective(output: NetworkOutput, batch: Batch) -> dict[str, float]:
    """Equation (6) from the labels and masks of the batch, for logits of observed voxels followed by all voxels.

    Means over the two samples.
    """
    assert batch.semantics is not None and batch.mask_camera is not None and batch.segment_id is not None
    assert output.pixel_features is not None and output.pixel_seen is not None and WEIGHTS.class_weights is not None
    known = zip(batch.semantics.flatten().tolist(), batch.mask_camera.flatten().tolist(), strict=True)
    observed = [
        [label for label, is_seen in sample if is_seen and label != 255] for sample in zip(*[known] * 12, strict=True)
    ]
    counts = [len(labels) for labels in observed]
    supervised = [part.tolist() for part in output.logits[:, : sum(counts)].split(counts, dim=1)]
    probabilities = [[softmax(x) for x in view] for view in output.logits[:, sum(counts) :].tolist()]
    target = [literal.sharpen(d, WEIGHTS.tau_cons) for d in literal.mean_distribution(probabilities)]
    cells: list[list[float]] = [[], []]
    for sample in range(2):
        for camera in range(2):
            masks = literal.cell_masks(batch.segment_id[sample, camera].tolist(), 3, 4, 4)
            numbers = torch.tensor([NO_SEGMENT if mask is None else mask for mask in masks])
            counted = counted_masks(numbers, output.pixel_seen[sample, camera].flatten())
            features = output.pixel_features[sample, camera].flatten(0, 1).tolist()
            cells[sample] += literal.contrast(features, counted, WEIGHTS.tau_cls).values()
    pairs = [(view, labels) for views, labels in zip(supervised, observed, strict=True) for view in views]
    ce = sum(literal.cross_entropy(view, labels, WEIGHTS.class_weights) for view, labels in pairs) / 2
    lovasz = sum(literal.lovasz([softmax(x) for x in view], labels) for view, labels in pairs) / 2
    cls = sum(sum(part) / len(part) for part in cells) / 2
    cons, cls_sum = literal.consistency(probabilities, target), sum(map(sum, cells)) / 2
    total = 3.0 * ce + 5.0 * lovasz + 7.0 * cls + 11.0 * cons
    return {"ce": ce, "lovasz": lovasz, "cls": cls, "cls_sum": cls_sum, "cons": cons, "total": total}


def test_objective() -> None:
    """Every part of equation (6) and their sum."""
    output, batch, choice = make_case()
    losses = compute_losses(output, batch, choice, WEIGHTS)
    expected = literal_objective(output, batch)
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        assert_agrees(value, expected[name])


def test_objective_gradient() -> None:
    """To logits and X, without the consistency, whose target is fixed; along random directions, as parts are above."""
    output, batch, choice = make_case(views=2)
    config = WEIGHTS.model_copy(update={"lambda_cons": 0.0})
    assert output.pixel_features is not None

    def total(logits: Tensor, features: Tensor) -> Tensor:
        changed = dataclasses.replace(output, logits=logits, pixel_features=features)
        return compute_losses(changed, batch, choice, config)["total"]

    assert gradcheck(total, (output.logits.requires_grad_(), output.pixel_features.requires_grad_()), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    """What autocast leaves in 16 bits gives the float32 losses of the same numbers, bit by bit."""
    output, batch, choice = make_case()
    assert output.pixel_features is not None
    low = dataclasses.replace(output, logits=output.logits.to(dtype), pixel_features=output.pixel_features.to(dtype))
    assert low.pixel_features is not None
    high = dataclasses.replace(low, logits=low.logits.float(), pixel_features=low.pixel_features.float())
    one, other = compute_losses(low, batch, choice, WEIGHTS), compute_losses(high, batch, choice, WEIGHTS)
    assert all(one[name].dtype == torch.float32 and torch.equal(one[name], other[name]) for name in other)
