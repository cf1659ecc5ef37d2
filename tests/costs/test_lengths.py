"""The lengths of a task's texts are those of what is read."""

from dataclasses import replace

import pytest

from adaptbench.costs.lengths import of_task
from adaptbench.data.example import Example, TaskData
from adaptbench.data.templates import Template
from adaptbench.data.tokenization import marks
from tests.scoring.tokenizers import KINDS


@pytest.mark.parametrize("delimiter", [" ", "", " => "])
@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_those_of_the_joined_texts(backbones, kind, delimiter):
    tokenizer = KINDS[kind]()
    backbone = replace(backbones["llama"], tokenizer=tokenizer)
    row = Example("0", {"text": "the cat", "label": 1})
    template = Template("toy", "plain", "{{text}}? ||| {{answer_choices[label]}}", "no ||| yes it", (), delimiter)
    found = of_task(TaskData("toy", 1, [row], [row], [template]), backbone, "plain", separator="\n")
    prompt, demonstration = (
        len(tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in ("the cat?", f"the cat?{delimiter}yes it\n")
    )
    assert found.demonstration == demonstration
    assert found.input == len(marks(tokenizer).before) + prompt
    assert found.choices == 2
