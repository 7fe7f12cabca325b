"""`protoocc bench inference`: time and memory of one prediction by part of the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.bench_table3 import generated_rig
from cli.options import Json, expected
from cli.progress import progress_bar
from cli.say import answers, say

if TYPE_CHECKING:
    from protoocc.bench.inference import InferenceBench, InferenceRow


def inference(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Preset; may be repeated. By default panoocc-base, panoocc-small and protoocc-small.",
            show_default=False,
        ),
    ] = None,
    ways: Annotated[
        list[str] | None,
        typer.Option(
            "--way", help="eager, compiled or onnxruntime; may be repeated. All by default.", show_default=False
        ),
    ] = None,
    dtypes: Annotated[
        list[str] | None,
        typer.Option("--dtype", help="float32 or bfloat16; may be repeated. Both by default.", show_default=False),
    ] = None,
    width: Annotated[int, typer.Option("--width", min=50, help="Width of the images, pixels; a multiple of 50.")] = 800,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds after one that warms up.")] = 3,
    as_json: Json = False,
) -> None:
    """Milliseconds and memory of one prediction: images, view transformation and decoding, one frame.

    Runs on a GPU if there is one; onnxruntime computes on the CPU. What cannot run here is left out with the reason.
    Compiling takes minutes per network before the first round.

    Examples:

        protoocc bench inference

        protoocc bench inference --model panoocc-small --model protoocc-small --way eager --rounds 5 --json

        protoocc bench inference --model demo --width 400 --way eager --way onnxruntime
    """
    from protoocc.bench.inference import DTYPES, MODELS, WAYS, InferenceChoice, measure_inference
    from protoocc.inference import default_device

    for option, words, known in (("--way", ways, WAYS), ("--dtype", dtypes, DTYPES)):
        for word in words or ():
            if word not in known:
                raise expected(option, word, known)
    with progress_bar("inference", "runs") as update:
        result = measure_inference(
            generated_rig(),
            default_device(),
            InferenceChoice(
                models=tuple(models or MODELS),
                ways=tuple(way for way in WAYS if way in (ways or WAYS)),
                dtypes=tuple(dtype for dtype in DTYPES if dtype in (dtypes or DTYPES)),
                width=width,
                rounds=rounds,
            ),
            update,
        )
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
    else:
        _print(result)


def _print(result: InferenceBench) -> None:
    from rich.table import Table

    height, width = result.image_size
    shown = Table(
        title="One prediction, milliseconds (in brackets: MB beyond what was there before)",
        caption=f"{result.device}; cameras of {result.calibration}, {height} x {width}; best of "
        f"{result.rounds} rounds.",
    )
    shown.add_column("network, way")
    for title in ("images", "view", "decoding", "whole", "ratio", "weights MB"):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in result.rows:
        parts = [_cell(row, name) for name in ("images", "view", "decoding")]
        whole = _cell(row, "whole") if "whole" in row.part_ms else f"{row.total_ms:.1f}"
        name = f"{row.model}, {row.way}, {row.dtype}"
        shown.add_row(name, *parts, whole, f"{row.ratio:.2f}", f"{row.weights_mb:.0f}")
    console = answers()
    console.width = max(console.width, 120)
    console.print(shown)
    for reason in result.left_out:
        say(f"left out: {reason}", "dim")


def _cell(row: InferenceRow, part: str) -> str:
    if part not in row.part_ms:
        return "-"
    memory = row.part_mb[part]
    return f"{row.part_ms[part]:.1f}" + ("" if memory is None else f" ({memory:.0f})")
