"""Which cells of a grid an experiment has, and what is refused in `cells`."""

import pytest

from adaptbench.errors import InputError
from adaptbench.launch.grid import belonging, check_entries

OPTIONS = {"model": ["t5", "gpt"], "method": ["ia3", "icl"], "shots": ["4", "16"]}
GRID = [[f"model={model}", f"method={method}", "limit=8"] for model in OPTIONS["model"] for method in OPTIONS["method"]]


def entries(*given: object) -> list:
    return check_entries(list(given), OPTIONS.get)


def test_without_entries_the_whole_grid_belongs():
    assert belonging(GRID, []) == GRID


def test_cells_come_in_the_order_of_the_entries_they_match():
    chosen = entries({"model": ["gpt"], "method": ["icl"]}, {"model": ["t5"], "method": ["ia3"]})
    assert belonging(GRID, chosen) == [GRID[3], GRID[0]]


def test_a_group_that_the_grid_does_not_vary_matches():
    assert belonging([["method=ia3"]], entries({"model": ["t5"], "method": ["ia3"]})) == [["method=ia3"]]
    assert belonging([["method=icl"]], entries({"model": ["t5"], "method": ["ia3"]})) == []


def test_numbers_in_yaml_are_the_texts_of_overrides():
    assert belonging([["shots=4"], ["shots=16"]], entries({"shots": [16]})) == [["shots=16"]]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"modle": ["t5"]}, r"cells\[0\]: 'modle' is neither a group of the configuration nor swept"),
        ({"model": ["t55"]}, r"cells\[0\]\.model: 't55' is none of its options: t5, gpt"),
        ({"model": "t5"}, r"cells\[0\]\.model='t5': expected a list"),
        ({"model": []}, r"cells\[0\]\.model=\[\]: expected a list of one or more"),
        ({}, r"cells\[0\]=\{\}: expected lists of options"),
        ("model", r"cells\[0\]='model': expected lists of options"),
    ],
)
def test_what_would_silently_choose_other_cells_is_refused(entry, said):
    with pytest.raises(InputError, match=said):
        entries(entry)
