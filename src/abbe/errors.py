"""The one exception that users meet: a sentence with what was found, where, and what was expected."""


class AbbeError(Exception):
    """Bad input, told in one sentence; the command line prints it without a traceback and exits with 2."""
