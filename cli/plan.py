"""What `protoocc train --plan` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.say import answers, say, shown

if TYPE_CHECKING:
    from protoocc.plan import Cost, Plan

NOT_MEASURED = "not measured"


def print_plan(plan: Plan, preset: str) -> None:
    """Steps and disk, then a row per hardware; every time says what it was calculated from."""
    from rich.table import Table

    out = answers()
    epochs = plan.steps * plan.batch_size / plan.samples
    say(
        f"{preset}: {plan.steps:,} steps of {plan.batch_size} samples, {epochs:.1f} epochs of {plan.samples:,} "
        f"samples; {plan.parameters / 1e6:.2f} M parameters; {plan.disk_gb:.2f} GB of disk "
        "for checkpoints and logs",
        to=out,
    )
    for precision in plan.other_precisions:
        say(f"Measured in {precision}: plan with --set precision={precision} to see it.", to=out)
    if not plan.costs:
        say(
            f"Nothing was measured for {preset} with these settings of the network and this precision yet. Start the "
            "training, let it do 40 steps, and plan again with --like RUN.",
            to=out,
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("hardware", "samples each", "hours", "memory each", "measured at", "how"):
        table.add_column(header, overflow="fold")
    for cost in plan.costs:
        table.add_row(*(shown(cell) for cell in _cells(cost)))
    out.print(table)


def _cells(cost: Cost) -> tuple[str, ...]:
    hours = NOT_MEASURED if cost.hours is None else f"{cost.hours:.2f}"
    memory = NOT_MEASURED
    if cost.memory_gb is not None:
        memory = f"{cost.memory_gb:.1f} GB with {cost.memory_samples} a step"
    how = "steps times the measured step" if cost.hours is not None else ""
    if cost.hours is not None and not cost.is_measured:
        how = f"calculated from a step of {cost.memory_samples} on one device, nothing lost by sharing"
    return f"{cost.devices} x {cost.device}", str(cost.samples), hours, memory, cost.commit, how
