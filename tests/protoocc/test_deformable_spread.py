"""The transpose of deformable attention: against attention itself, its gradient, and its promises to torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from protoocc.model.deformable import deformable_attention
from protoocc.model.deformable.spread import spread, spread_op
from schemas.errors import ConfigError

SIZE, COUNTS = (3, 5), [4, 0, 3]
Case = tuple[Tensor, Tensor, Tensor]


def random_case(dtype: torch.dtype = torch.float64) -> Case:
    """Rows of three maps, the second of which has none, with four points each; a third of them lies outside."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 2, generator=generator, dtype=dtype)
    locations = torch.rand(7, 4, 2, generator=generator, dtype=dtype) * 1.4 - 0.2
    return rows, locations, torch.rand(7, 4, generator=generator, dtype=dtype)


@pytest.fixture(params=["numba", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels, and torch's own operators for what these cannot take."""
    monkeypatch.setattr("protoocc.model.deformable.spread.fastest", lambda rows: request.param)


@pytest.mark.usefixtures("way")
def test_it_is_the_transpose_of_attention() -> None:
    """<value, spread(rows)> = <attention(value), rows> for any value, with points outside and a map without rows."""
    rows, locations, weights = random_case()
    given = spread(rows, SIZE, locations, weights, COUNTS)
    assert given.shape == (3, 15, 2)
    assert given[1].eq(0).all()
    for channel in range(2):
        for cell in range(15):
            value = torch.zeros(3, 15, 1, 1, dtype=torch.float64)
            value[:, cell] = 1.0
            read = deformable_attention(value, [SIZE], locations[:, None, None], weights[:, None, None], COUNTS)
            pairs = zip((read[:, 0, 0] * rows[:, channel]).split(COUNTS), given, strict=True)
            for own, cells in pairs:
                torch.testing.assert_close(cells[cell, channel], own.sum())


@pytest.mark.usefixtures("way")
def test_gradient_of_rows_alone() -> None:
    rows, locations, weights = (tensor.requires_grad_() for tensor in random_case())
    assert gradcheck(lambda held: spread(held, SIZE, locations, weights, COUNTS), (rows,))
    spread(rows, SIZE, locations, weights, COUNTS).sum().backward()
    assert (locations.grad, weights.grad) == (None, None)


@pytest.mark.usefixtures("way")
def test_half_precision_is_only_for_storing() -> None:
    """Sums are made in float32: many small gifts to one cell are not lost beside a large one."""
    rows = torch.cat([torch.full((1, 1), 64.0), torch.full((512, 1), 2.0**-3)]).bfloat16()
    middle = torch.full((513, 1, 2), 0.5)
    assert spread(rows, (1, 1), middle, torch.ones(513, 1), [513]).item() == 128.0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own check reads it
def test_promises_to_torch() -> None:
    """Shapes without data, gradients and no hidden writes, so that the operator can be compiled."""
    rows, locations, weights = random_case(torch.float32)
    arguments = (rows.requires_grad_(), locations[:, None, None], weights[:, None, None], list(SIZE), COUNTS)
    torch.library.opcheck(spread_op, arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [1, 64])
def test_a_gpu_gives_the_same(channels: int) -> None:
    """Values and gradients at the size of the demo; one channel is what counts how often cells were looked at."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    generator = torch.Generator().manual_seed(0)
    rows, up = torch.randn(900, channels, generator=generator), torch.randn(2, 720, channels, generator=generator)
    locations, weights = torch.rand(900, 48, 2, generator=generator), torch.rand(900, 48, generator=generator)
    results = []
    for device in ("cpu", "cuda"):
        held = rows.to(device).requires_grad_()
        given = spread(held, (20, 36), locations.to(device), weights.to(device), [500, 400])
        given.backward(up.to(device))
        assert held.grad is not None
        results.append((given.detach().cpu(), held.grad.cpu()))
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)


def test_other_numbers_of_rows_are_refused() -> None:
    rows, locations, weights = random_case()
    with pytest.raises(ConfigError, match="rows, heads and levels of weights"):
        spread(rows, SIZE, locations, weights, [4, 0, 4])
