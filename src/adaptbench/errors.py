"""The one exception that is the user's to mend: shown as a single line, exit code 2."""


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
