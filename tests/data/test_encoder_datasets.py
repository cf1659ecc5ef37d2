"""The data sets of arXiv 2405.05493, for encoders with a trained head: sizes, no leaks, whole texts; and read fast."""

import hashlib
import json
import re
import sys
import types
from dataclasses import replace

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptbench.data.example import Example, fingerprint
from adaptbench.data.readers import read_rows
from adaptbench.data.sources import load_task
from adaptbench.data.templates import TextTemplate
from adaptbench.errors import InputError
from experiments.commandline import program_arguments
from tests.data.conftest import CONF, configuration
from tests.data.test_classification_family import content

# Rows to train on (of which some are held out for development), development rows, evaluation rows, classes.
AT_HAND = {
    "glue_cola": (8514, 0, 1043, 2),
    "glue_sst2": (6911, 0, 872, 2),
    "glue_mrpc": (3668, 0, 408, 2),
    "glue_stsb": (5700, 0, 1500, 1),
    "glue_rte": (2488, 0, 277, 2),
    "domain_chemprot": (4140, 2427, 3469, 13),
    "domain_citation_intent": (1184, 114, 139, 6),
    "domain_sciie": (3219, 455, 974, 7),
    "domain_hyperpartisan": (515, 61, 68, 2),
    "xquad_en": (850, 128, 212, 0),
}
HELD_OUT = {
    "glue_cola": 1000, "glue_sst2": 1000, "glue_mrpc": 400, "glue_stsb": 500, "glue_qqp": 1000, "glue_mnli": 1000,
    "glue_qnli": 1000, "glue_rte": 250, "domain_ag_news": 5000, "domain_imdb": 5000, "squad": 5000,
}  # fmt: skip
METRIC = {
    "glue_cola": "matthews", "glue_mrpc": "f1", "glue_qqp": "f1", "glue_stsb": "spearman",
    **dict.fromkeys(("glue_sst2", "glue_mnli", "glue_qnli", "glue_rte"), "accuracy"),
    **dict.fromkeys(("domain_chemprot", "domain_rct"), "f1_micro"),
    **dict.fromkeys(("squad", "xquad_en"), "token_f1"),
}  # fmt: skip
# The hub's columns with a row's values, and what it calls its label numbers.
PAIR = {"sentence1": "A b.", "sentence2": "C d."}
HUB = {
    "glue_cola": ({"sentence": "A b."}, ["unacceptable", "acceptable"]),
    "glue_sst2": ({"sentence": "A b."}, ["negative", "positive"]),
    "glue_mrpc": (PAIR, ["not_equivalent", "equivalent"]),
    "glue_stsb": (PAIR, None),
    "glue_qqp": ({"question1": "A b.", "question2": "C d."}, ["not_duplicate", "duplicate"]),
    "glue_mnli": ({"premise": "A b.", "hypothesis": "C d."}, ["entailment", "neutral", "contradiction"]),
    "glue_qnli": ({"question": "A b.", "sentence": "C d."}, ["entailment", "not_entailment"]),
    "glue_rte": (PAIR, ["entailment", "not_entailment"]),
    "domain_ag_news": ({"text": "A b."}, ["World", "Sports", "Business", "Sci/Tech"]),
    "domain_imdb": ({"text": "A b."}, ["neg", "pos"]),
}
DATASETS = sorted(
    path.stem for glob in ("glue_*", "domain_*", "squad*", "xquad*") for path in CONF.glob(f"dataset/{glob}")
)


@pytest.mark.parametrize("name", DATASETS)
def test_every_one_is_whole_and_chooses_on_rows_that_are_not_reported(name):
    config = configuration(name)
    assert (config.name, config.shots, config.sampling) == (name, "all", "natural")
    assert config.task == ("spans" if "quad" in name else "classification")
    assert config.development not in (None, "evaluation", config.evaluation)
    if isinstance(config.development, int):
        assert config.development == HELD_OUT[name]
    assert len(config.templates) == 1
    assert config.metric == METRIC.get(name, "f1_macro")


