"""HellaSwag's text: half of it comes from WikiHow with its markup, and its validation set circulates without.

The same cleaning everywhere makes hub, local files and few-shot draws read alike.
"""

import re
from typing import Any

from adaptbench.errors import InputError

LINES = 6  # of an item: "activity: context", the label, four endings


def clean(text: str) -> str:
    """WikiHow's titles become sentences of their own; its other marks ([header], [step], ..) go."""
    text = re.sub(r"\[[^\]]*\]", "", text.replace(" [title]", ". "))
    return re.sub(r"\s+", " ", text).strip()


def cleaned(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its texts cleaned; the halves of the context, which cleaned files do not have, go as well."""
    kept = {key: value for key, value in row.items() if key not in ("ctx_a", "ctx_b")}
    return {**kept, "ctx": clean(row["ctx"]), "endings": [clean(ending) for ending in row["endings"]]}


def rows_of_text(text: str) -> list[dict[str, Any]]:
    """Rows of the plain-text form."""
    lines = text.rstrip("\n").split("\n")
    if len(lines) % LINES:
        raise InputError(f": {len(lines)} lines are not a multiple of the {LINES} of an item")
    rows = []
    for start in range(0, len(lines), LINES):
        activity, separator, context = lines[start].partition(": ")
        if not separator:
            raise InputError(f", line {start + 1}: expected 'activity: context'")
        endings = [ending.strip() for ending in lines[start + 2 : start + LINES]]
        rows.append({"activity_label": activity, "ctx": context, "endings": endings, "label": lines[start + 1].strip()})
    return rows
