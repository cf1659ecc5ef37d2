"""Every token of a corpus is in one block, an epoch reads each block once, no judged text is in a task's corpus."""

import numpy as np
import pytest

from adaptbench.data.fewshot import draw
from adaptbench.data.sources import load_task
from adaptbench.data.tokenization import token_ids
from adaptbench.errors import InputError
from adaptbench.pretraining import corpora
from adaptbench.pretraining.corpora import Cells, Corpus, cut, file_corpus, hub_corpus, read_corpus, task_corpus
from adaptbench.schema import Config, DatasetConfig, PretrainRecipe
from tests.conftest import WORDS, bpe_tokenizer
from tests.models.bare import bert_tokenizer
from tests.pretraining.conftest import rows_file, sentences

TEXTS = [*sentences(30), "", "   "]


@pytest.fixture(scope="module")
def decoder_tokenizer():
    return bpe_tokenizer([WORDS] * 4, end_of_sequence=False)


def content(blocks) -> list[int]:
    """The tokens of all blocks in order, without the marks around each."""
    before, after = len(blocks.before), len(blocks.after)
    return [index for block in range(len(blocks)) for index in blocks[block][before : len(blocks[block]) - after]]


@pytest.mark.parametrize("length", [8, 13, 500])
def test_packed_blocks_of_an_encoder_hold_every_token_once_with_texts_separated(length):
    tokenizer = bert_tokenizer()
    blocks = cut(Corpus(("toy",), TEXTS), tokenizer, length, packed=True, causal=False)
    separator = [tokenizer.sep_token_id]
    texts = [list(ids) for ids in token_ids(tokenizer, TEXTS[:-2])]
    assert content(blocks) == [index for ids in texts for index in (*separator, *ids)][1:]
    assert all(len(blocks[block]) == length for block in range(len(blocks) - 1))
    assert len(blocks[len(blocks) - 1]) <= length
    for block in range(len(blocks)):
        assert blocks[block][0] == tokenizer.cls_token_id
        assert blocks[block][-1] == tokenizer.sep_token_id
        assert blocks.lengths[block] == len(blocks[block])


