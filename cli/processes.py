"""Several processes for one training: started by `train --nproc`, or by torchrun, which starts this program often."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cli.given import refuse
from cli.say import console

if TYPE_CHECKING:
    from torch import device

Processes = Annotated[
    int | None,
    typer.Option(
        "--nproc",
        min=1,
        help="Processes of this machine that share every batch of data.batch_size samples: one for each GPU, or so "
        "many for the cores where there is none.",
        show_default=False,
    ),
]


def is_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Whether this process talks to the user: alone, or number 0 of those that torchrun has started."""
    return not is_torchrun() or os.environ["RANK"] == "0"


@contextmanager
def shared_process() -> Iterator[device | None]:
    """While the block trains: this process alone, or one of those of torchrun, of which only the first one talks.

    Yields:
        What this process computes on; None for the trainer's choice.

    Raises:
        ConfigError: ``--nproc`` under torchrun, or more processes than GPUs.
    """
    if not is_torchrun():
        yield None
        return
    refuse(("nproc",), True, "torchrun has started the processes already")
    from protoocc.launch import joined
    from protoocc.ranks import LostRankError

    console.quiet = not is_first()
    try:
        with joined(int(os.environ["LOCAL_RANK"])) as place:
            yield place
    except LostRankError:  # whoever caused it says why
        if is_first():
            raise
        raise SystemExit(2) from None
    finally:
        console.quiet = False
