"""The one exception that is the user's to mend: shown as a single line, exit code 2."""


class InputError(ValueError):
    """Bad input: the message names the field, the value and what was expected."""
