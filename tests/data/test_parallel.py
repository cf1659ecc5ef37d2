"""Pairs of sentences become tasks whatever files hold them, and every way they can be wrong is one clear line."""

import gzip
import tarfile

import pytest

from adaptbench.data.sources import load_task
from adaptbench.errors import InputError
from adaptbench.schema import DatasetConfig, ParallelConfig

PAIRS = [("ein Hund", "a dog"), ("zwei \u2028Katzen", 'two "cats"'), ("drei", "three"), ("vier Vögel", "four birds")]
HELD = [("fünf", "five"), ("sechs", "six")]
LANGUAGES = {"source": "de", "target": "en"}


def lines(folder, name, pairs=PAIRS, compress=False):
    """Two files of a sentence a line; returns the path with {lang} in it."""
    for side, language in enumerate(("de", "en")):
        content = "".join(f"{pair[side]}\n" for pair in pairs).encode()
        path = folder / f"{name}.{language}{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(content) if compress else content)
    return str(folder / f"{name}.{{lang}}{'.gz' if compress else ''}")


def config(folder, train=None, evaluation=None, **changes):
    known = {
        "name": "mine",
        "source": "parallel",
        "task": "generation",
        "train": train or lines(folder, "train"),
        "evaluation": evaluation or lines(folder, "test", HELD),
        "shots": "all",
        "parallel": ParallelConfig(**LANGUAGES),
        "templates": {"plain": {"jinja": "{{source}}"}},
    }
    return DatasetConfig(**{**known, **changes})


def pairs_of(rows):
    return [(row.fields["source"], *row.fields["references"]) for row in rows]


def archive(folder):
    lines(folder, "inside")
    with tarfile.open(folder / "sets.tgz", "w:gz") as tar:
        for language in ("de", "en"):
            tar.add(folder / f"inside.{language}", f"sets/inside.{language}")
    return str(folder / "sets.tgz!inside.{lang}")


def tsv(folder, header="en\tname\tde\n"):
    rows = (f"{other}\tx\t{one}\n" if header else f"{one}\t{other}\n" for one, other in PAIRS)
    (folder / "pairs.tsv").write_text(header + "".join(rows), encoding="utf-8")
    return str(folder / "pairs.tsv")


def tmx(folder):
    def variant(language, text):
        return f'<tuv xml:lang="{language}"><seg>{text}</seg></tuv>'

    units = [f"<tu>{variant('de-AT', one)}{variant('EN', other)}</tu>" for one, other in PAIRS]
    units.insert(1, f"<tu>{variant('fr', 'un')}{variant('en', 'one')}</tu>")
    (folder / "memory.tmx").write_text(f"<tmx><body>{''.join(units)}</body></tmx>", encoding="utf-8")
    return str(folder / "memory.tmx")


@pytest.mark.parametrize(
    "written",
    [
        lambda folder: lines(folder, "plain"),
        lambda folder: lines(folder, "packed", compress=True),
        archive,
        tsv,
        lambda folder: tsv(folder, header=""),
    ],
    ids=["plain", "gz", "tgz", "tsv", "tsv without header"],
)
def test_pairs_are_the_same_from_every_kind_of_file(tmp_path, written):
    task = load_task(config(tmp_path, written(tmp_path)))
    assert pairs_of(task.train) == PAIRS
    assert pairs_of(task.evaluation) == HELD
    assert [row.uid for row in task.train] == ["0", "1", "2", "3"]


def test_a_translation_memory_gives_its_units_that_have_both_languages(tmp_path):
    task = load_task(config(tmp_path, tmx(tmp_path)))
    assert pairs_of(task.train) == [(" ".join(one.split()), other) for one, other in PAIRS]


def test_the_other_direction_is_the_other_way_round(tmp_path):
    turned = load_task(config(tmp_path, parallel=ParallelConfig("en", "de")))
    assert pairs_of(turned.train) == [(other, one) for one, other in PAIRS]


def test_tokens_become_text_with_their_escapes_undone(tmp_path):
    tokens = [("Ich sage &quot; nein &quot; , ja ?", "I don &apos;t say &quot; no &quot; , do I ?")]
    given = config(tmp_path, lines(tmp_path, "tokens", tokens), parallel=ParallelConfig(**LANGUAGES, tokenized=True))
    assert pairs_of(load_task(given).train) == [('Ich sage "nein", ja?', 'I don\'t say "no", do I?')]


def test_languages_without_blanks_and_with_apostrophes_inside_words_are_put_together(tmp_path):
    (tmp_path / "a.ja").write_text("私 は テニス 部員 で す 。\n", encoding="utf-8")
    (tmp_path / "a.be").write_text("сям &apos;я ў доме .\n", encoding="utf-8")
    given = config(tmp_path, str(tmp_path / "a.{lang}"), str(tmp_path / "a.{lang}"), skip_bad_rows=True)
    given.parallel = ParallelConfig("ja", "be", tokenized=True)
    assert pairs_of(load_task(given).evaluation) == [("私はテニス部員です。", "сям'я ў доме.")]


