"""One table, five forms: aligned text, Markdown, LaTeX, CSV and (through the report's template) HTML.

Cells are plain text; `Best` marks the best of a column. Powers of ten are written 1.1e12 and typeset where the form
can. A column is a pair (group, name): columns of one group share a heading.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pandas as pd

ABSENT = "n/a"
POWER = re.compile(r"(?<![\w.])(\d(?:\.\d+)?)e(-?\d+)(?!\w)")
SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


class Best(str):
    """A cell that holds the best value of its column."""

    __slots__ = ()


Row = Sequence[str]


@dataclass(frozen=True)
class Panel:
    """Rows under a heading of their own; an empty title for a table's only panel."""

    title: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Table:
    name: str  # of the files
    title: str
    columns: Sequence[tuple[str, str]]  # (group, name), the group "" for none
    panels: Sequence[Panel]
    frame: pd.DataFrame  # the numbers behind the cells, for the CSV
    words: int = 1  # leading columns that hold words; the others are set flush right
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The upper heading as (group, number of columns)."""
        return [(group, len(list(members))) for group, members in groupby(self.columns, key=lambda column: column[0])]


# -- quantities as text -------------------------------------------------------------------------------------------


def power(value: float | None, digits: int = 1) -> str:
    """1.1e12; "0" for nothing spent."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def count(value: float | None) -> str:
    return ABSENT if value is None else f"{round(value):,}"


def span(values: Iterable[float]) -> str:
    """One number, or the least and the largest."""
    known = list(values)
    if not known:
        return ABSENT
    low, high = min(known), max(known)
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def percent(share: float | None, digits: int = 1) -> str:
    """0.646 -> 64.6"""
    return ABSENT if share is None else f"{100 * share:.{digits}f}"


def significant(value: float | None, digits: int = 3) -> str:
    """Three significant digits, never in powers of ten: 0.0192, 4.51, 100."""
    if value is None:
        return ABSENT
    text = f"{value:.{digits}g}"
    return f"{float(text):.10f}".rstrip("0").rstrip(".") if "e" in text else text


def size(value: float | None) -> str:
    """Bytes in decimal units, as the paper counts them: 4.2 MB."""
    if value is None:
        return ABSENT
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{significant(value / scale, 4 if value >= 1000 * scale else 3)} {unit}"
    return f"{round(value)} B"


def seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{significant(value)} s"


def interval(bounds: tuple[float, float] | None, digits: int = 1) -> str:
    """Shares as percent: [60.1, 68.9]"""
    return ABSENT if bounds is None else f"[{percent(bounds[0], digits)}, {percent(bounds[1], digits)}]"


def signed(share: float, digits: int = 1) -> str:
    """0.012 -> +1.2, with a true minus sign; the ends of an interval that has none are infinite."""
    return f"{100 * share:+.{digits}f}".replace("-", "−").replace("inf", "∞")


# -- forms --------------------------------------------------------------------------------------------------------


def to_text(table: Table) -> str:
    """Aligned columns for a terminal; the best of a column carries a star."""
    heading = [[group for group, _ in table.columns], [name for _, name in table.columns]]
    heading = [line for line in heading if any(line)]
    cells = [
        [f"{cell}*" if isinstance(cell, Best) else cell for cell in row] for panel in table.panels for row in panel.rows
    ]
    starred = {i for row in cells for i, cell in enumerate(row) if cell.endswith("*")}
    cells = [[c + " " if i in starred and not c.endswith("*") else c for i, c in enumerate(row)] for row in cells]
    widths = [max(map(len, column)) for column in zip(*heading[-1:], *cells, strict=True)]
    lines = [table.title, ""]
    if len(heading) == 2:  # a group's name stands over its columns
        start, parts = 0, []
        for group, span in table.groups:
            width = sum(widths[start : start + span]) + 2 * (span - 1)
            if len(group) > width:  # the last column of the group makes room
                widths[start + span - 1] += len(group) - width
                width = len(group)
            parts.append(group.center(width))
            start += span
        lines.append("  ".join(parts).rstrip())

    def line(row: Sequence[str]) -> str:
        aligned = [
            c.ljust(w) if i < table.words else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    lines.append(line(heading[-1]))
    remaining = iter(cells)
    for panel in table.panels:
        lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        lines += [panel.title] if panel.title else []
        lines += [line(next(remaining)) for _ in panel.rows]
    return "\n".join([*lines, *([""] if table.notes else []), *table.notes]) + "\n"


def powers(text: str) -> str:
    """1.1e12 -> 1.1×10¹²"""
    return POWER.sub(lambda match: f"{match[1]}×10{match[2].translate(SUPERSCRIPT)}", text)


def to_markdown(table: Table) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [f"**{table.title}**", "", row([f"{group} {name}".strip() for group, name in table.columns])]
    lines.append(row([":--" if i < table.words else "--:" for i in range(len(table.columns))]))
    for panel in table.panels:
        if panel.title:
            lines.append(row([f"*{panel.title}*", *[""] * (len(table.columns) - 1)]))
        lines += [
            row([f"**{powers(c)}**" if isinstance(c, Best) else powers(c) for c in cells]) for cells in panel.rows
        ]
    return "\n".join([*lines, *(part for note in table.notes for part in ("", powers(note)))]) + "\n"


LATEX = {
    "\\": r"\textbackslash{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "³": "$^3$",
    "×": r"$\times$",
    "−": "$-$",
    "·": r"$\cdot$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
    "<": r"$<$",
    ">": r"$>$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "†": r"$^\dagger$",
}


def latex(text: str) -> str:
    """Escaped for LaTeX, powers of ten as mathematics."""
    plain = "".join(LATEX.get(char, char) for char in text)
    return POWER.sub(r"$\1\\times10^{\2}$", plain)


def to_latex(table: Table) -> str:
    """A table environment for booktabs."""
    width = len(table.columns)
    alignment = "".join("l" if i < table.words else "r" for i in range(width))
    lines = ["% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering", f"\\caption{{{latex(table.title)}}}"]
    lines += [f"\\begin{{tabular}}{{{alignment}}}", r"\toprule"]
    if any(group for group, _ in table.columns):
        lines.append(" & ".join(f"\\multicolumn{{{n}}}{{c}}{{{latex(group)}}}" for group, n in table.groups) + r" \\")
    lines.append(" & ".join(latex(name) for _, name in table.columns) + r" \\")
    for panel in table.panels:
        lines.append(r"\midrule")
        if panel.title:
            lines.append(f"\\multicolumn{{{width}}}{{l}}{{\\textit{{{latex(panel.title)}}}}} \\\\")
        for row in panel.rows:
            # braces keep a cell like [60.1, 68.9] from being read as the argument of the \\ before it
            cells = [f"\\textbf{{{latex(c)}}}" if isinstance(c, Best) else latex(c) for c in row]
            lines.append(" & ".join(f"{{{c}}}" if c.startswith("[") else c for c in cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [f"\\par\\smallskip\\footnotesize {latex(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def write(table: Table, folder: Path) -> None:
    """`<name>.csv`, `.md` and `.tex` in the folder, with Unix line ends everywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    csv = table.frame.to_csv(index=False, lineterminator="\n", float_format="%.10g")
    for suffix, text in (("csv", csv), ("md", to_markdown(table)), ("tex", to_latex(table))):
        (folder / f"{table.name}.{suffix}").write_bytes(text.encode("utf-8"))
