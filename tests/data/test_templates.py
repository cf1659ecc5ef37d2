"""Templates: what renders, and what is said when one does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptbench.data.example import Example, TaskData
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.promptsource import load_promptsource
from adaptbench.data.templates import Template
from adaptbench.errors import InputError
from adaptbench.metrics import get
from adaptbench.scoring.scores import by_template, scores
from adaptbench.tasks.choices import Choices, ChoiceScores
from experiments.submit import predicted

ROW = {"premise": "it rains", "label": 1}


def template(jinja="{{premise}}? ||| {{answer_choices[label]}}", choices="yes ||| no"):
    return Template("toy", "plain", jinja, choices)


def test_a_row_renders_to_input_choices_and_label():
    prompt = template().render("7", ROW)
    assert (prompt.uid, prompt.template, prompt.input) == ("7", "plain", "it rains?")
    assert prompt.choices == ("yes", "no")
    assert prompt.label == 1


def test_choices_may_come_from_the_row():
    prompt = template(choices="{{a}} ||| {{b}} ||| none").render("0", {**ROW, "a": "one word", "b": "two"})
    assert prompt.choices == ("one word", "two", "none")


@pytest.mark.parametrize(
    ("jinja", "choices", "row", "says"),
    [
        ("{{premise}} {{hypothesis}} ||| {{answer_choices[label]}}", "yes ||| no", ROW, "'hypothesis' is undefined"),
        ("{{premise} ||| x", "yes ||| no", ROW, "syntax error"),
        ("{{premise}}", "yes ||| no", ROW, "expected 'input ||| target'"),
        ("{{premise}} ||| {{answer_choices[label]}}", "yes ||| no", {**ROW, "label": 2}, "label 2 is outside"),
        ("{{premise}} ||| {{answer_choices[label]}}", "yes ||| yes", ROW, "choices repeat"),
        ("{{premise}} ||| {{answer_choices[label]}}", "yes |||  ", ROW, "non-empty choices"),
        ("{{premise}} ||| {{answer_choices[label]}}", "yes", {**ROW, "label": 0}, "at least two"),
        ("  ||| {{answer_choices[label]}}", "yes ||| no", ROW, "input is empty"),
        ("{{premise}} ||| maybe", "yes ||| no", ROW, "is not the choice"),
    ],
)
def test_what_is_wrong_is_said_with_dataset_template_and_row(jinja, choices, row, says):
    with pytest.raises(InputError, match="dataset 'toy', template 'plain'") as caught:
        template(jinja, choices).render("row 3", row)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(st.characters(exclude_characters="|", exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_field_text_goes_through_unchanged(text):
    """Values are data: Jinja syntax, quotes and markup in a row are neither run nor escaped."""
    prompt = template("Q: {{premise}} A: ||| {{answer_choices[label]}}").render("0", {"premise": text, "label": 0})
    assert prompt.input == f"Q: {text} A:".strip()


def test_promptsource_file_gives_its_original_task_templates(tmp_path):
    path = tmp_path / "templates.yaml"
    path.write_text(
        """dataset: x
templates:
  a: !Template
    answer_choices: Yes ||| No
    jinja: '{{premise}} ||| {{answer_choices[label]}}'
    metadata: !TemplateMetadata {original_task: true}
    name: first
  b: !Template
    answer_choices: Yes ||| No
    jinja: '{{label}} ||| {{premise}}'
    metadata: !TemplateMetadata {original_task: false}
    name: reversed
  c: !Template
    answer_choices: null
    jinja: '{{premise}} ||| {{premise}}'
    metadata: !TemplateMetadata {original_task: true}
    name: free text
""",
        encoding="utf-8",
    )
    assert [template.name for template in load_promptsource(path, "x")] == ["first"]
    assert [template.name for template in load_promptsource(path, "x", original_only=False)] == ["first", "reversed"]


@pytest.mark.parametrize("text", ["templates: [1, 2]", "a: [", "just words"])
def test_a_broken_promptsource_file_is_named(tmp_path, text):
    path = tmp_path / "templates.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="dataset 'x'"):
        load_promptsource(path, "x")


def test_a_rows_own_bars_are_not_the_separator():
    prompt = template("{{premise}} ||| {{answer_choices[label]}}", "{{a}} ||| no").render(
        "0", {"premise": "x ||| y", "a": "p ||| q", "label": 0}
    )
    assert (prompt.input, prompt.choices) == ("x ||| y", ("p ||| q", "no"))


def test_p3s_random_choice_is_the_rows_own_and_never_changes():
    drawing = template("{{ ['One', 'Two', 'Three'] | choice }}: {{premise}} ||| {{answer_choices[label]}}")
    found = {uid: drawing.render(uid, ROW).input for uid in map(str, range(40))}
    assert set(found.values()) == {"One: it rains", "Two: it rains", "Three: it rains"}
    assert found == {uid: drawing.render(uid, ROW).input for uid in found}


def task_of(*templates):
    rows = [Example(str(i), {"premise": f"row {i}", "kind": "ab"[i % 2], "label": i % 2}) for i in range(8)]
    return TaskData("toy", 4, rows, rows, templates)


ONLY_A = Template(
    "toy", "only a", "{% if kind == 'a' %}{{premise}} ||| {{answer_choices[label]}}{% endif %}", "yes ||| no"
)
ALWAYS = Template("toy", "always", "{{premise}} ||| {{answer_choices[label]}}", "yes ||| no")


def test_a_template_that_is_not_meant_for_a_row_gives_way():
    task = task_of(ONLY_A, ALWAYS)
    drawn = evaluation_prompts(task, "random")
    assert {prompt.template for prompt in drawn if int(prompt.uid) % 2} == {"always"}
    every = evaluation_prompts(task, "all")
    assert [(p.uid, p.template) for p in every[:3]] == [("0", "only a"), ("0", "always"), ("1", "always")]
    assert len(every) == 12
    with pytest.raises(InputError, match="row '1': the template renders nothing"):
        evaluation_prompts(task, "only a")
    with pytest.raises(InputError, match="row '1': no template is meant for this row"):
        evaluation_prompts(task_of(ONLY_A), "all")


def test_scores_by_template_and_their_mean():
    prompts = evaluation_prompts(task_of(ONLY_A, ALWAYS), "all")
    answers = [ChoiceScores(prompt, (-1.0, -2.0), (1, 1)) for prompt in prompts]  # always the first choice
    found = by_template(get("accuracy"), Choices(), answers, "token")
    assert found == {"only a": {"score": 1.0, "n": 4}, "always": {"score": 0.5, "n": 8}}
    assert scores(Choices(), answers, "token")["accuracy"] == 0.5
    assert list(predicted(Choices().table(answers), "token")) == [0] * 8


def test_a_template_tells_what_steers_it_from_what_it_says():
    jinja = (
        "{{premise}} {% if question == 'cause' %}because{% else %}so{% endif %} {% if tail != '' %}{{tail}}{% endif %}"
    )
    template = Template("copa", "one", jinja + " ||| {{answer_choices[label]}}", "{{choice1}} ||| {{choice2}}")
    assert template.categories == {"question"}
