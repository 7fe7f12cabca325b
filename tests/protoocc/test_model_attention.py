"""The two attentions of an encoder layer: what they read before and after training."""

from __future__ import annotations

import torch

from protoocc.model.attention import ImageCrossAttention, VoxelSelfAttention, start_offsets
from protoocc.model.projection import HitQueries


def test_start_offsets_point_in_four_directions() -> None:
    """Four heads look right, down, left and up; the first point is the reference."""
    offsets = start_offsets(4, 3)
    assert offsets[:, 0].abs().max() == 0
    expected = torch.tensor([[2.0, 0], [0, 2], [-2, 0], [0, -2]])
    torch.testing.assert_close(offsets[:, 2], expected, atol=1e-6, rtol=0)


def test_untrained_cross_attention_reads_the_reference() -> None:
    """One point per head at the reference: the centre of cell (1, 2) of a 2 x 4 map, by hand."""
    attention = ImageCrossAttention(4, heads=2, levels=1, points=1)
    torch.nn.init.eye_(attention.value.weight)
    feature = torch.randn(1, 4, 2, 4)
    zero = torch.zeros(1, dtype=torch.int64)
    hits = HitQueries(zero, zero, torch.tensor([[[2.5 / 4, 1.5 / 2]]]), torch.ones(1, 1), [1])
    sampled, sampling = attention(torch.randn(1, 4), [feature], hits)
    torch.testing.assert_close(sampled[0], feature[0, :, 1, 2])
    assert sampling.weights.sum() == 2  # one per head


def test_self_attention_stays_within_its_slice() -> None:
    """A change in slice z = 1 leaves slice z = 0 as it was."""
    attention = VoxelSelfAttention(8, heads=2, points=2)
    queries, positions = torch.randn(1, 4, 3, 2, 8), torch.randn(4, 3, 2, 8)
    changed = queries.clone()
    changed[:, :, :, 1] += 1.0
    difference = (attention(changed, positions) - attention(queries, positions)).abs().amax((0, 1, 2, 4))
    assert difference[0] == 0
    assert difference[1] > 0


def test_untrained_attention_prefers_the_reference() -> None:
    """The point on the reference has logit 2.5, the other 0: shares 0.924 (e^2.5 / (e^2.5 + 1)) and 0.076."""
    attention = VoxelSelfAttention(1, heads=1, points=2)
    for layer in (attention.value, attention.combine):
        torch.nn.init.ones_(layer.weight)
    gathered = attention(torch.tensor([0.0, 1.0]).view(1, 1, 2, 1, 1), torch.zeros(1, 2, 1, 1)).flatten()
    # place 0 reads 0 itself and 1 beside it; place 1 reads itself and nothing beside it
    torch.testing.assert_close(gathered, torch.tensor([0.0759, 0.9241]), atol=1e-4, rtol=0)


def test_self_attention_follows_the_axes() -> None:
    """Head 0 looks along w only: with one head and two points, (h, w) reads (h, w) and (h, w + 1), half each."""
    attention = VoxelSelfAttention(1, heads=1, points=2)
    for layer in (attention.value, attention.combine):
        torch.nn.init.ones_(layer.weight)
    torch.nn.init.zeros_(attention.weights.bias)
    queries = torch.arange(6.0).view(1, 2, 3, 1, 1)
    gathered = attention(queries, torch.zeros(2, 3, 1, 1))[0, :, :, 0, 0]
    # Row 0 holds 0 1 2: (0+1)/2, (1+2)/2, (2+nothing)/2; row 1 holds 3 4 5.
    torch.testing.assert_close(gathered, torch.tensor([[0.5, 1.5, 1.0], [3.5, 4.5, 2.5]]))


def test_points_take_turns_at_the_anchors() -> None:
    """Two anchors, three points of one head that looks right by 0, 1 and 2 cells of a map 4 wide: anchors 0, 1, 0."""
    attention = ImageCrossAttention(4, heads=1, levels=1, points=3)
    zero = torch.zeros(1, dtype=torch.int64)
    anchors = torch.tensor([[[0.1, 0.2], [0.5, 0.6]]])
    hits = HitQueries(zero, zero, anchors, torch.ones(1, 2), [1])
    _, sampling = attention(torch.randn(1, 4), [torch.randn(1, 4, 2, 4)], hits)
    expected = torch.tensor([[0.1, 0.2], [0.5 + 1 / 4, 0.6], [0.1 + 2 / 4, 0.2]])
    torch.testing.assert_close(sampling.locations[0, 0, 0], expected)


def test_earlier_state_is_the_other_half() -> None:
    """One point per queue, at the voxel itself: the mean of both states. An equal earlier state changes nothing."""
    attention = VoxelSelfAttention(4, heads=2, points=1)
    for layer in (attention.value, attention.combine):
        torch.nn.init.eye_(layer.weight)
    queries, earlier, positions = torch.randn(2, 3, 2, 2, 4), torch.randn(2, 3, 2, 2, 4), torch.randn(3, 2, 2, 4)
    torch.testing.assert_close(attention(queries, positions, earlier), (queries + earlier) / 2)
    torch.testing.assert_close(attention(queries, positions, queries), attention(queries, positions))


def test_each_camera_reads_its_own_scales() -> None:
    """Two cameras of two scales filled with 1, 2 and 3, 4; one point per scale in the middle, half the weight each."""
    attention = ImageCrossAttention(4, heads=2, levels=2, points=1)
    torch.nn.init.eye_(attention.value.weight)
    scales = [torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0])]
    features = [
        scale.view(2, 1, 1, 1).expand(2, 4, *size) for scale, size in zip(scales, [(4, 6), (2, 3)], strict=True)
    ]
    zero = torch.zeros(3, dtype=torch.int64)
    hits = HitQueries(zero, zero, torch.full((3, 1, 2), 0.5), torch.ones(3, 1), [2, 1])
    sampled, _ = attention(torch.randn(3, 4), features, hits)
    torch.testing.assert_close(sampled, torch.tensor([[1.5], [1.5], [3.5]]).expand(3, 4))