def test_a_text_a_block_where_it_fits_and_the_next_ones_where_it_does_not():
    tokenizer = bert_tokenizer()
    blocks = cut(Corpus(("toy",), TEXTS), tokenizer, 9, packed=False, causal=False)
    texts = [list(ids) for ids in token_ids(tokenizer, TEXTS[:-2])]
    assert content(blocks) == [index for ids in texts for index in ids]
    assert len(blocks) == sum(-(-len(ids) // 7) for ids in texts)
    assert max(blocks.lengths) == 9


@pytest.mark.parametrize("packed", [True, False])
def test_a_decoders_texts_end_with_its_mark(decoder_tokenizer, packed):
    blocks = cut(Corpus(("toy",), TEXTS), decoder_tokenizer, 10, packed=packed, causal=True)
    end = decoder_tokenizer.eos_token_id
    texts = [[*ids, end] for ids in token_ids(decoder_tokenizer, TEXTS[:-2])]
    assert content(blocks) == [index for ids in texts for index in ids]
    assert (blocks.before, blocks.after) == ((), ())
    if not packed:
        assert all(end not in blocks[block][:-1] for block in range(len(blocks)))


def test_control_tokens_in_a_text_stay_text():
    tokenizer = bert_tokenizer()
    blocks = cut(Corpus(("toy",), ["the [MASK] cat [SEP]"]), tokenizer, 64, packed=True, causal=False)
    assert not {tokenizer.mask_token_id, tokenizer.sep_token_id} & set(content(blocks))


def test_an_epoch_reads_every_block_once_each_in_an_order_of_its_own():
    blocks = cut(Corpus(("toy",), TEXTS), bert_tokenizer(), 32, packed=False, causal=False)
    steps = blocks.steps_of_an_epoch(8)
    assert steps == 4

    def epoch(number: int, seed: int = 3) -> list[tuple[int, ...]]:
        return [tuple(row) for step in range(steps) for row in blocks.batch(seed, number * steps + step, 8)]

    every = sorted(tuple(blocks[block]) for block in range(len(blocks)))
    assert sorted(epoch(0)) == sorted(epoch(1)) == every
    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)
    assert epoch(0) != epoch(0, seed=4)


def test_a_corpus_is_known_by_its_tokens_and_blocks():
    def sha(texts, length=16):
        return cut(Corpus(("toy",), texts), bert_tokenizer(), length, packed=True, causal=False).sha256

    assert sha(TEXTS) == sha(list(TEXTS))
    assert len({sha(TEXTS), sha(TEXTS[1:]), sha(TEXTS, 17)}) == 3


def cell(tmp_path, train: list[str], evaluation: list[str], **changes) -> Config:
    dataset = DatasetConfig(
        name="toy", source="files", task="classification", shots=4, labels={"bad": 0, "good": 1},
        train=str(rows_file(tmp_path / "a.jsonl", train)), evaluation=str(rows_file(tmp_path / "b.jsonl", evaluation)),
        templates={"plain": {"text": "{{text}}"}}, **changes,
    )  # fmt: skip
    return Config(dataset=dataset, seeds=[0, 1])


def read(*cells: Config, column: str | None = None, files: tuple[str, ...] = ()) -> Corpus:
    """Of the cells' training rows, or of files without the cells' held-out rows."""
    recipe = PretrainRecipe(kind="continued", lr=1.0, corpus=["toy"], column=column, files=list(files))
    return read_corpus(recipe, Cells(cells[0], (), cells) if files else Cells(cells[0], cells))


def test_a_tasks_corpus_is_its_training_rows_without_those_that_are_evaluated(tmp_path):
    texts = sentences(30)
    corpus = read(cell(tmp_path, texts[:20], [*texts[20:], texts[3], f" {texts[4]}  "]))
    assert corpus.texts == [*texts[:3], *texts[5:20]]
    assert corpus.left_out == [texts[3], texts[4]]
    assert len(corpus.rows) == len(corpus.texts)
    assert not set(corpus.texts) & set(texts[20:])


@pytest.mark.parametrize("shots", [6, "all"])
def test_no_development_row_of_any_seed_is_read(tmp_path, shots):
    texts = sentences(40)
    config = cell(tmp_path, texts[:30], texts[30:], development=5)
    config.shots = shots
    task = load_task(config.dataset)
    sets = [draw(task, seed, shots) for seed in config.seeds]
    held_out = {row.fields["text"] for few_shot in sets for row in few_shot.development}
    assert 5 <= len(held_out) <= 10
    assert read(config).texts == [text for text in texts[:30] if text not in held_out]


def test_development_rows_of_a_split_are_left_out(tmp_path):
    texts = sentences(40)
    split = rows_file(tmp_path / "c.jsonl", texts[28:32])
    config = cell(tmp_path, texts[:30], texts[32:], development=str(split))
    assert read(config).texts == texts[:28]


def test_several_data_sets_are_read_without_the_held_out_rows_of_any(tmp_path):
    """The held-out rows of each among the training rows of the other, of one of them in other words."""
    texts = sentences(30)
    for name in "ab":
        (tmp_path / name).mkdir()
    one = cell(tmp_path / "a", texts[:20], texts[25:28])
    other = cell(tmp_path / "b", [*texts[20:26], *texts[28:]], [texts[2], texts[28]])
    other.dataset.templates = {"plain": {"text": "It says: {{text}}"}}
    corpus = read(one, other)
    expected = [*texts[:2], *texts[3:20], *(f"It says: {text}" for text in [*texts[20:26], texts[29]])]
    assert corpus.texts == expected
    other.dataset.templates = one.dataset.templates
    assert read(one, other).texts == [*texts[:2], *texts[3:25], texts[29]]
    assert set(read(one, other).left_out) == {texts[2], texts[25], texts[28]}


def test_files_are_read_without_the_held_out_rows_of_the_data_sets_that_are_named(tmp_path):
    texts = sentences(20)
    (tmp_path / "domain.txt").write_text("\n".join(texts))
    corpus = read(cell(tmp_path, texts[:4], texts[8:12]), files=(str(tmp_path / "domain.txt"),))
    assert corpus.texts == [*texts[:8], *texts[12:]]


def test_development_rows_of_ready_made_draws_are_left_out_of_the_whole_training_set(tmp_path):
    texts = sentences(30)
    for seed in (0, 1):
        rows_file(tmp_path / f"{seed}_seed.jsonl", texts[10 * seed : 10 * seed + 6])
    config = cell(tmp_path, texts[:20], texts[20:], draws=str(tmp_path / "{seed}_seed.jsonl"), development=2)
    held_out = [*texts[4:6], *texts[14:16]]
    assert read(config).texts == [text for text in texts[:20] if text not in held_out]


def test_ready_made_draws_are_the_rows_where_there_is_no_training_set(tmp_path):
    texts = sentences(12)
    for seed, shown in enumerate((texts[:4], texts[2:6])):
        rows_file(tmp_path / f"{seed}_seed.jsonl", shown)
    config = cell(tmp_path, texts[:1], texts[6:], draws=str(tmp_path / "{seed}_seed.jsonl"))
    config.dataset.train = None
    assert read(config).texts == texts[:6]


def test_a_pair_is_one_text_and_a_column_can_be_asked_for(tmp_path):
    config = cell(tmp_path, ["a cat", "a dog"], ["it"])
    config.dataset.templates = {"plain": {"text": "{{text}} sat", "pair": "{{text}} ran"}}
    assert task_corpus(config).texts == ["a cat sat\na cat ran", "a dog sat\na dog ran"]
    assert task_corpus(config, "text").texts == ["a cat", "a dog"]
    with pytest.raises(InputError, match="no text column 'words'"):
        task_corpus(config, "words")
    with pytest.raises(InputError, match="'label' holds 0, expected a text"):
        task_corpus(config, "label")


def test_files_are_a_document_a_line_or_a_column(tmp_path):
    (tmp_path / "a1.txt").write_text("the cat\n\nthe dog\n")
    (tmp_path / "a2.txt").write_text("it is")
    (tmp_path / "b.csv").write_text("text,words\nred,blue\nlarge,small\n")
    rows_file(tmp_path / "c.jsonl", ["yes", "no"])
    corpus = file_corpus([str(tmp_path / "a*.txt"), str(tmp_path / "b.csv"), str(tmp_path / "c.jsonl[:1]")])
    assert [text for text in corpus.texts if text] == ["the cat", "the dog", "it is", "red", "large", "yes"]
    assert file_corpus([str(tmp_path / "b.csv")], "words").texts == ["blue", "small"]
    for name, column, says in (
        ("none.txt", None, "no such file"),
        ("b.csv", "title", "no text column 'title' \\(columns: text, words\\)"),
        ("c.jsonl", "id", "'id' holds 0"),
    ):
        with pytest.raises(InputError, match=says):
            file_corpus([str(tmp_path / name)], column)


def test_a_data_set_of_the_hub_is_read_from_a_column(monkeypatch):
    asked = []

    def rows(config, split):
        asked.append((config.path, config.subset, split))
        return [{"abstract": "the cat", "text": "it"}, {"abstract": None, "text": "a dog"}]

    monkeypatch.setattr(corpora, "hub_rows", rows)
    assert hub_corpus("some/papers", "biology", "train", "abstract").texts == ["the cat", ""]
    assert hub_corpus("some/papers", None, "test").texts == ["it", "a dog"]
    assert asked == [("some/papers", "biology", "train"), ("some/papers", None, "test")]
    with pytest.raises(InputError, match="some/papers:train, row 0: no text column 'title'"):
        hub_corpus("some/papers", None, "train", "title")


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_an_empty_corpus_is_refused(texts):
    with pytest.raises(InputError, match="the corpus is empty"):
        cut(Corpus(("toy",), texts), bert_tokenizer(), 16, packed=True, causal=False)
    with pytest.raises(InputError, match="length=2: no room"):
        cut(Corpus(("toy",), TEXTS), bert_tokenizer(), 2, packed=True, causal=False)
    assert np.array_equal(cut(Corpus(("toy",), ["a"]), bert_tokenizer(), 3, True, False).lengths, [3])
