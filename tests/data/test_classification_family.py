"""Text classification as practitioners have it: sizes, draws without leaks, and prompts that a base model can read."""

import pytest

from adaptbench.data.example import Example
from adaptbench.data.fewshot import draw
from adaptbench.data.sources import load_task
from tests.data.conftest import configuration
from tests.data.test_datasets import SEEDS

# training rows that are left, evaluation rows, classes, fields that make two rows the same
FAMILY = {
    "sms_spam": (3219, 2000, 2, ["text"]),
    "clinc_domain": (7499, 4500, 10, ["text"]),
    "sci_cite": (7291, 1861, 3, ["text"]),
    "citation_intent": (1222, 139, 6, ["text"]),
    "chemprot": (4140, 3469, 13, ["text"]),
    "rct": (500, 100, 5, ["text"]),
    "imdb": (200, 100, 2, ["text"]),
    "mrpc": (3668, 408, 2, ["sentence1", "sentence2"]),
    "cola": (8514, 1043, 2, ["sentence"]),
    "ag_news": (3800, 3800, 4, ["text"]),
}
PAPERS = ["rte", "cb", "wsc", "wic", "copa", "winogrande", "hellaswag", "anli_r1", "anli_r2", "anli_r3", "sst2"]


def content(example: Example, fields: list[str]) -> tuple[str, ...]:
    return tuple(" ".join(example.fields[field].split()) for field in fields)


@pytest.mark.parametrize("name", FAMILY)
def test_the_rows_at_hand(tasks, name):
    train, evaluation, classes, _ = FAMILY[name]
    task = tasks(name)
    assert (len(task.train), len(task.evaluation), task.skipped) == (train, evaluation, ())
    assert {example.label for example in task.train} == set(range(classes))
    missing = {10} if name == "chemprot" else set()  # its rarest relation has no test row
    assert {example.label for example in task.evaluation} == set(range(classes)) - missing


@pytest.mark.parametrize("name", FAMILY)
def test_draws_are_balanced_repeat_nothing_and_hold_no_evaluation_row(tasks, name):
    _, _, classes, fields = FAMILY[name]
    task = tasks(name)
    evaluated = {content(example, fields) for example in task.evaluation}
    for seed in SEEDS:
        examples = draw(task, seed).examples
        texts = {content(example, fields) for example in examples}
        assert len(examples) == len(texts) == 32
        assert not texts & evaluated
        labels = [example.label for example in examples]
        assert {labels.count(label) for label in range(classes)} <= {32 // classes, -(-32 // classes)}


def test_duplicates_of_the_sources_would_leak_into_draws_without_the_check(tasks, real_data):
    """Or `deduplicate` would have nothing to do: a third of ACL-ARC's test set stands in its training file."""
    given = (f"dataset.folder={real_data}", "dataset.deduplicate=[]")
    as_it_is = load_task(configuration("citation_intent", *given))
    evaluated = {content(example, ["text"]) for example in as_it_is.evaluation}
    leaks = [content(e, ["text"]) in evaluated for seed in SEEDS for e in draw(as_it_is, seed).examples]
    assert len(as_it_is.train) == 1688
    assert sum(leaks) > 0


@pytest.mark.parametrize("name", ["rct", "imdb"])
def test_a_part_of_a_test_set_is_not_called_the_test_set(tasks, name):
    assert tasks(name).evaluation_split == "100 rows of test in place of test"


@pytest.mark.parametrize("name", ["sms_spam", "ag_news"])
def test_two_parts_of_one_file_share_no_row(tasks, name):
    task = tasks(name)
    train, evaluation = ({content(e, ["text"]) for e in rows} for rows in (task.train, task.evaluation))
    assert not train & evaluation


@pytest.mark.parametrize("name", [*FAMILY, *PAPERS])
def test_prompts_are_continuations_that_end_where_the_answer_begins(tasks, name):
    """No blank or empty line of a template's own, different choices, and no list of them in the input."""
    task = tasks(name)
    draws = [example for seed in SEEDS for example in draw(task, seed).examples]
    rows = [*task.evaluation[:: 1 + len(task.evaluation) // 300], *draws]
    assert 2 <= len(task.templates) <= 4
    for template in task.templates:
        for example in rows:
            prompt = template.render(example.uid, example.fields, example.origin)
            assert prompt.input == prompt.input.strip()
            assert "\n\n" not in prompt.input
            assert not any("\n" in choice or choice != choice.strip() for choice in prompt.choices)
            assert prompt.delimiter == " "
        assert "answer_choices |" not in template.jinja.replace("answer_choices[label]", "")


@pytest.mark.parametrize("name", FAMILY)
def test_label_words_differ_in_their_first_word(tasks, name):
    """A base model is asked which word comes next; ChemProt's relations are too many for that."""
    task = tasks(name)
    for template in task.templates:
        words = [choice.split() for choice in template.render("0", task.evaluation[0].fields).choices]
        if name == "chemprot":
            assert len({tuple(word) for word in words}) == 13
        else:
            assert [len(word) for word in words] == [1] * len(words)
            assert len({word[0].lower() for word in words}) == len(words)


def one_line(text: str) -> str:
    return " ".join(text.split()).replace(" .", ".")


def test_a_filled_gap_reads_like_the_sentence(tasks):
    task = tasks("winogrande")
    fill = task.template("fill")
    for example in task.evaluation:
        prompt, sentence = fill.render(example.uid, example.fields), example.fields["sentence"]
        options = (example.fields["option1"], example.fields["option2"])
        for option, choice in zip(options, prompt.choices, strict=True):
            filled = sentence.replace("_", option)
            assert one_line(f"{prompt.input} {choice}") == one_line(filled)


def test_a_cause_follows_because_and_an_effect_follows_so(tasks):
    task = tasks("copa")
    because = task.template("because")
    for example in task.evaluation:
        prompt = because.render(example.uid, example.fields)
        assert prompt.input.endswith(" because" if example.fields["question"] == "cause" else " so")
        assert "." not in prompt.input
        assert all(choice[0].islower() or choice.startswith("I ") for choice in prompt.choices)
