from __future__ import annotations

from itertools import islice

import pytest

from protoocc.data import EpochSampler
from schemas.errors import ConfigError


def stream(sampler: EpochSampler, batches: int) -> list[int]:
    return [index for batch in islice(sampler, batches) for index in batch]


def test_every_sample_once_per_epoch_in_changing_order() -> None:
    # 7 samples in batches of 3: 7 batches are 21 samples, exactly 3 epochs; batches straddle their borders.
    order = stream(EpochSampler(7, 3, seed=0), 7)
    epochs = [order[0:7], order[7:14], order[14:21]]
    assert sorted(order) == list(range(21)) and {number // 7 for number in epochs[1]} == {1}
    first, second, third = ([number % 7 for number in epoch] for epoch in epochs)
    assert first != second != third


def test_order_depends_on_seed_only() -> None:
    assert stream(EpochSampler(20, 4, seed=5), 10) == stream(EpochSampler(20, 4, seed=5), 10)
    assert stream(EpochSampler(20, 4, seed=5), 10) != stream(EpochSampler(20, 4, seed=6), 10)
    assert stream(EpochSampler(20, 1, seed=5), 40) == stream(EpochSampler(20, 4, seed=5), 10)


@pytest.mark.parametrize("used", [0, 1, 2, 3, 6, 7])
def test_resume_continues_the_stream(used: int) -> None:
    whole = stream(EpochSampler(7, 3, seed=2), 14)
    first = EpochSampler(7, 3, seed=2)
    for _ in range(used):
        first.advance()
    second = EpochSampler(7, 3, seed=2)
    second.load_state_dict(first.state_dict())
    assert stream(second, 14 - used) == whole[3 * used :]


def test_state_counts_global_samples() -> None:
    sampler = EpochSampler(7, 3, seed=0)
    for _ in range(5):
        sampler.advance()
    # 15 samples of 7: two epochs and one sample.
    assert sampler.state_dict() == {"epoch": 2, "position": 1}
    huge = EpochSampler(2, 5, seed=0)
    huge.advance()
    assert huge.state_dict() == {"epoch": 2, "position": 1}


def test_reading_ahead_does_not_move_the_state() -> None:
    sampler = EpochSampler(7, 3, seed=0)
    stream(sampler, 6)
    assert sampler.state_dict() == {"epoch": 0, "position": 0}


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_each_global_batch_equally(world_size: int) -> None:
    alone = list(islice(EpochSampler(7, 4, seed=3), 14))
    shares = [
        list(islice(EpochSampler(7, 4, seed=3, rank=rank, world_size=world_size), 14)) for rank in range(world_size)
    ]
    for number, batch in enumerate(alone):
        parts = [share[number] for share in shares]
        assert {len(part) for part in parts} == {4 // world_size}
        assert sorted(index for part in parts for index in part) == sorted(batch)


def test_parts_are_equal_shares_of_each_global_batch() -> None:
    """Two processes share each half of a batch of 8, which holds the samples that one process has in it."""
    alone = EpochSampler(11, 8, seed=3, parts=2)
    shares = [EpochSampler(11, 8, seed=3, rank=rank, world_size=2, parts=2) for rank in range(2)]
    halves = list(islice(alone, 6))
    assert [index for half in halves for index in half] == stream(EpochSampler(11, 8, seed=3), 3)
    for number, (half, first, second) in enumerate(zip(halves, *(islice(share, 6) for share in shares), strict=True)):
        assert [first[0], second[0], first[1], second[1]] == half, number
    # The numbers that decide random draws: the second batch is samples 8 .. 15 of the stream.
    for sampler in (alone, *shares):
        sampler.advance()
    assert alone.numbers() == [[8, 9, 10, 11], [12, 13, 14, 15]]
    assert [share.numbers() for share in shares] == [[[8, 10], [12, 14]], [[9, 11], [13, 15]]]


@pytest.mark.parametrize(("length", "batch", "rank", "world"), [(0, 1, 0, 1), (5, 0, 0, 1), (5, 3, 0, 2), (5, 2, 2, 2)])
def test_refuses_what_cannot_be_dealt(length: int, batch: int, rank: int, world: int) -> None:
    with pytest.raises(ConfigError, match="cannot deal"):
        EpochSampler(length, batch, seed=0, rank=rank, world_size=world)


def test_refuses_a_place_outside_the_epoch() -> None:
    with pytest.raises(ConfigError, match="does not fit 5 samples"):
        EpochSampler(5, 1, seed=0).load_state_dict({"epoch": 0, "position": 5})
