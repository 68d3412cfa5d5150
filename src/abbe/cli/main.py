"""The command line: every verb, and how a command begins and ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from abbe import __version__
from abbe.cli.help import Flowing
from abbe.cli.images import classify, demo, embed, info, measure, restore, segment
from abbe.cli.models import convert, doctor, export, models, show
from abbe.cli.training import evaluate, recipes, reproduce, train
from abbe.display import err
from abbe.errors import AbbeError

VERBS = (
    *(segment, measure, classify, embed, restore, train, evaluate, info),
    *(models, convert, export, recipes, reproduce, show, doctor, demo),
)

app = App(
    default_parameter=Parameter(negative=()),
    name="abbe",
    help_formatter=Flowing(),
    help_format="plaintext",  # as markup, <name> in a text would be taken for a tag and left out
    help="Deep-learning image analysis for microscopy: counts and measurements from a folder of images.",
    version=__version__,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)
for verb in VERBS:
    app.command(verb)


def main(words: Sequence[str] | None = None) -> None:
    """Run a command line and exit: 0 done, 1 some images failed, 2 bad input, 130 stopped."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)  # of the handler: other libraries set the levels of their own loggers
    logging.basicConfig(format="abbe: %(message)s", handlers=[handler])
    sys.exit(guarded(lambda: app(words, exit_on_error=False)))


def guarded(run: Callable[[], Any]) -> int:
    """Turn errors into one sentence and an exit code."""
    try:
        return int(run() or 0)
    except AbbeError as error:
        err.print(f"abbe: {error}", highlight=False, markup=False)
        return 2
    except CycloptsError:  # cyclopts has told it
        return 2
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        err.print("stopped", highlight=False)
        return 130
