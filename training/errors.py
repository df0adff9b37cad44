"""The errors that a user can cause or must hear about: one tree, one exit code each."""


class PolarscoreError(Exception):
    """Root of the errors that end a command with one line on standard error."""

    exit_code = 1


class InputError(PolarscoreError):
    """The input is at fault: names what was expected, what was found and the remedy."""

    exit_code = 2


class CheckFailed(PolarscoreError):
    """The input is fine, and a check of ours said no: a gate, an alarm."""
