"""The inputs of the attention bench, the peers' way that it compares with, and its table."""

from __future__ import annotations

import pytest
import torch

from protoocc.bench import attention
from protoocc.bench.attention import measure_attention
from protoocc.bench.sampling import Inputs, padded, padded_attention, padded_bytes, two_queues
from protoocc.bench.table3 import Rig
from protoocc.model.deformable import deformable_attention


def small_inputs(counts: list[int], sizes: list[tuple[int, int]], points: int) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    rows, cells = sum(counts), sum(height * width for height, width in sizes)
    return Inputs(
        value=torch.randn(len(counts), cells, 2, 3, generator=generator),
        sizes=sizes,
        locations=torch.rand(rows, 2, len(sizes), points, 2, generator=generator) * 1.2 - 0.1,
        weights=torch.rand(rows, 2, len(sizes), points, generator=generator),
        counts=counts,
        grad_out=torch.randn(rows, 2, 3, generator=generator),
    )


def plain(inputs: Inputs) -> torch.Tensor:
    return deformable_attention(inputs.value, inputs.sizes, inputs.locations, inputs.weights, inputs.counts)


def test_padded_way_computes_the_same() -> None:
    """Three cameras with 5, 0 and 2 rows, padded to 5."""
    inputs = small_inputs([5, 0, 2], [(4, 6), (2, 3)], points=3)
    more, restore = padded(inputs)
    assert more.counts == [5, 5, 5]
    assert len(more.weights) == 15
    torch.testing.assert_close(restore(padded_attention(more)), plain(inputs))
    # 3 cameras x 5 rows x 2 heads x 2 levels x 3 points x 3 channels x 4 bytes, four times
    assert padded_bytes(more) == 4 * 3 * 5 * 2 * 2 * 3 * 3 * 4


def test_two_queues_compute_the_same() -> None:
    """One queue of four points is the sum of two queues of two."""
    inputs = small_inputs([6, 6], [(2, 3)], points=4)
    twice, restore = two_queues(inputs)
    assert twice.counts == [6, 6, 6, 6]
    torch.testing.assert_close(restore(padded_attention(twice)), plain(inputs))


def test_part_has_every_third_row_of_the_first_maps() -> None:
    inputs = small_inputs([5, 0, 4], [(2, 3)], points=1)
    few = inputs.part(3, 3)
    assert few.counts == [2, 0, 2]
    assert torch.equal(few.weights, inputs.weights[[0, 3, 5, 8]])
    assert inputs.part(2, 1).counts == [5, 0]
    assert len(inputs.part(2, 1).value) == 2


@pytest.mark.slow
def test_table_has_every_implementation_and_small_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smallest preset, one round; without memory the peers' way is left out and says so."""
    forward = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # looks along x
    camera = torch.tensor([[[633.0, 0, 400], [0, 633, 207], [0, 0, 1]]])
    rig = Rig("one camera", (432, 800), camera, forward[None])
    result = measure_attention(rig, torch.device("cpu"), size="tiny", rounds=1)
    names = [(row.attention, row.implementation) for row in result.rows]
    ways = [attention.PEERS, "torch", "numba"]
    assert names == [("image", way) for way in ways] + [("voxel", way) for way in ways]
    assert max(row.difference for row in result.rows) < 1e-4
    assert max(row.gradient_difference for row in result.rows) < 1e-4
    assert all(row.forward_speedup == 1 for row in result.rows if row.implementation == attention.PEERS)
    monkeypatch.setattr(attention, "_free_bytes", lambda device: 0)
    result = measure_attention(rig, torch.device("cpu"), size="tiny", rounds=1)
    assert len(result.rows) == 4
    assert len(result.left_out) == 2
    assert result.rows[0].forward_speedup is None
