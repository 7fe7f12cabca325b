from __future__ import annotations

import pytest
import torch
from torch import nn

from protoocc.averaging import WeightAverage
from protoocc.draws import draw_generator, draw_seed


def one_weight() -> nn.Module:
    model = nn.BatchNorm1d(1)
    with torch.no_grad():
        model.weight.fill_(0.0)
    return model


def test_average_by_hand() -> None:
    """Start 0, then weights of 11 and 4: the first step keeps 2 / 11, the second the smaller of 0.2 and 3 / 12."""
    model = one_weight()
    average = WeightAverage(model, 0.2)
    for step, value in ((1, 11.0), (2, 4.0)):
        with torch.no_grad():
            model.weight.fill_(value)
        model.num_batches_tracked.fill_(step)
        average.update(model, step)
        if step == 1:
            assert average.values["weight"].item() == pytest.approx(9.0)  # 0 * 2 / 11 + 11 * 9 / 11
    assert average.values["weight"].item() == pytest.approx(0.2 * 9 + 0.8 * 4)
    assert average.values["num_batches_tracked"].item() == 2


def test_network_has_its_own_weights_after_the_block() -> None:
    model = one_weight()
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
    with pytest.raises(KeyError), average.inside(model):
        assert model.weight.item() == 0.0
        raise KeyError
    assert model.weight.item() == 3.0
    assert average.values["weight"].item() == 0.0


def test_draws_depend_on_run_sample_and_purpose() -> None:
    """Equal for equal words; otherwise different from each other, also where the digits are the same."""
    seeds = {draw_seed(run, number) for run, number in ((0, 0), (0, 1), (1, 0), (1, 11), (11, 1))}
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    first, again, other = (torch.rand(3, generator=draw_generator(5, word)) for word in ("views", "views", "voxels"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