def test_none_is_missing():
    glue = {f"glue_{name}" for name in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")}
    assert {name for name in DATASETS if name.startswith("glue_")} == glue
    assert len([name for name in DATASETS if name.startswith("domain_")]) == 8


@pytest.mark.parametrize("name", AT_HAND)
def test_the_rows_at_hand(tasks, name):
    task = tasks(name)
    train, development, evaluation, classes = AT_HAND[name]
    assert (len(task.train), len(task.development), len(task.evaluation)) == (train, development, evaluation)
    assert task.held_out == HELD_OUT.get(name, 0)
    assert task.skipped == ()
    if classes > 1:
        assert {example.label for example in task.train} == set(range(classes)) == set(range(task.type.classes))
        assert {example.label for example in task.evaluation} <= set(range(classes))
    if name == "glue_stsb":
        assert min(example.label for example in task.train) == 0.0
        assert max(example.label for example in task.train) == 5.0


@pytest.mark.parametrize("name", AT_HAND)
def test_no_training_row_is_a_reported_one(tasks, name):
    task = tasks(name)
    fields = ["question", "context"] if name == "xquad_en" else names(task.templates[0])
    evaluated, chosen_on = ({content(e, fields) for e in rows} for rows in (task.evaluation, task.development))
    trained = {content(example, fields) for example in task.train}
    assert not trained & evaluated
    assert not trained & chosen_on


def test_without_the_check_reported_rows_would_be_trained_on(real_data):
    """Or `deduplicate` would have nothing to do."""
    repeated = {"glue_cola": 18, "glue_stsb": 6, "domain_chemprot": 4, "domain_citation_intent": 100}
    for name, rows in repeated.items():
        task = load_task(replace(configuration(name, f"dataset.folder={real_data}"), deduplicate=[]))
        fields = names(task.templates[0])
        evaluated = {content(example, fields) for example in task.evaluation}
        assert sum(content(example, fields) in evaluated for example in task.train) == rows


def names(template):
    """Fields that a template shows, in order."""
    return [name.strip(" {}") for name in template.jinja.split("|||") if name]


@pytest.mark.parametrize("name", AT_HAND)
def test_an_encoder_reads_texts_as_they_are(tasks, name):
    task = tasks(name)
    (template,) = task.templates
    for example in [*task.train, *task.development, *task.evaluation]:
        prompt = template.render(example.uid, example.fields, example.origin)
        if name == "xquad_en":
            assert (prompt.input, prompt.second) == (example.fields["question"].strip(), example.fields["context"])
            assert prompt.references
        else:
            shown = [example.fields[field].strip() for field in names(template)]
            assert [prompt.input, prompt.second] == [*shown, None][:2]
            assert prompt.label == example.label


@pytest.mark.parametrize("name", HUB)
def test_splits_of_the_hub(tmp_path, monkeypatch, name):
    columns, labels = HUB[name]

    class Split(list):
        features = {"label": types.SimpleNamespace(names=labels)} if labels else {}

    asked = []

    def load_dataset(path, subset, split, **_):
        asked.append((path, subset, split))
        rows = range(3 * len(labels or "123"))
        return Split({**{c: f"{split} {i} {v}" for c, v in columns.items()}, "label": i // 3, "idx": i} for i in rows)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    config = configuration(name, f"dataset.folder={tmp_path}")
    task = load_task(config)
    assert asked == [(config.path, config.subset, split) for split in (config.train, config.evaluation)]
    assert config.subset == (name.removeprefix("glue_") if name.startswith("glue_") else None)
    expected = [i // 3 for i in range(3 * len(labels or "123"))]
    assert [example.label for example in task.evaluation] == expected
    prompt = task.templates[0].render("0", task.evaluation[0].fields)
    assert [prompt.input, prompt.second] == [*(f"{config.evaluation} 0 {v}" for v in columns.values()), None][:2]


def test_squad_is_read_from_the_hub_and_can_hold_out_articles(tmp_path, monkeypatch):
    answers = {"text": ["cat"], "answer_start": [2]}
    row = {"context": "A cat sat.", "question": "Who sat?", "answers": answers}
    rows = [{"id": f"q{i}", "title": f"article {i % 40}", **row} for i in range(200)]
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *_, **__: rows))
    task = load_task(configuration("squad", f"dataset.folder={tmp_path}"))
    assert ([e.uid for e in task.train], task.held_out) == ([row["id"] for row in rows], 5000)
    apart = re.findall(r"'(dataset\.[^']+)'", (CONF / "dataset/squad.yaml").read_text())
    assert len(apart) == 2
    task = load_task(configuration("squad", f"dataset.folder={tmp_path}", *apart))
    titles = [{e.fields["title"] for e in part} for part in (task.train, task.development)]
    assert titles[1]
    assert not titles[0] & titles[1]
    assert len(task.train) + len(task.development) == 200


def test_qnli_has_its_validation_rows_here(real_data, monkeypatch):
    row = {"question": "a", "sentence": "b", "label": "entailment"}
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *_, **__: [row]))
    task = load_task(configuration("glue_qnli", f"dataset.folder={real_data}"))
    assert [len([e for e in task.evaluation if e.label == label]) for label in (0, 1)] == [2702, 2761]


