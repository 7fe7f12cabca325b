"""Scene-class affinity, frustum proportion, their place in the objective and the weights of SemanticKITTI's classes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from protoocc.batch import Batch
from protoocc.losses import LossConfig, VoxelChoice, choose_voxels, compute_losses, cross_entropy
from protoocc.losses.affinity import geo_scal, sem_scal
from protoocc.losses.class_weights import SEMANTICKITTI_VOXELS, SEMANTICKITTI_WEIGHTS, VOXFORMER_WEIGHTS
from protoocc.losses.frustum import SIDE, frusta_of, frustum_loss
from protoocc.network import NetworkConfig, NetworkOutput
from schemas.classes import SEMANTICKITTI
from schemas.geometry import VoxelGrid
from tests.protoocc.reference import scene_losses as literal
from tests.protoocc.reference.arithmetic import assert_agrees

CLASSES = 5
GRID = VoxelGrid(minimum_m=(0.0, -4.0, -1.0), voxel_size_m=1.0, shape=(6, 8, 3))
NETWORK = NetworkConfig(kind="plain", num_classes=CLASSES, free=0, grid=GRID)
FRONT = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0.3], [1, 0, 0, 0.2], [0, 0, 0, 1]])
LEFT = torch.tensor([[1.0, 0, 0, -2], [0, 0, -1, 0.3], [0, 1, 0, 0.2], [0, 0, 0, 1]])


def probabilities(voxels: int, views: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(views, voxels, CLASSES, generator=generator, dtype=torch.float64).softmax(-1)


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def make_batch(samples: int = 2) -> Batch:
    """Two cameras of 20 x 36 pixels; labels of five classes, 0 = free, some unknown and some not observed."""
    semantics = integers(CLASSES, samples, *GRID.shape) * (integers(3, samples, *GRID.shape, seed=1) == 0)
    semantics[0, 0, :3] = 255
    return Batch(
        images=torch.zeros(samples, 2, 3, 20, 36, dtype=torch.uint8),
        image_from_camera=torch.tensor([[14.0, 0, 17], [0, 13, 9], [0, 0, 1]]).expand(samples, 2, 3, 3),
        camera_from_ego=torch.stack([FRONT, LEFT]).expand(samples, 2, 4, 4),
        tokens=[str(number) for number in range(samples)],
        semantics=semantics,
        mask_camera=torch.rand(semantics.shape, generator=torch.Generator().manual_seed(2)) < 0.7,
    )


def alone(batch: Batch, sample: int) -> Batch:
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    own = {name: value[sample : sample + 1] for name, value in fields.items() if isinstance(value, Tensor)}
    return Batch(tokens=[batch.tokens[sample]], **own)


# --- affinities


@pytest.mark.parametrize("labels", [[0, 0, 2, 4, 2, 0, 1, 0, 0], [3] * 9, [0] * 9])
def test_affinities(labels: list[int]) -> None:
    """Some classes, one class alone, free space alone; a voxel of weight 3 counts as three voxels."""
    told, known, weights = probabilities(9), torch.tensor(labels), 1 + integers(3, 9, seed=4)
    repeated, wanted = told.repeat_interleave(weights, dim=1).tolist(), known.repeat_interleave(weights).tolist()
    assert_agrees(sem_scal(told, known, weights.double()), [literal.sem_scal(view, wanted) for view in repeated])
    assert_agrees(geo_scal(told, known, weights.double(), 0), [literal.geo_scal(view, wanted, 0) for view in repeated])


def test_affinities_by_hand() -> None:
    """Two voxels, free and class 1, predicted with 3/4 for what they are: every share is 3/4."""
    told = torch.tensor([[[0.75, 0.25], [0.25, 0.75]]], dtype=torch.float64)
    labels, weights = torch.tensor([0, 1]), torch.ones(2, dtype=torch.float64)
    assert_agrees(sem_scal(told, labels, weights), [-3 * math.log(0.75)])
    assert_agrees(geo_scal(told, labels, weights, 0), [-3 * math.log(0.75)])


def test_affinity_gradients() -> None:
    labels, weights = torch.tensor([0, 0, 2, 4, 2]), torch.tensor([3.0, 1, 1, 2, 1], dtype=torch.float64)
    logits = torch.randn(2, 5, CLASSES, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: sem_scal(x.softmax(-1), labels, weights), (logits,))
    assert gradcheck(lambda x: geo_scal(x.softmax(-1), labels, weights, 0), (logits,))


def test_certain_and_empty_scenes_have_finite_costs_and_gradients() -> None:
    """Right with certainty costs nothing, wrong with certainty a number; so does no voxel at all."""
    labels, weights = torch.tensor([0, 1, 1]), torch.ones(3)
    right = 200 * torch.nn.functional.one_hot(labels, CLASSES).float()[None]
    for logits in (right, right.roll(1, dims=-1), right[:, :0]):
        logits = logits.clone().requires_grad_()
        count = logits.shape[1]
        given = (logits.softmax(-1), labels[:count], weights[:count])
        total = sem_scal(*given) + geo_scal(*given, 0)
        total += frustum_loss(*given, torch.zeros(1, count, dtype=torch.int64))
        total.sum().backward()
        assert torch.isfinite(total) and logits.grad is not None and bool(torch.isfinite(logits.grad).all())
        assert (total > 80) == (count > 0 and not torch.equal(logits.detach(), right))


def test_large_scenes_keep_their_precision() -> None:
    """A naive float32 sum over a million voxels that all tell 0.9 would be off by a percent."""
    count = 1_000_000
    told = torch.tensor([0.9, 0.1, 0, 0, 0]).expand(1, count, CLASSES)
    labels, weights = torch.zeros(count, dtype=torch.int64), torch.ones(count)
    torch.testing.assert_close(sem_scal(told, labels, weights), torch.tensor([-math.log(0.9)]))
    frusta = torch.zeros(1, count, dtype=torch.int64)
    torch.testing.assert_close(frustum_loss(told, labels, weights, frusta), torch.tensor([-math.log(0.9)]))


# --- frustum proportion


def literal_numbers(batch: Batch, sample: int, places: list[int]) -> list[list[int | None]]:
    """Frustum of each voxel for each camera, its centre worked out from its position."""
    _, ys, zs = GRID.shape
    centers = [
        [low + index + 0.5 for low, index in zip(GRID.minimum_m, (p // (ys * zs), p // zs % ys, p % zs), strict=True)]
        for p in places
    ]
    cameras = zip(batch.camera_from_ego[sample].tolist(), batch.image_from_camera[sample].tolist(), strict=True)
    return [[literal.frustum_number(center, *camera, (20, 36)) for center in centers] for camera in cameras]


def test_frusta_of_voxels() -> None:
    """All voxels of a scene before, behind and beside two cameras."""
    places = list(range(6 * 8 * 3))
    expected = literal_numbers(make_batch(), 1, places)
    found = frusta_of(torch.tensor(places), make_batch(), 1, GRID)
    assert found.tolist() == [[SIDE * SIDE if n is None else n for n in camera] for camera in expected]
    assert all(len(set(camera)) > 8 and None in camera for camera in expected)


def test_frustum_loss() -> None:
    """Two cameras, voxels with weights, voxels that no camera sees."""
    places = list(range(0, 144, 2))
    numbers = literal_numbers(make_batch(), 0, places)
    told, known, weights = probabilities(72), integers(CLASSES, 72, seed=3), 1 + integers(2, 72, seed=5)
    frusta = frusta_of(torch.tensor(places), make_batch(), 0, GRID)
    repeats = weights.tolist()
    repeated = [[n for n, times in zip(row, repeats, strict=True) for _ in range(times)] for row in numbers]
    wanted = known.repeat_interleave(weights).tolist()
    views = told.repeat_interleave(weights, dim=1).tolist()
    expected = [literal.frustum(view, wanted, repeated) for view in views]
    assert_agrees(frustum_loss(told, known, weights.double(), frusta), expected)
    logits = torch.randn(1, 72, CLASSES, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: frustum_loss(x.softmax(-1), known, weights.double(), frusta), (logits,), fast_mode=True)


def test_frustum_by_hand() -> None:
    """One frustum of two voxels, classes 0 and 1, both told 1/4 and 3/4: log(1/2 / 1/4) / 2 + log(1/2 / 3/4) / 2."""
    told = torch.tensor([[[0.25, 0.75], [0.25, 0.75]]], dtype=torch.float64)
    loss = frustum_loss(told, torch.tensor([0, 1]), torch.ones(2), torch.tensor([[7, 7]]))
    assert_agrees(loss, [0.5 * math.log(2) + 0.5 * math.log(2 / 3)])


# --- in the objective

SCENE = LossConfig(lambda_lovasz=0, lambda_sem_scal=2, lambda_geo_scal=3, lambda_frustum=5, lambda_auxiliary=0.25)


def make_output(choice: VoxelChoice, auxiliary: int = 0) -> NetworkOutput:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(2, len(choice.all), CLASSES, generator=generator, dtype=torch.float64)
    earlier = [
        torch.randn(len(choice.all), CLASSES, generator=generator, dtype=torch.float64) for _ in range(auxiliary)
    ]
    return NetworkOutput(logits, choice.all, auxiliary=tuple(earlier))


def test_scene_losses_in_the_objective() -> None:
    """Means over the samples of what loops give for the observed, known voxels, summed over the views."""
    batch = make_batch()
    choice = choose_voxels(batch, SCENE, SEMANTICKITTI)
    output = make_output(choice)
    losses = compute_losses(output, batch, choice, SCENE, NETWORK)
    assert batch.semantics is not None
    expected = dict.fromkeys(("sem_scal", "geo_scal", "frustum"), 0.0)
    volume = math.prod(GRID.shape)
    for sample in range(2):
        rows = [n for n, place in enumerate(choice.supervised.tolist()) if place // volume == sample]
        places = [choice.supervised.tolist()[row] % volume for row in rows]
        known = [int(batch.semantics[sample].flatten()[place]) for place in places]
        numbers = literal_numbers(batch, sample, places)
        for view in output.logits.softmax(-1):
            told = view[rows].tolist()
            expected["sem_scal"] += literal.sem_scal(told, known) / 2
            expected["geo_scal"] += literal.geo_scal(told, known, 0) / 2
            expected["frustum"] += literal.frustum(told, known, numbers) / 2
    for name, value in expected.items():
        assert_agrees(losses[name], value)
    total = (
        10 * losses["ce"]
        + losses["cons"]
        + sum(weight * losses[name] for name, weight in (("sem_scal", 2), ("geo_scal", 3), ("frustum", 5)))
    )
    torch.testing.assert_close(losses["total"], total)
    assert losses["lovasz"] == 0


def test_scene_losses_are_means_over_samples() -> None:
    """Equal shares of a batch have its losses as their mean, auxiliary ones too."""
    batch = make_batch()
    choice = choose_voxels(batch, SCENE, SEMANTICKITTI)
    output = make_output(choice, auxiliary=2)
    together = compute_losses(output, batch, choice, SCENE, NETWORK)
    shares, first = [], choice.counts(batch)[0]
    count, volume = len(choice.supervised), math.prod(GRID.shape)
    rows = torch.arange(len(choice.all))
    for sample, known in enumerate((rows[:first], rows[first:count])):
        start = count + sample * volume
        kept = torch.cat([known, rows[start : start + volume]])
        own = choose_voxels(alone(batch, sample), SCENE, SEMANTICKITTI)
        part = NetworkOutput(output.logits[:, kept], own.all, auxiliary=tuple(x[kept] for x in output.auxiliary))
        shares.append(compute_losses(part, alone(batch, sample), own, SCENE, NETWORK))
    for name, value in together.items():
        torch.testing.assert_close(value, (shares[0][name] + shares[1][name]) / 2)


def test_auxiliary_logits_carry_all_losses_of_voxels() -> None:
    """The last layer's logits given once more as those of an earlier layer cost a quarter of what they cost there."""
    batch = make_batch()
    choice = choose_voxels(batch, SCENE, SEMANTICKITTI)
    output = make_output(choice)
    one_view = dataclasses.replace(output, logits=output.logits[:1])
    plain = compute_losses(one_view, batch, choice, SCENE, NETWORK)
    both = compute_losses(dataclasses.replace(one_view, auxiliary=(output.logits[0],)), batch, choice, SCENE, NETWORK)
    torch.testing.assert_close(both["auxiliary"], plain["total"])
    torch.testing.assert_close(both["total"], 1.25 * plain["total"])


