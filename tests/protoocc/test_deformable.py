"""Deformable attention: every implementation against loops over cells, its borders, gradients and promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from protoocc.model.deformable import Implementation, cpu, deformable_attention, kernels
from schemas.errors import ConfigError

SIZES = [(3, 5), (2, 2)]
COUNTS = [4, 0, 3]
ON_CPU: list[Implementation] = ["reference", "torch", "numba"]
Case = tuple[Tensor, Tensor, Tensor]


def random_case(dtype: torch.dtype = torch.float64) -> Case:
    """Three maps, the second without rows; a third of the points lies outside."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(3, 19, 2, 3, generator=generator, dtype=dtype)
    locations = torch.rand(7, 2, 2, 3, 2, generator=generator, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(7, 2, 2, 3, generator=generator, dtype=dtype)
    return value.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()


def read_one(locations: list[list[float]], implementation: Implementation) -> list[float]:
    """What single points read in the map [[1, 2, 4], [8, 16, 32]]."""
    value = torch.tensor([1.0, 2, 4, 8, 16, 32]).view(1, 6, 1, 1)
    points = torch.tensor(locations).view(-1, 1, 1, 1, 2)
    ones = torch.ones(len(locations), 1, 1, 1)
    return (
        deformable_attention(value, [(2, 3)], points, ones, [len(locations)], implementation=implementation)
        .flatten()
        .tolist()
    )


def nearness(a: float, b: int) -> float:
    """Share of cell b at place a on one axis, cells."""
    return max(0.0, 1.0 - abs(a - b))


@pytest.mark.parametrize("implementation", ON_CPU)
def test_against_loops_over_all_cells(implementation: Implementation) -> None:
    value, locations, weights = random_case()
    result = deformable_attention(value, SIZES, locations, weights, COUNTS, implementation=implementation)
    for row, image in enumerate([0, 0, 0, 0, 2, 2, 2]):
        for head in range(2):
            expected, cell = torch.zeros(3, dtype=torch.float64), 0
            for level, (height, width) in enumerate(SIZES):
                for j in range(height):
                    for i in range(width):
                        for point in range(3):
                            u, v = locations[row, head, level, point].tolist()
                            near = nearness(u * width - 0.5, i) * nearness(v * height - 0.5, j)
                            expected += (
                                weights[row, head, level, point].detach() * near * value[image, cell, head].detach()
                            )
                        cell += 1
            torch.testing.assert_close(result[row, head].detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("implementation", ["torch", "numba"])
def test_gradients_equal_those_of_the_reference(implementation: Implementation) -> None:
    case = random_case()
    up = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = torch.autograd.grad(
        deformable_attention(case[0], SIZES, *case[1:], COUNTS, implementation="reference"), case, up
    )
    found = torch.autograd.grad(
        deformable_attention(case[0], SIZES, *case[1:], COUNTS, implementation=implementation), case, up
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert found[0][1].abs().max() == 0  # nobody looked at the second map


@pytest.mark.parametrize("implementation", ["reference", "numba"])
def test_gradients_are_numeric_derivatives(implementation: Implementation) -> None:
    def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return deformable_attention(value, SIZES, locations, weights, COUNTS, implementation=implementation)

    assert torch.autograd.gradcheck(attend, random_case(), fast_mode=implementation == "reference")


@pytest.mark.parametrize("implementation", ON_CPU)
def test_points_on_centres_edges_and_borders(implementation: Implementation) -> None:
    """By hand; rows are 1 2 4 and 8 16 32."""
    centre = [[1 / 6, 1 / 4], [5 / 6, 3 / 4]]  # 1 and 32
    edges = [[1 / 3, 1 / 4], [1 / 2, 1 / 2]]  # (1 + 2) / 2 and (2 + 16) / 2
    borders = [[0.0, 0.0], [1.0, 1.0], [1.0, 1 / 4]]  # a quarter of 1, a quarter of 32, half of 4
    outside = [[-1 / 6, 1 / 4], [0.5, 1.25], [7.0, -3.0], [1e30, 0.5]]  # half a cell away there is nothing left
    found = read_one(centre + edges + borders + outside, implementation)
    assert found == pytest.approx([1, 32, 1.5, 9, 0.25, 8, 2, 0, 0, 0, 0], abs=1e-5)


@pytest.mark.parametrize("implementation", ["reference", "numba"])
def test_a_location_that_is_no_number_reads_nothing(implementation: Implementation) -> None:
    assert read_one([[float("nan"), 0.5], [0.5, float("inf")], [1 / 6, 1 / 4]], implementation) == pytest.approx(
        [0, 0, 1]
    )


@pytest.mark.parametrize("implementation", ON_CPU)
def test_no_rows_at_all(implementation: Implementation) -> None:
    value = torch.randn(2, 6, 1, 4)
    empty = torch.zeros(0, 1, 1, 2, 2)
    result = deformable_attention(value, [(2, 3)], empty, empty[..., 0], [0, 0], implementation=implementation)
    assert result.shape == (0, 1, 4)


def test_strides_do_not_matter() -> None:
    """Permuted tensors of the same content give the same numbers."""
    value, locations, weights = (tensor.detach() for tensor in random_case())
    expected = deformable_attention(value, SIZES, locations, weights, COUNTS)
    twisted = [tensor.movedim(0, -1).contiguous().movedim(-1, 0) for tensor in (value, locations, weights)]
    assert not any(tensor.is_contiguous() for tensor in twisted)
    result = deformable_attention(twisted[0], SIZES, twisted[1], twisted[2], COUNTS)
    assert torch.equal(result, expected)


def test_threads_do_not_change_a_byte() -> None:
    """Large enough to be split; many rows add to the same cells."""
    generator = torch.Generator().manual_seed(2)
    sizes, rows = [(6, 8), (3, 4)], 500
    inputs = (
        torch.randn(2, 60, 4, 32, generator=generator),
        torch.rand(2 * rows, 4, 2, 8, 2, generator=generator),
        torch.rand(2 * rows, 4, 2, 8, generator=generator),
    )
    assert inputs[2].numel() * 32 > cpu.THREADS_PAY_FROM
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        case = [tensor.clone().requires_grad_() for tensor in inputs]
        out = deformable_attention(case[0], sizes, case[1], case[2], [rows, rows])
        results.append([out, *torch.autograd.grad(out.sin().sum(), case)])
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("implementation", ["torch", "numba"])
def test_half_precision_is_summed_in_single(implementation: Implementation) -> None:
    """The result is the exact one, rounded once to 8 bits: off by at most 2^-8 of it. Gradients keep their dtypes."""
    value, locations, weights = (tensor.detach().float() for tensor in random_case())
    half = value.bfloat16().requires_grad_()
    locations.requires_grad_()
    result = deformable_attention(half, SIZES, locations, weights, COUNTS, implementation=implementation)
    exact = deformable_attention(half.double(), SIZES, locations.double(), weights.double(), COUNTS)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), exact, rtol=2**-8, atol=1e-6)
    gradients = torch.autograd.grad(result.sum(), (half, locations))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own check reads it
def test_is_a_lawful_operator() -> None:
    """Schema, shapes and gradients are what torch.compile expects of them."""
    torch.library.opcheck(torch.ops.protoocc.deformable_attention, (*random_case(), [3, 5, 2, 2], COUNTS))


def test_work_is_counted_without_computing() -> None:
    """Four cells, three channels, a multiplication and an addition, for 7 x 2 x 2 x 3 points; backward twice that."""
    forward = 4 * 3 * 2 * 84
    case = [tensor.detach().to("meta").requires_grad_() for tensor in random_case()]
    with FlopCounterMode(display=False) as counter:
        out = deformable_attention(case[0], SIZES, case[1], case[2], COUNTS)
        assert counter.get_total_flops() == forward
        out.sum().backward()
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [(3, 5)]}, "cells of value"),
        ({"counts": [4, 3]}, "maps of value"),
        ({"counts": [4, 1, 3]}, "rows, heads and levels"),
        ({"counts": [8, -1, 0]}, "counts must be 0 or more"),
        ({"implementation": "triton"}, "runs on cuda"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, object], message: str) -> None:
    value, locations, weights = random_case()
    arguments = {"sizes": SIZES, "counts": COUNTS, **change}
    with pytest.raises(ConfigError, match=message):
        deformable_attention(value, locations=locations, weights=weights, **arguments)  # type: ignore[arg-type]


def test_works_where_compiled_code_cannot_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba refuses its cache when no folder can be written, and fails to write it when the disk is full."""
    real: Any = numba.njit

    def no_folder(cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", no_folder)
    assert kernels._compiled(lambda x: x + 1)(1) == 2
    calls: list[int] = []
    cpu._call(_fails_once(calls), 7)
    assert calls == [7]


def _fails_once(calls: list[int]) -> Callable[..., None]:
    failures = [OSError("no space left on device")]

    def kernel(number: int) -> None:
        if failures:
            raise failures.pop()
        calls.append(number)

    return kernel
