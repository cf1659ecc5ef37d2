"""Labels count as they are written: in the file, in YAML and on the command line."""

import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from adaptbench.config import question, register_schemas, resolve
from adaptbench.data.labels import label_index, label_mapping, shown_names
from adaptbench.data.sources import load_task
from adaptbench.errors import InputError
from adaptbench.schema import Config, DatasetConfig
from experiments.commandline import CONF, program_arguments

STARS = {"1": 0, "2": 1, "3": 2, "4": 3, "5": 4}


def composed(*arguments: str) -> Config:
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        return resolve(compose("config", program_arguments(["dataset=files", *arguments])))


@pytest.mark.parametrize(
    ("labels", "value", "index"),
    [
        (STARS, "5", 4),
        (STARS, 5, 4),
        ({"true": 1, "false": 0}, True, 1),
        ({"True": 1, "False": 0}, "True", 1),
        ({"yes": 1, "no": 0}, "no", 0),
        ({"0.0": 0, "1.0": 1}, 1.0, 1),
        ({"0.0": 0, "1.0": 1}, "1.0", 1),
        ({"01": 0, "1": 1}, "01", 0),
        ({" a": 0, "a": 1}, " a", 0),
        ({}, 3, 3),
        ({}, "3", 3),
    ],
)
def test_a_label_is_looked_up_as_it_is_written(labels, value, index):
    assert label_index(labels, value) == index


