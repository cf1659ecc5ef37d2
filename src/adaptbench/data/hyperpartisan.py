"""Hyperpartisan news (Kiesel et al. 2019): articles in one XML file, their labels in another one beside it.

The files are read as they stream past: those of the corpus labelled by publisher have gigabytes.
"""

from pathlib import Path
from typing import Any
from xml.parsers import expat

from adaptbench.errors import InputError

ARTICLES, LABELS = "articles-", "ground-truth-"  # how the names of the two files begin
BLOCKS = ("article", "p")  # elements that end a line; links stand inside words


def hyperpartisan_rows(file: Path) -> list[dict[str, str]]:
    """Rows `uid, text, label`: title and text as one, in one line, and `true` or `false`.

    Raises:
        InputError: a file that is missing or no such XML, an article twice or without a label.
    """
    if not file.name.startswith(ARTICLES):
        raise InputError(f": expected {ARTICLES}<name>.xml, with {LABELS}<name>.xml beside it")
    beside = file.with_name(LABELS + file.name.removeprefix(ARTICLES))
    if not beside.is_file():
        raise InputError(f": there is no {beside.name} beside it")
    labels = {_named(attributes, "id", beside): attributes for attributes, _ in _articles(beside)}
    rows: dict[str, dict[str, str]] = {}
    for attributes, text in _articles(file):
        uid = _named(attributes, "id", file)
        if uid in rows or uid not in labels:
            raise InputError(f": article {uid!r} {'stands twice' if uid in rows else f'is not in {beside.name}'}")
        words = f"{attributes.get('title', '')} {text}".split()
        rows[uid] = {"uid": uid, "text": " ".join(words), "label": _named(labels[uid], "hyperpartisan", beside)}
    return list(rows.values())


def _articles(file: Path) -> list[tuple[dict[str, str], str]]:
    """Attributes and text of every <article>.

    Raises:
        InputError: no XML, or one that declares a document type: entities of its own could grow without end.
    """
    found: list[tuple[dict[str, str], list[str]]] = []
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "article":
            found.append((attributes, []))

    def text(content: str) -> None:
        if found:
            found[-1][1].append(content)

    def end(name: str) -> None:
        if name in BLOCKS:
            text("\n")

    def refuse(*_: Any) -> None:
        line = parser.CurrentLineNumber
        raise InputError(f": {file.name}, line {line}: a document type is declared (<!DOCTYPE): expected none")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        with file.open("rb") as content:
            parser.ParseFile(content)
    except expat.ExpatError as error:
        raise InputError(f": {file.name} is no XML that can be read: {error}") from error
    return [(attributes, "".join(pieces)) for attributes, pieces in found]


def _named(attributes: dict[str, str], name: str, file: Path) -> str:
    if name not in attributes:
        raise InputError(f": {file.name}: an <article> without {name!r} (it has {', '.join(attributes) or 'nothing'})")
    return attributes[name]
