"""How help is drawn: texts flow within their columns, wherever their lines end in the code."""

from __future__ import annotations

import re
from typing import Any

from cyclopts.help import DefaultFormatter

_LINE_END = re.compile(r"(?<!\n)\n[ ]*(?=[^\n\s])")


class Flowing(DefaultFormatter):
    """Cyclopts' own formatter, with the lines of a paragraph joined."""

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        """Draw a panel of arguments, options or commands."""
        for entry in panel.entries:
            entry.description = joined(entry.description)
        super().__call__(console, options, panel)

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        """Draw the text of a command."""
        super().render_description(console, options, joined(description))


def joined(text: Any) -> Any:
    """Join the lines of each paragraph; what is no plain text is left alone."""
    plain = getattr(getattr(text, "primary_renderable", None), "plain", None)
    if isinstance(plain, str):
        text.primary_renderable.plain = _LINE_END.sub(" ", plain)
    return text
