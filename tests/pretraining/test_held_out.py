"""A run is refused on a model that read its held-out rows, whatever corpus they were in and at whatever stage."""

import pytest

from adaptbench.data.fewshot import draw
from adaptbench.data.sources import load_task
from adaptbench.errors import InputError
from adaptbench.pretraining.corpora import Cells, Corpus, read_corpus
from adaptbench.pretraining.held_out import check_trained_on, digest, digests_read, row_digests
from adaptbench.pretraining.provenance import pretraining_of, stages
from adaptbench.schema import Config, PretrainRecipe
from tests.pretraining.conftest import TAPT, pretrained, provenance, sentences
from tests.pretraining.test_corpora import cell

TEXTS = sentences(40, seed=5)


def checked(path, config: Config, limit: int | None = None) -> None:
    task = load_task(config.dataset)
    check_trained_on(str(path), task, [draw(task, seed, config.shots) for seed in config.seeds], limit)


def refused(path, config: Config, limit: int | None = None) -> str:
    with pytest.raises(InputError) as raised:
        checked(path, config, limit)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def config(tmp_path) -> Config:
    return cell(tmp_path, TEXTS[:30], TEXTS[30:], development=5)


def corpus_of(config: Config) -> Corpus:
    return read_corpus(PretrainRecipe(kind="continued", lr=1.0, corpus=["toy"]), Cells(config, [config]))


def made(folder, corpus: Corpus, **said):
    """A folder that knows what a corpus is known by."""
    return pretrained(folder, corpus.digests, **said)


def test_runs_that_a_model_was_made_for_pass(tmp_path, config):
    folder = made(tmp_path / "model", corpus_of(config))
    checked(folder, config)
    config.seeds = [1]
    checked(folder, config)


@pytest.mark.parametrize("changes", [{"seeds": [7]}, {"shots": 10}, {"shots": "all"}])
def test_development_rows_of_other_seeds_and_shots_are_found(tmp_path, config, changes):
    made_for = [{"dataset": "toy", "seeds": [0, 1], "shots": 4, "development": 5}]
    folder = made(tmp_path / "model", corpus_of(config), made_for=made_for)
    for name, value in changes.items():
        setattr(config, name, value)
    said = refused(folder, config)
    assert "development rows of dataset 'toy'" in said
    assert "it was made for dataset=toy seeds=[0, 1] shots=4 development=5; make it again" in said
    config.dataset.development = None
    checked(folder, config)


def test_evaluated_rows_are_found_and_only_those_that_are_evaluated(tmp_path, config):
    folder = pretrained(tmp_path / "model", map(digest, [TEXTS[0], f"  {TEXTS[33]} ", TEXTS[35]]))
    assert "was pre-trained on 2 of the 10 evaluated rows of dataset 'toy'" in refused(folder, config)
    assert "recipes.<name>.leave_out=[toy]" in refused(folder, config)
    assert "1 of the 5 evaluated rows" in refused(folder, config, limit=5)
    checked(folder, config, limit=3)


def test_rows_are_found_in_other_words(tmp_path, config):
    folder = made(tmp_path / "model", corpus_of(config))
    config.dataset.templates = {"plain": {"text": "They said: {{text}}"}}
    checked(folder, config)
    config.seeds = [7]
    assert "development rows" in refused(folder, config)


def test_a_row_is_known_by_each_text_of_a_pair_its_longest_and_the_columns_that_were_read(tmp_path, config):
    config.dataset.templates = {"plain": {"text": "{{text}}!", "pair": "{{text}}?"}}
    task = load_task(config.dataset)
    row = task.evaluation[0]
    row.fields["title"] = "short"
    known = row_digests(task, row)
    for text in (f"{TEXTS[30]}!", f"{TEXTS[30]}?", f"{TEXTS[30]}! {TEXTS[30]}?", TEXTS[30]):
        assert digest(text) in known
    assert digest("short") not in known
    assert digest("short") in row_digests(task, row, ["title"])


def test_models_without_pre_training_pass(tmp_path, config):
    for path in ("microworld:micro_t0", "someone/some-model", "installed:nowhere", "a.gguf", str(tmp_path)):
        checked(path, config)


def test_hashes_that_were_changed_or_lost_are_named(tmp_path, config):
    folder = pretrained(tmp_path / "model", map(digest, TEXTS[:3]))
    (folder / "corpus.sha256").write_bytes((folder / "corpus.sha256").read_bytes()[:-17])
    assert "corpus.sha256: changed since the model was made" in refused(folder, config)
    (folder / "corpus.sha256").unlink()
    assert "corpus.sha256: cannot be read: No such file" in refused(folder, config)


def test_a_stage_knows_what_was_read_before_it_and_is_told_from_others(call, tmp_path, config):
    """The first on a file with an evaluated row, the second on rows of a task."""
    (tmp_path / "domain.txt").write_text("\n".join([*TEXTS[20:25], TEXTS[33]]))
    files = ["recipes.tapt.corpus=[]", "recipes.tapt.files=[domain.txt]", "recipes.tapt.epochs=1"]
    assert call(*files, "recipes.tapt.output=first") == 0
    assert call("recipes.tapt.epochs=1", start=tmp_path / "first") == 0
    before, said = pretraining_of(str(tmp_path / "first")), pretraining_of(str(TAPT))
    assert said["before"] == before
    assert [stage["sha256"] for stage in stages(said)] == [
        provenance(folder)["sha256"] for folder in (TAPT, tmp_path / "first")
    ]
    assert digests_read(str(TAPT), said) > digests_read(str(tmp_path / "first"), before)
    assert "1 of the 10 evaluated rows" in refused(TAPT, config)
    (tmp_path / "domain.txt").write_text("\n".join(TEXTS[20:26]))
    assert call(*files, "recipes.tapt.output=other") == 0
    other = pretraining_of(str(tmp_path / "other"))
    assert other["corpus"] == before["corpus"]
    assert {other["sha256"], other["corpus_sha256"]}.isdisjoint({before["sha256"], before["corpus_sha256"]})
