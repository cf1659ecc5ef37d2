"""Parallel text: sentences and their translations, as rows with `source` and `references` (`dataset.source=parallel`).

train.{lang}.gz                      two files with a sentence a line, aligned by line
sets.tgz!wikipedia.test.ne-en.{lang} two members of an archive
pairs.tsv                            two columns, under a header with the languages' names or in their order
memory.tmx                           translation units
"""

import csv
import gzip
import html
import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from adaptbench.data.example import Example
from adaptbench.data.readers import Malformed, Row
from adaptbench.errors import InputError
from adaptbench.schema import ParallelConfig

PLACE = "{lang}"
ARCHIVES = (".tgz", ".tar.gz", ".tar")
APOSTROPHE = ("be", "uk")  # languages in which it is a letter: Moses has cut words there
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"  # the attribute xml:lang
Pair = tuple[str, str]


def parallel_rows(path: Path, config: ParallelConfig, dataset: str) -> list[Row | Malformed]:
    """Pairs of sentences in the order of the file: rows with `source` and `references`.

    A pair of which one side is empty is malformed.

    Args:
        path: with `{lang}` in it where each language has a file of its own.

    Raises:
        InputError: no such file, one that cannot be read, or two that are not aligned.
    """
    languages = (config.source, config.target)
    if None in languages or config.source == config.target:
        raise InputError(
            f"dataset {dataset!r}: dataset.parallel: expected two languages as the files call them "
            "({source: de, target: en})"
        )
    source, target = (str(language) for language in languages)
    try:
        pairs = _pairs(path, source, target, config.tokenized)
    except InputError as error:
        raise InputError(f"dataset {dataset!r}: {error}") from error
    return [_row(pair, (source, target), number) for number, pair in enumerate(pairs, start=1)]


def files_of(path: Path, config: ParallelConfig) -> list[Path]:
    """The files that have to be there for a path to be read."""
    sides = [str(path).replace(PLACE, str(language)) for language in (config.source, config.target)]
    return [Path(_archive(side)[0]) for side in dict.fromkeys(sides)]


def _row(pair: Pair, languages: Sequence[str], number: int) -> Row | Malformed:
    for text, language in zip(pair, languages, strict=True):
        if not text.strip():
            return Malformed(f"line {number}", f"the {language} side is empty")
    return {"source": pair[0], "references": pair[1]}


@lru_cache(maxsize=8)  # cells of a sweep read the same files
def _pairs(path: Path, source: str, target: str, tokenized: bool) -> list[Pair]:
    pairs = _read(path, source, target)
    if not tokenized:
        return pairs
    into_text = [_detokenizer(language) for language in (source, target)]
    return [(into_text[0](one), into_text[1](other)) for one, other in pairs]


def _read(path: Path, source: str, target: str) -> list[Pair]:
    if PLACE in str(path):
        sides = [_lines(Path(str(path).replace(PLACE, language))) for language in (source, target)]
        if len(sides[0]) != len(sides[1]):
            raise InputError(
                f"{path}: {len(sides[0]):,} lines of {source} and {len(sides[1]):,} of {target}, expected files that "
                "are aligned line by line"
            )
        return list(zip(*sides, strict=True))
    name = path.name.removesuffix(".gz")
    if name.endswith(".tsv"):
        return list(_columns(_lines(path), source, target, path))
    if name.endswith(".tmx"):
        return list(_units(_content(path), source, target, path))
    raise InputError(f"{path}: expected {PLACE} in the path, a .tsv or a .tmx file")


