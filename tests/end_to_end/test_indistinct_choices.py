"""Choices that a model's vocabulary cannot tell apart are refused once they are tokens: the first would always win."""

import csv

import pytest

from tests.end_to_end.test_runs import records


@pytest.fixture
def files(tmp_path):
    """files(*names): a data set of two classes with these names, as arguments of the program."""

    def written(*names: str) -> list[str]:
        for split in ("train", "test"):
            with (tmp_path / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
                table = csv.writer(file)
                table.writerow(["text", "label"])
                table.writerows([f"the {thing} was here", names[i % 2]] for i, thing in enumerate(["cat", "dog"] * 4))
        labels = ", ".join(f"{name}: {index}" for index, name in enumerate(names))
        places = [
            f"dataset.{key}={tmp_path / file}" for key, file in (("train", "train.csv"), ("evaluation", "test.csv"))
        ]
        return ["dataset=files", *places, f"dataset.labels={{{labels}}}", "dataset.shots=4", "seeds=[0]"]

    return written


MANY = ("zero_shot", "ia3", "full_ft", "icl", "icl_ensemble")


@pytest.mark.parametrize(
    ("method", "model"),
    [*((name, "micro_t0") for name in MANY), ("icl_cached", "micro_gpt_s"), ("lora", "micro_gpt_s")],
)
def test_two_unknown_words_are_one_choice_and_refused_in_one_line(call, tmp_path, capsys, files, method, model):
    few = ("recipe=ten_steps", "progress=false", "output=out")
    assert call(*files("mauvais", "bon"), f"method={method}", f"model={model}", *few) == 2
    said = capsys.readouterr().err.strip()
    assert "the choices 'mauvais' and 'bon' are the same tokens to this model" in said
    assert "\n" not in said
    assert "row '" in said
    assert not list((tmp_path / "out").rglob("*.json")), "neither a record nor a failure to try again"


def test_one_unknown_word_is_a_choice_like_another(call, tmp_path, files):
    few = ("method=zero_shot", "model=micro_t0", "progress=false", "output=out")
    assert call(*files("bad", "bon"), *few) == 0
    assert len(records(tmp_path / "out")) == 1
