"""The one exception that users meet: a sentence with what was found, where, and what was expected."""

LONGEST_REASON = 160


class AbbeError(Exception):
    """Bad input, told in one sentence; the command line prints it without a traceback and exits with 2."""


def reason(error: BaseException) -> str:
    """Give what another library says of a file as part of a line: its first one, cut, with ? for unprintable signs."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = "".join(sign if sign.isprintable() else "?" for sign in lines[0])
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"
