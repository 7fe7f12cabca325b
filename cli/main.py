"""The `protoocc` command: registers the commands and turns errors into one clear message and an exit code."""

from __future__ import annotations

from cli.signals import quiet_start, stop_on_signals

with quiet_start():
    import logging
    import sys
    from typing import Annotated

    import typer

    from cli import (
        bench,
        data,
        demo,
        evaluate,
        export,
        inspect,
        model,
        occupancy,
        predict,
        pretrain,
        reproduce,
        runs,
        share,
        synth,
    )
    from cli.caches import ready_caches
    from cli.failures import failure_of
    from cli.say import drop_unwritten, ready_streams
    from cli.threads import ready_threads

app = typer.Typer(
    name="protoocc",
    help="Camera-based 3D occupancy: raw nuScenes in; a trained, evaluated, inspectable occupancy network out.\n\n"
    "The way through: prepare -> occupancy + masks -> pack -> train -> eval / view. Start with `protoocc demo`.",
    epilog="Examples:  protoocc demo   |   protoocc prepare nuscenes-mini   |   protoocc train --preset demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(value: bool) -> None:
    if value:
        from protoocc import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show log lines and full tracebacks.")] = False,
) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(name)s: %(message)s")
    for noisy in ("numba", "PIL", "distributed", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where its cache is read-only, it helps itself


with quiet_start():
    for _group in (
        *(
            demo,
            synth,
            data,
            occupancy,
            pretrain,
            model,
            evaluate,
            reproduce,
            runs,
            predict,
            export,
            inspect,
            share,
            bench,
        ),
    ):
        _group.register(app)


def main() -> None:
    """Entry point: 0 done, 2 a problem that the user can solve (one message), 1 a bug, 130 Ctrl-C, 143 SIGTERM."""
    with stop_on_signals():
        run()


def run() -> None:
    """`main` without its hold on signals, for programs that have their own."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    ready_streams()
    ready_caches()
    ready_threads()
    try:
        app(["--debug", *arguments] if debug else arguments)
    except Exception as error:
        drop_unwritten()
        if debug:
            raise
        failure = failure_of(error)
        failure.print()
        raise SystemExit(failure.code) from None


if __name__ == "__main__":
    main()
