"""Exit codes follow from outcomes, and outcomes of several cells add up."""

import pickle

import pytest

from adaptbench.errors import InputError
from adaptbench.launch.outcome import Outcome, finish, together

FINE = Outcome(records=["out/records/a.json"])
FAILED = Outcome(failures=["out/failures/b.json"])
REFUSED = Outcome(refusals=["shots=9: expected fewer"])


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [([], 0), ([FINE], 0), ([FINE, FAILED], 1), ([FINE, FAILED, REFUSED], 2), ([REFUSED], 2)],
)
def test_the_exit_code_is_that_of_the_worst(outcomes, code):
    assert together(outcomes).exit_code == code


def test_finishing_says_what_failed_and_where(capsys):
    with pytest.raises(SystemExit) as stopped:
        finish(together([FINE, FAILED, FAILED]))
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "2 run(s) failed and will be tried again next time: out/failures/\n"


def test_finishing_raises_the_first_refusal():
    with pytest.raises(InputError, match=r"^shots=9: expected fewer$"):
        finish(together([FAILED, REFUSED]))


def test_a_good_end_is_silent(capsys):
    finish(FINE)
    assert capsys.readouterr() == ("", "")


def test_outcomes_travel_between_processes():
    assert pickle.loads(pickle.dumps(together([FINE, FAILED, REFUSED]))) == together([FINE, FAILED, REFUSED])
