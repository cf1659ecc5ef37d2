"""Small tasks with unequal lengths, for tests."""

from adaptbench.data.example import Example, TaskData
from adaptbench.data.templates import Template
from adaptbench.schema import RecipeConfig

SUBJECTS = ("the cat", "a dog", "the large red house", "it", "the small blue mat", "a good answer")


def toy_task(rows: int = 24, choices: str = "yes ||| no ||| maybe not", name: str = "toy") -> TaskData:
    """Three choices of unequal length, two templates, inputs of unequal length."""
    count = len(choices.split("|||"))

    def examples(kind: str, offset: int) -> list[Example]:
        return [
            Example(f"{kind}{i}", {"subject": SUBJECTS[(i + offset) % 6], "number": i, "label": (i * 7) % count})
            for i in range(rows)
        ]

    templates = [
        Template(name, "short", "{{subject}} sat {{number}} ||| {{answer_choices[label]}}", choices),
        Template(
            name, "long", "given that {{subject}} ran, question {{number}} ||| {{answer_choices[label]}}", choices
        ),
    ]
    return TaskData(name, 8, examples("train", 0), examples("eval", 3), templates)


def recipe(**changes: object) -> RecipeConfig:
    return RecipeConfig(**{"name": "test", "batch_size": 4, **changes})  # type: ignore[arg-type]