def test_a_pair_without_a_question_is_left_out_of_qqp_and_named(tmp_path, monkeypatch):
    rows = [{"question1": "a", "question2": text, "label": "duplicate"} for text in ("b", "", None)]
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *_, **__: rows))
    task = load_task(configuration("glue_qqp", f"dataset.folder={tmp_path}"))
    assert len(task.evaluation) == 1
    assert "nyu-mll/glue:validation, row 1: template 'plain': the rendered second text is empty" in task.skipped


@pytest.mark.parametrize(("name", "sizes"), [("domain_rct", (400, 100, 100)), ("domain_imdb", (160, 40, 100))])
def test_the_small_parts_at_hand_are_read_as_the_files_say(real_data, name, sizes):
    """The commands stand in the comments above the data sets."""
    text = (CONF / f"dataset/{name}.yaml").read_text()
    local = next(line.strip("# '") for line in text.splitlines() if "dataset.local" in line)
    development = f"dataset.development={sizes[1]}"
    assert development in text
    task = load_task(configuration(name, *program_arguments([f"dataset.folder={real_data}", local, development])))
    assert (len(task.train) - task.held_out, task.held_out, len(task.evaluation)) == sizes


def test_what_is_not_at_hand_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in DATASETS:
        with pytest.raises(InputError, match=r"hub|put .* there|get .* from https://") as caught:
            load_task(configuration(name, f"dataset.folder={tmp_path}"))
        assert "\n" not in str(caught.value)


def test_no_article_of_xquad_is_in_two_parts(tasks):
    task = tasks("xquad_en")
    titles = [{e.fields["title"] for e in rows} for rows in (task.train, task.development, task.evaluation)]
    assert [len(part) for part in titles] == [34, 6, 8]
    assert len(set.union(*titles)) == 48


def test_hyperpartisan_articles_are_title_and_text_in_one_line(tasks):
    task = tasks("domain_hyperpartisan")
    rows = {e.uid: e for e in [*task.train, *task.development, *task.evaluation]}
    assert len(rows) == 644
    first = rows["0000000"].fields
    assert first["text"].startswith("Kucinich: Reclaiming the money power From flickr.com: Money {MID-161793} Money ( ")
    assert first["label"] == 1
    assert not any("\n" in e.fields["text"] or "<p>" in e.fields["text"] for e in rows.values())


ARTICLES = '<articles><article id="1" title="T &amp; U"><p>a <a href="x">l</a>ink</p><p>b</p></article></articles>'
LABELS = '<articles><article id="1" hyperpartisan="true"/></articles>'


def read_xml(folder, articles=ARTICLES, labels=LABELS, name="articles-x.xml"):
    (folder / name).write_bytes(articles if isinstance(articles, bytes) else articles.encode())
    if labels is not None:
        (folder / "ground-truth-x.xml").write_text(labels)
    return read_rows(folder / name, "mine")


