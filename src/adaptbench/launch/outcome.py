"""What came of running cells: records, failures, refusals and bills, from which the exit code follows."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from adaptbench.costs.estimate import Estimate, report
from adaptbench.errors import InputError

OK, FAILED, REFUSED = 0, 1, 2  # exit codes


@dataclass(frozen=True)
class Outcome:
    """What came of one cell, or of several. Small and plain: it travels between processes and machines."""

    records: Sequence[str] = ()
    """Paths of the records that are there now."""
    failures: Sequence[str] = ()
    """Paths of the failures' files; those of runs that were lost with their process would have these names."""
    refusals: Sequence[str] = ()
    """Messages of cells whose input was bad."""
    bills: Sequence[Estimate] = ()
    """Of a dry run."""
    unreached: Mapping[str, str] = field(default_factory=dict)
    """Trackers out of reach, and why."""

    @property
    def exit_code(self) -> int:
        """0: every run has its record (or bill); 1: some have failed; 2: some input was bad."""
        if self.refusals:
            return REFUSED
        return FAILED if self.failures else OK


def together(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of all these cells."""
    several = list(outcomes)
    return Outcome(
        records=[record for outcome in several for record in outcome.records],
        failures=[failure for outcome in several for failure in outcome.failures],
        refusals=[refusal for outcome in several for refusal in outcome.refusals],
        bills=[bill for outcome in several for bill in outcome.bills],
        unreached={name: why for outcome in several for name, why in outcome.unreached.items()},
    )


def finish(outcome: Outcome) -> None:
    """Tell the user what came of everything, and end the program with its exit code.

    Raises:
        InputError: the first refusal.
        SystemExit: with code 1 where runs have failed.
    """
    if outcome.refusals:
        raise InputError(outcome.refusals[0])
    if outcome.bills:
        print(report(outcome.bills))
    if outcome.failures:
        folder = outcome.failures[0].rpartition("/")[0]
        number = len(outcome.failures)
        print(f"{number} run(s) failed and will be tried again next time: {folder}/", file=sys.stderr)
        sys.exit(FAILED)