def test_what_is_left_out_of_training_is_counted(tmp_path):
    train = [*PAIRS, ("fünf", "cinq"), ("5", "Five "), ("s", "very long for one letter"), ("x" * 80, "x" * 90)]
    given = config(tmp_path, lines(tmp_path, "noisy", train), parallel=ParallelConfig(**LANGUAGES, longest=85, ratio=5))
    task = load_task(given)
    assert pairs_of(task.train) == PAIRS
    assert dict(task.dropped) == {
        "a sentence of the evaluated or development pairs": 2,
        "one side more than 5 times as long as the other": 1,
        "longer than 85 characters": 1,
    }
    unfiltered = load_task(config(tmp_path, lines(tmp_path, "noisy", train)))
    assert len(unfiltered.train) == len(train) - 2, "without a filter only known sentences go"


def test_development_sentences_are_no_training_rows_either(tmp_path):
    development = lines(tmp_path, "dev", PAIRS[:1])
    task = load_task(config(tmp_path, development=development))
    assert pairs_of(task.development) == PAIRS[:1]
    assert pairs_of(task.train) == PAIRS[1:]


def test_an_empty_side_is_one_line_or_left_out_and_named(tmp_path):
    train = lines(tmp_path, "gap", [PAIRS[0], ("etwas", " "), PAIRS[2]])
    with pytest.raises(InputError, match=r"gap\.\{lang\}, line 2: the en side is empty \(dataset\.skip_bad_rows"):
        load_task(config(tmp_path, train))
    task = load_task(config(tmp_path, train, skip_bad_rows=True))
    assert pairs_of(task.train) == [PAIRS[0], PAIRS[2]]
    assert len(task.skipped) == 1
    assert "line 2: the en side is empty" in task.skipped[0]


def unaligned(folder):
    lines(folder, "uneven")
    (folder / "uneven.en").write_text("a dog\n", encoding="utf-8")
    return str(folder / "uneven.{lang}")


def latin(folder):
    lines(folder, "latin")
    (folder / "latin.de").write_bytes("eins\nzwei Vögel\n".encode("latin-1"))
    return str(folder / "latin.{lang}")


def cut_short(folder):
    path = lines(folder, "short", compress=True)
    content = (folder / "short.de.gz").read_bytes()
    (folder / "short.de.gz").write_bytes(content[: len(content) // 2])
    return path


def other_languages(folder):
    tmx(folder)
    (folder / "memory.tmx").write_text((folder / "memory.tmx").read_text().replace("de-AT", "sv"), encoding="utf-8")
    return str(folder / "memory.tmx")


def narrow(folder):
    (folder / "narrow.tsv").write_text("ein Hund\ta dog\nzwei\n", encoding="utf-8")
    return str(folder / "narrow.tsv")


def no_xml(folder):
    (folder / "broken.tmx").write_text("<tmx><body>", encoding="utf-8")
    return str(folder / "broken.tmx")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (unaligned, "4 lines of de and 1 of en, expected files that are aligned line by line"),
        (latin, r"latin\.de is not UTF-8 \(byte 11, line 2\)"),
        (cut_short, "cannot read .*short.de.gz"),
        (lambda folder: str(folder / "nowhere.{lang}"), r"no such file: .*nowhere\.de"),
        (lambda folder: archive(folder).replace("inside", "outside"), r"no file 'outside\.de' in it"),
        (lambda folder: str(folder / "pairs.txt"), r"expected \{lang\} in the path, a \.tsv or a \.tmx file"),
        (other_languages, r"no unit in both de and en \(languages: en, fr, sv\)"),
        (narrow, r"line 2: 1 column\(s\), expected de and en"),
        (no_xml, "broken.tmx: not XML"),
    ],
)
def test_files_that_are_wrong_are_one_line(tmp_path, written, message):
    with pytest.raises(InputError, match=message) as raised:
        load_task(config(tmp_path, written(tmp_path)))
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("dataset 'mine': ")


@pytest.mark.parametrize("languages", [{}, {"source": "de"}, {"source": "de", "target": "de"}])
def test_two_languages_have_to_be_named(tmp_path, languages):
    with pytest.raises(InputError, match=r"dataset\.parallel: expected two languages as the files call them"):
        load_task(config(tmp_path, parallel=ParallelConfig(**languages)))


def test_where_files_are_missing_the_data_set_says_how_to_get_them(tmp_path):
    given = config(tmp_path, str(tmp_path / "gone.{lang}"), fetch="fetch them so")
    with pytest.raises(InputError, match="fetch them so"):
        load_task(given)