def test_xml_articles_and_their_labels(tmp_path):
    assert read_xml(tmp_path) == [{"uid": "1", "text": "T & U a link b", "label": "true"}]
    latin = '<?xml version="1.0" encoding="ISO-8859-1"?><articles><article id="1">caf\xe9</article></articles>'
    assert read_xml(tmp_path, latin.encode("latin-1"))[0]["text"] == "café"


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><articles><article id="1">&b;</article></articles>'


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"articles": BOMB}, "articles-x.xml, line 1: a document type is declared"),
        ({"articles": '<!DOCTYPE x SYSTEM "file:///etc/passwd"><articles/>'}, "a document type is declared"),
        ({"labels": BOMB}, "ground-truth-x.xml, line 1: a document type is declared"),
        ({"articles": "<articles><article>"}, "articles-x.xml is no XML that can be read: no element found: line 1"),
        ({"articles": "text"}, "is no XML that can be read: syntax error"),
        ({"articles": b"<a>caf\xe9</a>"}, "is no XML that can be read: not well-formed"),
        ({"articles": "<articles>&unknown;</articles>"}, "is no XML that can be read: undefined entity"),
        ({"articles": ARTICLES.replace('id="1"', "")}, "an <article> without 'id' (it has title)"),
        ({"articles": ARTICLES.replace('id="1"', 'id="2"')}, "article '2' is not in ground-truth-x.xml"),
        ({"articles": ARTICLES.replace("<articles>", '<articles><article id="1"/>')}, "article '1' stands twice"),
        ({"labels": LABELS.replace("hyper", "")}, "ground-truth-x.xml: an <article> without 'hyperpartisan'"),
        ({"labels": None}, "there is no ground-truth-x.xml beside it"),
        ({"name": "x.xml"}, "expected articles-<name>.xml, with ground-truth-<name>.xml beside it"),
    ],
)
def test_what_is_wrong_with_xml_is_one_line(tmp_path, given, says):
    with pytest.raises(InputError, match=r"dataset 'mine': .*x\.xml") as caught:
        read_xml(tmp_path, **given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_of_sst_without_a_label_is_malformed(tmp_path):
    path = tmp_path / "stsa.binary.train"
    path.write_text("1 good .\n\nno label\n0 bad .\n")
    first, bad, last = read_rows(path, "mine")
    assert (first, last) == ({"label": "1", "sentence": "good ."}, {"label": "0", "sentence": "bad ."})
    assert (bad.place, bad.reason) == ("line 3", "expected a label and a sentence, found 'no label'")


VALUES = st.one_of(st.text(max_size=4), st.sampled_from(["a ||| b", " ", "{{x}}", "\r\n"]), st.integers(), st.none())


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "other"]), VALUES))
def test_texts_put_together_are_what_jinja_renders(fields):
    """Or the same error. A template that only shows fields does not go through Jinja; this one is made to."""
    for text in ("{{a}}|||{{b}}", "{{a}}|||", "Q: {{ a }}\n{{b}}!|||{{ a }}", "|||{{b}}", "{{a}}|||{{none}}"):
        joined = TextTemplate("toy", "plain", text, "")
        rendered = TextTemplate("toy", "plain", "{% if true %}" + text.replace("|||", "{% endif %}|||"), "")
        assert outcome(joined, fields) == outcome(rendered, fields)


def outcome(template, fields):
    try:
        prompt = template.render("7", fields, "here")
    except (InputError, jinja2.TemplateError) as error:
        return type(error), str(error)
    return prompt.input, prompt.second if template.jinja[-1] != "|" else None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=3), st.one_of(VALUES, st.floats()), max_size=4), max_size=4))
def test_a_fingerprint_is_of_the_rows_in_order_as_json(rows):
    """As runs of earlier records were named; asked twice, and of the same rows in another order."""
    examples = [Example(str(i), row) for i, row in enumerate(rows)]
    for order in (examples, examples, examples[::-1]):
        lines = "".join(json.dumps(dict(e.fields), sort_keys=True, default=str) + "\n" for e in order)
        assert fingerprint(order) == hashlib.sha256(lines.encode()).hexdigest()
