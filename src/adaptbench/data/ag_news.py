"""AG News as text: its own file keeps title and description apart, and marks of its web pages in both.

An ampersand has become a blank there ("world #39;s", " quot;"), and a line end a backslash.
"""

import html
import re
from typing import Any

ENTITY = re.compile(r"[ &](#\d+|quot|amp|lt|gt|nbsp);")
TAG = re.compile(r"</?[A-Za-z][^<>]*>")


def clean(text: str) -> str:
    """Entities as the characters they stand for, no tags, one line."""
    text = html.unescape(ENTITY.sub(r"&\1;", html.unescape(text)))
    return " ".join(TAG.sub(" ", text.replace("\\", " ")).split())


def article(row: dict[str, Any]) -> dict[str, Any]:
    """A row with title and description as one text, as the hub has it, and that text cleaned."""
    text = row["text"] if "text" in row else f"{row['Title']} {row['Description']}"
    return {**{key: value for key, value in row.items() if key not in ("Title", "Description")}, "text": clean(text)}
