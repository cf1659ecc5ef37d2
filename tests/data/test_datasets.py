"""Every dataset of conf/dataset: what its files hold, and that every row reads in every template."""

import json

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from adaptbench.config import register_schemas, resolve
from adaptbench.data.fewshot import draw
from adaptbench.data.promptsource import load_promptsource
from adaptbench.data.sources import load_task
from adaptbench.data.templates import NotApplicable
from adaptbench.errors import InputError
from tests.data.conftest import CONF, configuration

SEEDS = (0, 1, 32, 42, 1024)
# name: (few-shot folder, shots, evaluation rows, training rows of the hub's split, in whose order `idx` counts)
PAPER = {
    "rte": ("rte/32_shot", 32, 277, 2490),
    "cb": ("cb/32_shot", 32, 56, 250),
    "copa": ("copa/32_shot", 32, 100, 400),
    "wic": ("wic/32_shot", 32, 638, 5428),
    "wsc": ("wsc/32_shot", 32, 104, 554),
    "hellaswag": ("h-swag/20_shot", 20, 10_042, 39_905),
    "winogrande": ("winogrande/50_shot", 50, 1267, 40_398),
    "anli_r1": ("anli-r1/50_shot", 50, 1000, 16_946),
    "anli_r2": ("anli-r2/50_shot", 50, 1000, 45_460),
    "anli_r3": ("anli-r3/50_shot", 50, 1198, 100_459),
    "boolq": ("boolq/32_shot", 32, 3270, 9427),
}
SIZES = {name: size for name, (_, _, size, _) in PAPER.items()} | {"sst2": 872}
RAFT = {
    "ade_corpus_v2": 5000, "banking_77": 5000, "neurips_impact_statement_risks": 150, "one_stop_english": 518,
    "overruling": 2350, "semiconductor_org_types": 449, "systematic_review_inclusion": 2244,
    "tai_safety_research": 1639, "terms_of_service": 5000, "tweet_eval_hate": 2966, "twitter_complaints": 3399,
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_the_official_validation_set_and_draws(tasks, name):
    task = tasks(name)
    assert len(task.evaluation) == SIZES[name]
    assert set(SEEDS) <= set(task.draws)
    labels = {example.label for example in task.evaluation}
    for seed in SEEDS:
        few_shot = draw(task, seed)
        assert len(few_shot.examples) == task.shots
        assert {example.label for example in few_shot.examples} <= labels == set(range(len(labels)))


@pytest.mark.parametrize(("round_", "rows"), [(1, 1000), (2, 1000), (3, 1200)])
def test_anli_is_evaluated_on_its_test_sets(tmp_path, round_, rows):
    """As the paper's code does; the files are those of the authors' archive."""
    folder = tmp_path / f"anli/anli_v1.0/R{round_}"
    folder.mkdir(parents=True)
    row = {"uid": "", "context": "A cat sat.", "hypothesis": "It sat.", "label": "e"}
    lines = [json.dumps({**row, "uid": f"{i}", "label": "enc"[i % 3]}) for i in range(rows)]
    (folder / "test.jsonl").write_text("\n".join(lines))
    draws = tmp_path / f"few_shot/anli-r{round_}/50_shot"
    draws.mkdir(parents=True)
    (draws / "0_seed.jsonl").write_text("\n".join(lines[:50]))
    task = load_task(configuration(f"anli_r{round_}", f"dataset.folder={tmp_path}"))
    assert (len(task.evaluation), task.evaluation_split) == (rows, f"test_r{round_}")
    assert [example.label for example in task.evaluation[:4]] == [0, 1, 2, 0]


def test_a_development_set_in_place_of_a_test_set_is_called_so(tasks):
    assert tasks("anli_r3").evaluation_split == "dev_r3 in place of test_r3"
    assert tasks("rte").evaluation_split == "validation"


def test_without_stand_in_the_missing_test_set_is_named(tmp_path):
    with pytest.raises(InputError, match=r"anli_r1.*hub"):
        load_task(configuration("anli_r1", f"dataset.folder={tmp_path}", "dataset.draws=null"))


def test_copa_draws_from_the_templates_of_the_released_reader(real_data):
    """It takes the first eight of the sorted original ones; the four that ask cause or effect alone come after them."""
    copa = configuration("copa", f"dataset.folder={real_data}", "dataset.prompts=promptsource")
    names = [template.name for template in load_task(copa).templates]
    path = real_data / "promptsource/super_glue/copa/templates.yaml"
    every = sorted(template.name for template in load_promptsource(path, "copa"))
    assert sorted(names) == every[:8]
    assert {name[0] for name in every[8:]} == {"…"}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_draws_are_our_draws_from_the_hubs_training_split(tasks, name):
    """Row numbers say it without the training files: whoever has the hub and no draws gets the same few-shot sets."""
    _, shots, _, rows = PAPER[name]
    for seed in SEEDS:
        order = np.arange(rows)
        np.random.RandomState(seed).shuffle(order)
        key = "ind" if name == "hellaswag" else "idx"
        own = [example.fields.get("idx", example.fields.get(key)) for example in draw(tasks(name), seed).examples]
        assert own == order[:shots].tolist()


@pytest.mark.parametrize("name", ["rte", "cb", "wsc"])
@pytest.mark.parametrize("seed", SEEDS)
def test_without_the_draws_the_training_file_gives_the_same_rows(tasks, real_data, name, seed):
    task = load_task(configuration(name, f"dataset.folder={real_data}", "dataset.draws=null"))
    own, official = draw(task, seed).examples, draw(tasks(name), seed).examples
    columns = set(official[0].fields) & set(own[0].fields)
    if name == "wsc":  # the draws are of wsc.fixed, which mends the spelling of some spans
        columns = {"idx", "label", "text", "span2_index"}
    assert len(columns) >= 4
    assert [{c: e.fields[c] for c in columns} for e in own] == [{c: e.fields[c] for c in columns} for e in official]


@pytest.mark.parametrize("name", [*SIZES, *(f"raft_{name}" for name in RAFT)])
def test_every_row_reads_in_every_template_of_our_own(tasks, name):
    task = tasks(name)
    assert len(task.templates) >= (2 if name in ("hellaswag", "winogrande") else 3)
    rows = [*task.evaluation, *(example for seed in task.draws for example in task.draws[seed]), *task.train[:50]]
    for template in task.templates:
        for example in rows[:: 1 + len(rows) // 2000]:
            template.render(example.uid, example.fields)


@pytest.mark.parametrize("name", SIZES)
def test_every_row_reads_in_every_template_of_promptsource(real_data, name):
    """Templates for the original task are scored; the others (another task, free text) must render."""
    config = configuration(name, f"dataset.folder={real_data}", "dataset.prompts=promptsource")
    task = load_task(config)
    path = real_data / str(config.promptsource)
    every = load_promptsource(path, name, original_only=False, free_text=True)
    if name == "hellaswag":  # the cleaned validation file does not keep ctx_a and ctx_b apart
        every = [template for template in every if "ctx_a" not in template.jinja]
    scored = {template.name for template in task.templates}
    assert len(scored) >= (3 if name == "hellaswag" else 4)
    rows = [*task.evaluation, *(example for seed in task.draws for example in task.draws[seed])]
    meant = set()
    for template in every:
        read = template.render if template.name in scored else template.parts
        for example in rows:
            try:
                read(example.uid, example.fields)
            except NotApplicable:
                assert name == "copa"  # half of its templates are for causes, half for effects
                continue
            if template.name in scored:
                meant.add(example.uid)
    assert meant == {example.uid for example in rows}


@pytest.mark.parametrize("name", RAFT)
def test_raft_has_fifty_labelled_rows_and_a_test_set_without_labels(tasks, name):
    task = tasks(f"raft_{name}")
    assert (len(task.train), task.shots, len(task.evaluation)) == (50, 50, RAFT[name])
    assert {example.label for example in task.evaluation} == {-1}
    assert [int(example.uid) for example in task.evaluation] == list(range(50, 50 + RAFT[name]))
    prompt = task.templates[0].render("50", task.evaluation[0].fields)
    assert len(prompt.choices) == len(task.templates[0].label_names)
    if name == "banking_77":
        assert len(prompt.choices) == 77
        assert all(choice in prompt.input for choice in prompt.choices)
        config = configuration(f"raft_{name}")
        assert config.without_losses == ["unlikelihood"]


def test_a_missing_copy_says_what_to_type(tmp_path, monkeypatch):
    import sys
    import types

    from adaptbench.errors import InputError

    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InputError) as caught:
        load_task(configuration("rte", f"dataset.folder={tmp_path}"))
    command = """python -c "from datasets import load_dataset; load_dataset('aps/super_glue', 'rte')\""""
    assert command in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"rochester.edu"):
        load_task(configuration("storycloze", f"dataset.folder={tmp_path}"))


