"""What to do where `--set compile=true` cannot compile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import SetupError


@contextmanager
def explain_compile_errors(device: str) -> Iterator[None]:
    """Networks compile when they are first called, in this context.

    Raises:
        SetupError: they do not, for example without a compiler.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().partition("\n")[0]
        needs = "Triton and gcc" if device.startswith("cuda") else "a C++ compiler, such as g++"
        raise SetupError(
            f"--set compile=true: torch.compile failed on --device {device}, where it needs {needs}: {reason}. "
            "Install it, or leave compile out."
        ) from error
