"""The command line's frame: how a verb is registered, what it says when it fails, and arguments that several take."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from ingot.console.messages import expected, plain
from ingot.host import pipeline
from ingot.params.core import nearest

WIDTH = 100  # columns, where no terminal says how many it has

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Build a model, stage by stage."
)


def verb(function: Callable) -> Callable:
    """Register a verb that ends with a message alone and status 1 for what is no mistake of the program's."""

    @functools.wraps(function)
    def guarded(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if (said := expected(error)) is None:
                raise
            print(f"ingot: {plain(said)}", file=sys.stderr)
            raise typer.Exit(1) from None

    return app.command()(guarded)


def known(stage: str) -> str:
    if stage not in pipeline.STAGES:
        print(f"ingot: no stage {stage!r}{nearest(stage, pipeline.STAGES)}", file=sys.stderr)
        raise typer.Exit(2)
    return stage


Stage = Annotated[str, typer.Argument(callback=known, help=f"one of {', '.join(pipeline.STAGES)}")]


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH)