@pytest.mark.parametrize("prompts", ["own", "promptsource"])
def test_storycloze_reads_its_licensed_files(tmp_path, real_data, prompts):
    """The files cannot be here; two rows in their columns can."""
    columns = ["InputStoryid", *(f"InputSentence{i}" for i in range(1, 5)), "RandomFifthSentenceQuiz1"]
    header = ",".join([*columns, "RandomFifthSentenceQuiz2", "AnswerRightEnding"])
    rows = [f"id{i},One.,Two.,Three.,Four.,Good end {i}.,Bad end {i}.,{1 + i % 2}" for i in range(2)]
    for kind in ("val", "test"):
        path = tmp_path / "story_cloze" / f"cloze_test_{kind}__spring2016.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([header, *rows]) + "\n")
    file = real_data / "promptsource/story_cloze/2016/templates.yaml"
    given = (f"dataset.folder={tmp_path}", f"dataset.prompts={prompts}", f"dataset.promptsource={file}")
    task = load_task(configuration("storycloze", *given))
    assert task.shots == 70
    assert [example.label for example in task.evaluation] == [0, 1]
    assert len(task.templates) >= 3
    for template in task.templates:
        for example in task.evaluation:
            prompt = template.render(example.uid, example.fields)
            assert prompt.choices[prompt.label].startswith(("Good end 0", "Bad end 1"))


def test_zero_shot_needs_no_training_rows(tmp_path):
    from adaptbench.cell import prepare_cell

    (tmp_path / "e.csv").write_text("text,label\na,no\nb,yes\n")
    register_schemas()
    GlobalHydra.instance().clear()
    given = ["dataset=files", f"dataset.evaluation={tmp_path}/e.csv", "+dataset.labels={no: 0, yes: 1}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cell = prepare_cell(resolve(compose("config", ["method=zero_shot", *given])))
        assert len(cell.prompts) == 2
        with pytest.raises(InputError, match="only 0 training rows"):
            prepare_cell(resolve(compose("config", ["method=ia3", *given])))
