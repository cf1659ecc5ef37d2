"""Tables, figures and one self-contained page from records: `python -m analysis.report outputs/<experiment>`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from analysis import cost_figures, encoder_figures, extensions, figures, paper_verdicts, tables
from analysis.ablations import ABLATIONS
from analysis.certainty import certainty
from analysis.collect import Arguments, Experiment, ReportError, load
from analysis.encoder_tables import NAMES as ENCODER_TABLES
from analysis.encoder_verdicts import verdicts
from analysis.freshness import inputs, read_stamp, write_stamp
from analysis.summary import Summary, summarise
from analysis.typeset import Best, Table, powers, to_text, write
from analysis.verdicts import claims, headline

TEMPLATES = Path(__file__).parent / "templates"

READING = {
    "figure3": "Up and to the left is better: a higher score for fewer FLOPs per prediction. "
    "In-context learning pays for its demonstrations in every prediction, tuning once and in advance. "
    "Markers that would hide each other stand side by side; of many tuned methods the best known are drawn.",
    "figure2": "Up and to the left is better: a higher score for fewer updated parameters. "
    "Faint points are single seeds, bars are 95 % intervals over seeds and items (conservative from three seeds on), "
    "dashes mark zero-shot, dots chance.",
    **cost_figures.READING,
    **encoder_figures.READING,
}


def build(folder: Path) -> tuple[Summary | None, Path]:
    """Write tables/, figures/ and report.html of an experiment's folder; no summary where no run could be scored.

    Raises:
        ReportError: nothing to report on, or a file that is not what it should be.
    """
    experiment = load(folder)
    if experiment.records.empty:
        return None, answers(experiment)
    summary = summarise(experiment)
    built = tables.build_all(summary)
    for table in built.values():
        write(table, folder / "tables")
    drawings = {}
    drawn = {name: figures.draw(panels_of(summary))[0] for name, panels_of in figures.FIGURES.items()}
    drawn |= {name: figures.draw(panels_of(summary))[0] for name, panels_of in cost_figures.PANELS.items()}
    optional = {name: panels for name, panels_of in cost_figures.OPTIONAL.items() if (panels := panels_of(summary))}
    drawn |= {name: figures.draw(panels)[0] for name, panels in optional.items()}
    drawn |= {name: chart_of(summary) for name, chart_of in cost_figures.CHARTS.items()}
    drawn |= encoder_figures.drawings(summary)
    for name, figure in drawn.items():
        figures.write(figure, name, folder / "figures")
        drawings[name] = figures.inline_svg(figure, name)
    page = folder / "report.html"
    page.write_text(render(summary, built, drawings), encoding="utf-8")
    return summary, page


def answers(experiment: Experiment) -> Path:
    """What there is to report of runs on rows without labels: table and page."""
    records = experiment.unscored
    table = tables.answered(records)
    write(table, experiment.folder / "tables")
    page = experiment.folder / "report.html"
    content = {"facts": facts(records, len(experiment.failures)), "provenance": provenance(records)}
    template = environment().get_template("answers.html.jinja")
    page.write_text(template.render(name=experiment.name, table=table, **content), encoding="utf-8")
    return page


def environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters["powers"] = powers
    made.tests["best"] = lambda cell: isinstance(cell, Best)
    return made


def render(summary: Summary, built: dict[str, Table], drawings: dict[str, str]) -> str:
    """The page: everything inside one file, styles and figures included."""
    return (
        environment()
        .get_template("report.html.jinja")
        .render(
            summary=summary,
            tables=built,
            drawings=drawings,
            reading=reading_of(summary),
            headline=headline(summary),
            claims=claims(summary),
            paper_verdicts=paper_verdicts.verdicts(summary),
            at_chance=extensions.at_chance(summary),
            extensions=extensions.sections(summary),
            encoders=[name for name in ENCODER_TABLES if name in built],
            encoder_drawings=encoder_figures.titles(summary),
            encoder_verdicts=verdicts(summary),
            certainty=certainty(summary),
            ablations=[ablation.name for ablation in ABLATIONS if ablation.name in built],
            facts=facts(summary.experiment.records, len(summary.experiment.failures)),
            provenance=provenance(summary.experiment.records),
        )
    )


def reading_of(summary: Summary) -> dict[str, str]:
    """Figure -> how to read it, and what it leaves out."""
    drawn = {arm.key for arm in figures.comparable(summary.arms)}
    absent = [summary.title(arm) for arm in summary.arms if arm.key not in drawn]
    note = f" Not drawn, as they did not run on every data set: {', '.join(absent)}." if absent else ""
    return {**READING, "figure2": READING["figure2"] + note, "figure3": READING["figure3"] + note}


def facts(records: pd.DataFrame, failures: int) -> list[tuple[str, str]]:
    """What was run, in a line or two each."""
    seeds = sorted(set(records.loc[records["shots"] > 0, "seed"])) or sorted(set(records["seed"]))
    return [
        ("Runs", f"{len(records)} finished, {failures} failed"),
        ("Methods", ", ".join(dict.fromkeys(records["method"]))),
        ("Models", ", ".join(dict.fromkeys(records["model"]))),
        ("Data sets", ", ".join(dict.fromkeys(records["dataset"]))),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Shots", spread(records.loc[records["shots"] > 0, "shots"])),
        ("Evaluation items", f"{spread(records['n_eval'])} per data set"),
    ]


def spread(values: pd.Series) -> str:
    if values.empty:
        return "none"
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def provenance(records: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Where the numbers come from: every distinct value of each provenance field that is short enough to read."""
    found = []
    for field in ("versions", "git", "hardware", "device", "dtype"):
        values = records.get(f"provenance.{field}", pd.Series(dtype=object))
        found.append((field, list(dict.fromkeys(described(value) for value in values))))
    if {"provenance.started", "provenance.finished"} <= set(records):
        found.append(("time", [f"{records['provenance.started'].min()} to {records['provenance.finished'].max()}"]))
    return found


def described(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Arguments(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="outputs/<experiment>, with records/*.json in it")
    parser.add_argument("--force", action="store_true", help="make the report again though nothing has changed")
    try:
        given = parser.parse_args(arguments)
        folder: Path = given.folder
        printed = None if given.force else read_stamp(folder)
        if printed is None:
            made_from = inputs(folder)
            summary, page = build(folder)
            printed = f"{closing(summary, folder)}\n{page}"
            write_stamp(folder, made_from, printed)
    except (ReportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(printed)
    return 0


def closing(summary: Summary | None, folder: Path) -> str:
    """What the program prints at its end."""
    if summary is None:
        return f"No row had a label to score by. For files a leaderboard takes: python -m experiments.submit {folder}"
    return "\n".join([to_text(tables.table1(summary)), *headline(summary), ""])


if __name__ == "__main__":
    sys.exit(main())
