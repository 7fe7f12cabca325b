"""What compilers make of deformable attention: torch.compile, and Triton in its interpreter, for a GPU and on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from protoocc.model.deformable import deformable_attention, fastest, has_triton

needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")

TRACED = """
import torch
from protoocc.model.deformable import deformable_attention
from protoocc.model.deformable.spread import spread

torch.manual_seed(0)
value, locations = torch.randn(2, 19, 2, 3), torch.rand(7, 2, 2, 3, 2)
case = value.requires_grad_(), locations.requires_grad_(), torch.rand(7, 2, 2, 3)

def attend(value, locations, weights):
    read = deformable_attention(value, [(3, 5), (2, 2)], locations, weights, [4, 3]).sin()
    return spread(read.flatten(1), (3, 5), locations[:, 0, 0], weights[:, 0, 0], [4, 3]).sin()

compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
for function in (attend, compiled):
    result = function(*case)
    print(result.sum().item(), *(gradient.sum().item() for gradient in torch.autograd.grad(result.sum(), case[:2])))
"""

INTERPRETED = """
import torch
from protoocc.model.deformable import deformable_attention, gpu
from protoocc.model.deformable.layout import Layout

generator = torch.Generator().manual_seed(0)
layout = Layout(((3, 5), (2, 2)), (4, 0, 13))
for dtype, tolerance, channels in ((torch.float32, 1e-5, 3), (torch.bfloat16, 2e-2, 3), (torch.float32, 1e-5, 1)):
    value = torch.randn(3, 19, 2, channels, generator=generator).to(dtype)
    locations = torch.rand(17, 2, 2, 3, 2, generator=generator) * 1.4 - 0.2
    locations[0, 0, 0, 0], locations[1, 0, 0, 0] = torch.nan, 1e30
    weights = torch.rand(17, 2, 2, 3, generator=generator)
    up = torch.randn(17, 2, channels, generator=generator).to(dtype)
    exact = [tensor.double().requires_grad_() for tensor in (value, locations.nan_to_num(-9.0), weights)]
    wanted = deformable_attention(exact[0], layout.sizes, *exact[1:], layout.counts, implementation="reference")
    gradients = torch.autograd.grad(wanted, exact, up.double())
    found = gpu.forward(value, locations, weights, layout), *gpu.backward(up, value, locations, weights, layout)
    for one, other in zip(found, (wanted, *gradients)):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)
print("agreed")
"""

COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from protoocc.model.deformable import gpu

for kernel, pointers, channels in ((gpu._forward, 4, 32), (gpu._backward, 7, 32), (gpu._backward, 7, 1)):
    names = kernel.arg_names
    signature = dict.fromkeys(names[:pointers], "*fp32") | dict.fromkeys(names[pointers : pointers + 2], "*i32")
    signature |= dict.fromkeys(names[pointers + 2 : -3], "i32") | dict.fromkeys(names[-3:], "constexpr")
    last = len(names) - 1
    constants = {(last - 2,): channels, (last - 1,): channels, (last,): gpu.ROWS_AT_ONCE}
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    assert "ld.global" in triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]
print("compiled")
"""


def run_python(program: str, **environment: str) -> str:
    """What a fresh interpreter prints; Triton reads its settings when it is imported."""
    root = Path(__file__).parents[2]
    environ = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment}
    result = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.slow
def test_traces_as_one_operator() -> None:
    """In a fresh interpreter, because the checks of shapes in tests cannot be traced."""
    plain, compiled = run_python(TRACED).splitlines()
    assert plain == compiled


@needs_triton
@pytest.mark.slow
def test_kernels_agree_with_the_reference_in_the_interpreter() -> None:
    """Values outside, not a number and far away; float32 and bfloat16."""
    assert run_python(INTERPRETED, TRITON_INTERPRET="1") == "agreed"


@pytest.mark.slow
@needs_triton
def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """What the interpreter lets pass may still be refused by the compiler; no GPU is needed for that."""
    assert run_python(COMPILED, TRITON_CACHE_DIR=str(tmp_path)) == "compiled"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_agree_with_the_reference_on_a_gpu(dtype: torch.dtype) -> None:
    """Sizes of the demo preset, every gradient; bfloat16 is rounded once, to 8 bits."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    generator = torch.Generator().manual_seed(0)
    sizes, counts = [(28, 50), (14, 25)], [900, 0, 1100]
    value = torch.randn(3, 1750, 4, 16, generator=generator).to(dtype).cuda().requires_grad_()
    locations = (torch.rand(2000, 4, 2, 4, 2, generator=generator) * 1.2 - 0.1).cuda().requires_grad_()
    weights = torch.rand(2000, 4, 2, 4, generator=generator).cuda().requires_grad_()
    inputs, up = (value, locations, weights), torch.randn(2000, 4, 16, generator=generator).to(dtype).cuda()
    assert fastest(value) == "triton"
    assert fastest(value.double()) == "torch"
    found = deformable_attention(value, sizes, locations, weights, counts)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    wanted = deformable_attention(exact[0], sizes, exact[1], exact[2], counts, implementation="reference")
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
    gradients = zip(
        torch.autograd.grad(found, inputs, up), torch.autograd.grad(wanted, exact, up.double()), strict=True
    )
    for one, other in gradients:
        scale = other.abs().max().item()
        torch.testing.assert_close(one.double() / scale, other / scale, rtol=tolerance, atol=tolerance)