@pytest.mark.parametrize(
    ("labels", "value", "says"),
    [
        (STARS, "0", "label '0': expected 1, 2, 3, 4, 5"),
        (STARS, 0, "label 0: expected 1, 2, 3, 4, 5"),
        ({"0": 0, "4": 1}, 1, "label 1: expected 0, 4"),
        ({"no": 0, "yes": 1}, 1, "label 1: expected no, yes"),
        ({"no": 0, "yes": 1}, "Yes", "label 'Yes': expected no, yes"),
        ({"no": 0, "yes": 1}, "yes ", "label 'yes ': expected no, yes"),
        ({"False": 0, "True": 1}, True, "label true: expected False, True"),
        ({"0": 0, "1": 1}, 1.0, "label 1.0: expected 0, 1"),
        ({"None": 0, "nan": 1}, None, "label null: expected None, nan"),
        ({"None": 0, "nan": 1}, float("nan"), "label null: expected None, nan"),
        ({"a": 0}, ["a"], 'label ["a"]: expected a'),
        ({str(i): i for i in range(77)}, "x", "9, 10, 11 and 65 more"),
        ({}, True, "label true: expected an integer from 0"),
        ({}, 1.0, "label 1.0: expected an integer from 0"),
        ({}, "1.0", "label '1.0': expected an integer from 0"),
        ({}, "01", "label '01': expected an integer from 0"),
        ({}, -1, "label -1: expected an integer from 0"),
        ({}, None, "label null: expected an integer from 0"),
    ],
)
def test_nothing_else_is_a_label(labels, value, says):
    """No number is taken for an index where names are declared, and no name for another one."""
    with pytest.raises(ValueError, match="label") as caught:
        label_index(labels, value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "labels"),
    [
        ("{1: 0, 2: 1}", {"1": 0, "2": 1}),
        ("{1:0,2:1}", {"1": 0, "2": 1}),
        ('{"1": 0, "2": 1}', {"1": 0, "2": 1}),
        ("{true: 1, FALSE: 0}", {"true": 1, "FALSE": 0}),
        ("{no: 0, yes: 1, null: 2}", {"no": 0, "yes": 1, "null": 2}),
        ("{1.50: 0, 01: 1, 1_0: 2}", {"1.50": 0, "01": 1, "1_0": 2}),
        ("{not good: 0, very good : 1,}", {"not good": 0, "very good": 1}),
        ("{schlecht: 0, schön: 1, 好: 2}", {"schlecht": 0, "schön": 1, "好": 2}),
        ("""{"it's": 0, 'say "x"': 1}""", {"it's": 0, 'say "x"': 1}),
        (r'{"sch\u00f6n": 0, not\ good: 1}', {"schön": 0, "not good": 1}),
        ("{'a, b': 0, \"c: d\": 1}", {"a, b": 0, "c: d": 1}),
        ("{doesn't: 0, 12:30: 1}", {"doesn't": 0, "12:30": 1}),
        ("{}", {}),
    ],
)
def test_every_name_can_be_typed(typed, labels):
    assert composed(f"dataset.labels={typed}").dataset.labels == labels
    assert composed(f"+dataset.labels={typed}").dataset.labels == labels


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.integers(0, 99)))
def test_what_is_written_as_json_arrives_as_it_is(labels):
    """Through Hydra's grammar, and once more through the text of a multirun's job."""
    (argument,) = program_arguments([f"dataset.labels={json.dumps(labels, ensure_ascii=False)}"])
    (override,) = OverridesParser.create().parse_overrides([argument])
    again = OverridesParser.create().parse_override(f"dataset.labels={override.get_value_element_as_str()}")
    assert label_mapping(override.value()) == label_mapping(again.value()) == labels


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({False: 0, True: 1}, "put the label in quotes"),
        ({"a": True}, "'a': True: expected the index"),
        ({"a": "0"}, "'a': '0': expected the index"),
        ({"a": 0.0}, "'a': 0.0: expected the index"),
        ({"a": -1}, "-1 is no index"),
        ({1: 0, "1": 1}, "'1' stands twice"),
        (["a", "b"], "expected a mapping"),
        (None, "expected a mapping"),
        ("a: 0", "expected a mapping"),
        ("{a: 0, b}", "'b': expected 'name: index'"),
        ("{a: 0.5}", "'a': '0.5': expected the index"),
        ("{a: }", "'a': '': expected the index"),
    ],
)
def test_what_is_no_mapping_of_names_to_indices_is_one_line(given, says):
    with pytest.raises(InputError, match=r"dataset\.labels") as caught:
        label_mapping(given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


MINE = """
defaults: [schema_dataset]
name: mine
source: files
evaluation: e.csv
shots: 1
labels: {labels}
templates:
  plain: {{jinja: "{{{{text}}}} ||| {{{{answer_choices[label]}}}}", answer_choices: "bad ||| good"}}
"""


@pytest.mark.parametrize("group", ["dataset", "experiment"])
def test_keys_of_a_users_own_yaml(tmp_path, group):
    """Numbers are their text; what YAML has turned into a truth value is lost, and one line says so."""

    def labels(written: str) -> dict[str, int]:
        (tmp_path / group).mkdir(exist_ok=True)
        if group == "dataset":
            text, chosen = MINE.format(labels=written), "dataset=mine"
        else:
            text, chosen = f"# @package _global_\ndataset:\n  labels: {written}\n", "+experiment=mine"
        (tmp_path / group / "mine.yaml").write_text(text)
        return composed(chosen, f"hydra.searchpath=[file://{tmp_path}]").dataset.labels

    assert labels("{1: 0, 2: 1}") == {"1": 0, "2": 1}
    assert labels("{'no': 0, \"yes\": 1}") == {"no": 0, "yes": 1}
    assert labels("{1.0: 0, 2.0: 1}") == {"1.0": 0, "2.0": 1}
    with pytest.raises(InputError, match="YAML reads yes, no, on, off, true and false as truth values"):
        labels("{no: 0, yes: 1}")


def test_json_keys_of_other_dictionaries():
    config = composed("""dataset.columns={"text": "Tweet text", 'label': "a \\"b\\": c"}""").dataset
    assert config.columns == {"text": "Tweet text", "label": 'a "b": c'}
    assert composed('model.shape={"d_model": 4}').model.shape == {"d_model": 4}


def test_a_file_whose_name_hydra_takes_for_grammar(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a=b,c (test).csv", "it's 'one'.csv", "50% schön.csv"):
        (tmp_path / name).write_text("text,label\na,0\nb,1\n")
        config = composed(f"dataset.evaluation={name}", "dataset.labels={0: 0, 1: 1}").dataset
        assert config.evaluation == name
        assert len(load_task(config).evaluation) == 2


def test_templates_see_the_first_spelling_and_others_ask_the_same_question():
    spelled = {"no": 0, "yes": 1, "false": 0, "1": 1}
    assert shown_names(spelled) == {"no": 0, "yes": 1}
    typed = "dataset.labels={no: 0, yes: 1", "dataset.labels={no: 0, yes: 1, false: 0, 1: 1"
    first, second, third = (
        question(composed(f"{override}}}"), 0, 4, 8) for override in (*typed, typed[0].replace("no", "nay"))
    )
    assert first == second != third


def test_text_labels_make_no_templates_of_their_own(tmp_path):
    (tmp_path / "e.csv").write_text("text,label\na,0\nb,1\n")
    config = composed(f"dataset.evaluation={tmp_path}/e.csv").dataset
    with pytest.raises(InputError, match=r"uses label_names: dataset\.labels must declare the labels"):
        load_task(config)


def test_a_csv_label_without_a_mapping_is_an_integer(tmp_path):
    (tmp_path / "e.csv").write_text("text,label\n007,0\n1.50,1\n")
    templates = {"t": {"jinja": "{{text}} ||| {{answer_choices[label]}}", "answer_choices": "no ||| yes"}}
    config = DatasetConfig("mine", "files", evaluation=f"{tmp_path}/e.csv", shots=1, templates=templates)
    assert [(example.fields["text"], example.label) for example in load_task(config).evaluation] == [
        ("007", 0),
        ("1.50", 1),
    ]
