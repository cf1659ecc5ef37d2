"""SQuAD's own JSON (and XQuAD's, MLQA's): articles of paragraphs of questions, as flat rows like the hub's."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptbench.errors import RowError


def squad_rows(content: Any, path: Path | str) -> Iterator[dict[str, Any]]:
    """Rows `id, title, context, question, answers`; `answers` holds the lists `text` and `answer_start`.

    A question without an answer (SQuAD 2.0) has two empty lists.

    Args:
        content: what the file holds, parsed.
        path: the file, for messages.

    Raises:
        RowError: another layout, a question twice, or an answer that is not where it says.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("data"), list):
        raise RowError(str(path), 'expected {"data": [{"paragraphs": [...]}, ...]}, as SQuAD has it', skippable=False)
    seen: set[str] = set()
    for article_index, article in enumerate(content["data"]):
        where = f"{path}, article {article_index}"
        for paragraph in _part(article, "paragraphs", list, where):
            context = _part(paragraph, "context", str, where)
            for question in _part(paragraph, "qas", list, where):
                row = _row(question, context, where)
                if row["id"] in seen:
                    raise RowError(f"{where}, question {row['id']!r}", "the same id twice")
                seen.add(row["id"])
                yield {"title": str(article.get("title", "")), **row}


def _row(question: Any, context: str, where: str) -> dict[str, Any]:
    uid = _part(question, "id", str, where)
    where = f"{where}, question {uid!r}"
    answers: dict[str, list] = {"text": [], "answer_start": []}
    for answer in _part(question, "answers", list, where):
        text, start = _part(answer, "text", str, where), _part(answer, "answer_start", int, where)
        check_answer(context, text, start, where)
        answers["text"].append(text)
        answers["answer_start"].append(start)
    return {"id": uid, "context": context, "question": _part(question, "question", str, where), "answers": answers}


def check_answer(context: str, text: str, start: int, where: str) -> None:
    """Refuse an answer that is no piece of the context at this character.

    Raises:
        RowError: says what is there.
    """
    if not text.strip():
        raise RowError(where, "an answer without text")
    if start < 0 or context[start : start + len(text)] != text:
        raise RowError(
            where, f"the answer {text!r} is not at character {start} of the context: {context[max(0, start) :][:40]!r}"
        )


def _part(value: Any, name: str, kind: type, where: str) -> Any:
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise RowError(where, f"{name!r} is {found!r:.40}, expected {kind.__name__}")
    return found