def test_without_weights_nothing_is_added() -> None:
    """Old settings give the old losses under the old names, and need no network."""
    batch = make_batch()
    choice = choose_voxels(batch, LossConfig(), SEMANTICKITTI)
    assert list(compute_losses(make_output(choice), batch, choice, LossConfig())) == [
        *("ce", "lovasz", "cls", "cons", "total")
    ]
    with pytest.raises(ValueError, match="lambda_geo_scal"):
        compute_losses(make_output(choice), batch, choice, SCENE)


# --- class weights


def test_class_weights_of_semantickitti() -> None:
    """1 / ln(voxels) for its 20 classes; VoxFormer's are ten times as large, to three decimals."""
    assert len(SEMANTICKITTI_WEIGHTS) == len(VOXFORMER_WEIGHTS) == SEMANTICKITTI.num_classes
    for voxels, weight, published in zip(SEMANTICKITTI_VOXELS, SEMANTICKITTI_WEIGHTS, VOXFORMER_WEIGHTS, strict=True):
        assert math.isclose(math.exp(1 / weight), voxels, rel_tol=1e-9)
        assert abs(10 * weight - published) < 6e-4


def test_mean_over_voxels() -> None:
    """Weights 1 and 3, both told 1/2, of which the second counts twice: (1 + 2 * 3) ln 2 over 7, or over 3 voxels."""
    logarithms = torch.full((1, 2, 2), math.log(0.5), dtype=torch.float64)
    given = (logarithms, torch.tensor([0, 1]), torch.tensor([1.0, 2.0], dtype=torch.float64), (1.0, 3.0))
    assert_agrees(cross_entropy(*given), [math.log(2)])
    assert_agrees(cross_entropy(*given, "voxels"), [7 / 3 * math.log(2)])
