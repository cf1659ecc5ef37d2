"""What is the user's to mend, shown as a single line with exit code 2, and how a library's error becomes one."""


class InputError(ValueError):
    """Bad input: the message names the field, the value and what was expected."""


class RowError(InputError):
    """One row of a data set is bad, which says nothing of the others."""

    def __init__(self, where: str, reason: str, skippable: bool = True):
        """Args:
        where: the data set, file and row.
        skippable: leaving the row out is a way on; not so where a setting is wrong, and with it every row.
        """
        hint = " (dataset.skip_bad_rows=true leaves such rows out)" if skippable else ""
        super().__init__(f"{where}: {reason}{hint}")
        self.reason = reason


def one_line(error: BaseException) -> str:
    """The start of a message that may have many lines; the error's kind where it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