def _lines(path: Path) -> list[str]:
    content = _content(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path} is not UTF-8 (byte {error.start}, line {line})") from error
    lines = text.split("\n")  # not splitlines(): its other separators stand inside sentences
    return [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def _content(path: Path) -> bytes:
    """The bytes of a file, compressed or not, or of a member of an archive (`archive.tgz!member`)."""
    archive, member = _archive(str(path))
    if not Path(archive).is_file():
        raise InputError(f"no such file: {archive}")
    try:
        if not member:
            content = path.read_bytes()
            return gzip.decompress(content) if path.suffix == ".gz" else content
        with tarfile.open(archive) as tar:
            named = [name for name in tar.getnames() if name == member or name.endswith(f"/{member}")]
            file = tar.extractfile(named[0]) if len(named) == 1 else None
            if file is None:
                raise InputError(f"{archive}: {'no' if not named else 'more than one'} file {member!r} in it")
            return file.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error


def _archive(path: str) -> tuple[str, str]:
    """An archive and the member that the path names; the path itself and nothing where it names no archive."""
    archive, found, member = path.partition("!")
    return (archive, member) if found and archive.endswith(ARCHIVES) else (path, "")


def _columns(lines: Sequence[str], source: str, target: str, path: Path) -> Iterator[Pair]:
    """The two columns of a TSV file; a quotation mark is a character like any other."""
    reader = csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    places = (0, 1)
    for number, cells in enumerate(reader, start=1):
        if number == 1 and source in cells and target in cells:
            places = (cells.index(source), cells.index(target))
        elif len(cells) > max(places):
            yield cells[places[0]], cells[places[1]]
        elif cells:
            raise InputError(f"{path}, line {number}: {len(cells)} column(s), expected {source} and {target}")


def _units(content: bytes, source: str, target: str, path: Path) -> Iterator[Pair]:
    """The translation units of a TMX file that have both languages; `en` also stands for en-GB."""
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: not XML: {error}") from error
    found: Counter[str] = Counter()
    units = 0
    for unit in root.iter("tu"):
        texts: dict[str, str] = {}
        for variant in unit.iter("tuv"):
            language = (variant.get(LANGUAGE) or variant.get("lang") or "").lower()
            segment = variant.find("seg")
            text = "" if segment is None else "".join(segment.itertext())
            for name in {language, language.partition("-")[0]}:
                texts.setdefault(name, " ".join(text.split()))
            found[language] += 1
        if source.lower() in texts and target.lower() in texts:
            units += 1
            yield texts[source.lower()], texts[target.lower()]
    if not units:
        known = ", ".join(sorted(found)) or "none"
        raise InputError(f"{path}: no unit in both {source} and {target} (languages: {known})")


def _detokenizer(language: str) -> Callable[[str], str]:
    """A function from Moses' tokens, joined by blanks and with its escapes, to text."""
    try:
        from sacremoses import MosesDetokenizer
    except ImportError as error:
        raise InputError(
            "dataset.parallel.tokenized needs sacremoses: pip install 'adaptbench[translation]'"
        ) from error
    detokenizer = MosesDetokenizer(lang=language)

    def text(line: str) -> str:
        joined = detokenizer.detokenize(html.unescape(line).split(), unescape=False)
        return re.sub(r"(?<=\w) (?='\w)", "", joined) if language in APOSTROPHE else joined

    return text


def cleaned(
    config: ParallelConfig, train: Sequence[Example], held: Sequence[Example]
) -> tuple[list[Example], dict[str, int]]:
    """Training pairs that are worth training on, and how many were left out for which reason.

    Args:
        held: evaluation and development pairs: a training pair with a sentence of theirs, on either side, is left out.
    """
    sentences = [{_plain(text) for example in held for text in _side(example, side)} for side in (0, 1)]
    kept: list[Example] = []
    dropped: Counter[str] = Counter()
    for example in train:
        if reason := _fault(config, example.fields) or _known(sentences, example):
            dropped[reason] += 1
        else:
            kept.append(example)
    return kept, dict(dropped)


def _fault(config: ParallelConfig, fields: Mapping[str, Any]) -> str | None:
    lengths = sorted((len(fields["source"]), len(fields["references"][0])))
    if config.longest is not None and lengths[1] > config.longest:
        return f"longer than {config.longest} characters"
    if config.ratio is not None and lengths[1] > config.ratio * lengths[0]:
        return f"one side more than {config.ratio:g} times as long as the other"
    return None


def _known(sentences: Sequence[set[str]], example: Example) -> str | None:
    for side, held in enumerate(sentences):
        if any(_plain(text) in held for text in _side(example, side)):
            return "a sentence of the evaluated or development pairs"
    return None


def _side(example: Example, side: int) -> Sequence[str]:
    return example.fields["references"] if side else [example.fields["source"]]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
