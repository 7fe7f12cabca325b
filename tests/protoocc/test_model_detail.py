"""Voxels that read the images where their own centres land."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from protoocc.batch import stack_batches
from protoocc.model import ProtoOcc, ProtoOccConfig
from protoocc.model.detail import SHARES, Detail, DetailMaps, VoxelDetail, voxel_centers
from protoocc.model.projection import HitQueries
from protoocc.network import NetworkOutput
from schemas.classes import OCC3D
from schemas.geometry import OCC3D_GRID
from tests.protoocc.test_model import make_batch, tiny_model

CAR = OCC3D.names.index("car")


def detailed(**changes: object) -> ProtoOccConfig:
    """All parts of the paper, and voxels that read their own detail."""
    return tiny_model(voxel_detail=True, pixel_classes=True, pixel_depth=True, **changes)


def painted_maps(config: ProtoOccConfig, bin_of_depth: int, label: int) -> DetailMaps:
    """One camera all of whose cells show one class at one depth."""
    shape = (1, 3, 5)
    depth = functional.one_hot(torch.full(shape, bin_of_depth), config.depth_bins).movedim(-1, 1).float()
    classes = functional.one_hot(torch.full(shape, label), config.num_classes).movedim(-1, 1).float()
    return DetailMaps(torch.ones(1, config.upsample[-1].channels, 3, 5), depth, classes)


def hits_at(depths_m: list[float]) -> HitQueries:
    """A ray of points in the middle of the one camera."""
    index = torch.arange(len(depths_m))
    reference = torch.full((len(depths_m), 1, 2), 0.5)
    return HitQueries(index, index, reference, torch.tensor(depths_m)[:, None], [len(depths_m)])


def read_along_ray(label: int) -> Detail:
    """A voxel in front of a surface of one class, one on it, one behind it, and one that no camera sees."""
    config = detailed()
    detail = VoxelDetail(config)
    edges = [math.exp(i * math.log(72.0) / config.depth_bins) for i in (20, 21)]
    middle = sum(edges) / 2
    read: Detail = detail(painted_maps(config, 20, label), hits_at([middle - 9.0, middle, middle + 9.0]), 4)
    return read


def test_centres_are_those_of_the_grid() -> None:
    wanted = torch.from_numpy(OCC3D_GRID.centers()).flatten(0, 2).float()
    places = torch.tensor([0, 1, 17, 3_333, 639_999])
    torch.testing.assert_close(voxel_centers(OCC3D_GRID, places), wanted[places])


def test_a_voxel_on_the_surface_has_the_class_of_its_pixel() -> None:
    """In front of the surface space is free; behind it too, as far as the pixels tell; unseen voxels have no say."""
    evidence = read_along_ray(CAR).evidence
    assert evidence[:3].argmax(-1).tolist() == [OCC3D.free, CAR, OCC3D.free]
    assert evidence[1].exp()[CAR] > 0.99
    assert evidence[1].exp()[OCC3D.free] < 0.01
    assert not evidence[3].any()


def test_sky_is_free_at_every_depth() -> None:
    assert read_along_ray(OCC3D.free).evidence[:3].argmax(-1).tolist() == [OCC3D.free] * 3


def test_shares_of_the_surface_are_features() -> None:
    """Before, in and behind the voxel for each reach: the last features; an unseen voxel reads zeros."""
    features = read_along_ray(CAR).features
    for reach in features[:3, -SHARES:].split(3, dim=-1):
        torch.testing.assert_close(reach, torch.eye(3)[[2, 1, 0]], atol=1e-5, rtol=0)
    assert not features[3].any()


def outputs(network: ProtoOcc, samples: int, voxels: torch.Tensor | None) -> NetworkOutput:
    """Of different samples, without randomness."""
    output: NetworkOutput = network.eval()(stack_batches([make_batch(seed) for seed in range(samples)]), voxels)
    return output


@torch.no_grad()
def test_chosen_voxels_have_the_logits_of_all() -> None:
    """Of two samples, in any order, also several times; as of each sample alone."""
    torch.manual_seed(0)
    network = ProtoOcc(detailed())
    total = math.prod(network.config.grid.shape)
    chosen = torch.randint(2 * total, (300,), generator=torch.Generator().manual_seed(1))
    everything = outputs(network, 2, None).logits
    torch.testing.assert_close(outputs(network, 2, chosen).logits, everything[:, chosen])
    torch.testing.assert_close(outputs(network, 1, None).logits, everything[:, :total], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_prediction_is_the_most_probable_class() -> None:
    """Also where voxels read the images in several parts."""
    torch.manual_seed(0)
    network = ProtoOcc(detailed()).eval()
    batch = stack_batches([make_batch(0), make_batch(1)])
    wanted = network(batch).logits[0].argmax(-1)
    network.voxels_at_once = 100
    assert torch.equal(network.predict(batch).flatten().long(), wanted)


def test_all_of_it_learns() -> None:
    """The heads too, unless they are frozen."""
    torch.manual_seed(0)
    for is_frozen in (False, True):
        network = ProtoOcc(detailed(frozen_features=is_frozen)).train()
        network(make_batch()).logits.square().mean().backward()
        parts = {name: p.grad for name, p in network.named_parameters() if name.startswith(("detail.", "pixel_heads."))}
        moved = {name.partition(".")[0] for name, grad in parts.items() if grad is not None and grad.any()}
        assert moved == ({"detail"} if is_frozen else {"detail", "pixel_heads"})
        assert network.decoder.trust.grad is not None


@pytest.mark.parametrize("missing", ["pixel_classes", "pixel_depth"])
def test_both_heads_are_needed(missing: str) -> None:
    with pytest.raises(ValidationError, match="set pixel_depth and pixel_classes to true"):
        ProtoOccConfig.model_validate({**detailed().model_dump(), missing: False})
