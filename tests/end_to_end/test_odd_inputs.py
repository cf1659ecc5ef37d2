"""Inputs that people report: each is read as it is written, or refused in one clear line that says where and why."""

from pathlib import Path

import pytest

from adaptbench.cell import PreparedCell, prepare_cell
from adaptbench.config import register_schemas, resolve
from adaptbench.errors import InputError
from experiments.commandline import CONF, program_arguments
from tests.end_to_end.test_runs import records

FOLDER = Path(__file__).parents[3] / "shared" / "cases"
TEXT = "dataset.labels={'0': 0, '1': 1}"
STARS = "dataset.labels={1: 0, 2: 1, 3: 2, 4: 3, 5: 4}"
DIRTY = "dirty rooms number 40"  # the first row of many of them
SKIP = "dataset.skip_bad_rows=true"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no folder of odd inputs at {FOLDER}")


@pytest.fixture
def prepare(monkeypatch):
    """prepare(*arguments) composes a cell as the program does and reads its data, in the folder of the inputs."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    monkeypatch.chdir(FOLDER)
    register_schemas()

    def cell(*arguments: str) -> PreparedCell:
        GlobalHydra.instance().clear()
        fixed = (f"hydra.searchpath=[file://{FOLDER}]", "dataset.shots=2", "seeds=[0]", "method=ia3", "template=plain")
        with initialize_config_dir(CONF, version_base="1.3"):
            return prepare_cell(resolve(compose("config", program_arguments([*fixed, *arguments]))))

    return cell


def files(train: str, evaluation: str, *more: str) -> tuple[str, ...]:
    return ("dataset=files", f"dataset.train=data/{train}", f"dataset.evaluation=data/{evaluation}", *more)


READ = {  # arguments, the first inputs, the first labels
    "0.0 and 1.0 of a CSV": (files("float_train.csv", "float_test.csv", "dataset.labels={0.0: 0, 1.0: 1}"), [], [0, 1]),
    "0.0 and 1.0 of JSON": (files("jf_train.jsonl", "jf_test.jsonl", "dataset.labels={0.0: 0, 1.0: 1}"), [], [1, 0]),
    "true and false of a CSV": (("dataset=boolstr",), [], [0, 1]),
    "TRUE and FALSE": (files("BOOL_train.csv", "BOOL_test.csv", "dataset.labels={FALSE: 0, TRUE: 1}"), [], [0, 1]),
    "true and false of JSON": (files("jb_train.jsonl", "jb_test.jsonl", "dataset.labels={false: 0, true: 1}"), [], [1]),
    "yes and no": (files("yesno_train.csv", "yesno_test.csv", "dataset.labels={no: 0, yes: 1}"), [], [0, 1]),
    "codes with zeros in front": (files("codes_train.csv", "codes_test.csv", TEXT), ["00052", "00053"], [0, 1]),
    "prices": (files("prices_train.csv", "prices_test.csv", TEXT), ["41.70", "42.40"], [1, 0]),
    "identities of twenty digits": (files("ids_train.csv", "ids_test.csv", TEXT), ["12345678901234567040"], [0, 1]),
    "YAML keys that are numbers": (("dataset=intkeys", *files("stars_train.csv", "stars_train.csv")[1:]), [], [0, 0]),
    "JSON keys": (files("plain_train.csv", "plain_test.csv", 'dataset.labels={"0": 0, "1": 1}'), [], [0, 1]),
    "a column called uid that repeats": (files("uid_train.csv", "uid_test.csv", TEXT), [], [0, 1]),
    "a JSON array": (files("array_train.json", "array_test.json", TEXT), [DIRTY], [0, 1]),
    "a byte-order mark": (files("bom_train.csv", "bom_test.csv", TEXT), [f'{DIRTY}\nsecond line, "quoted"'], []),
    "text that looks like markup": (files("odd_train.csv", "odd_test.csv", TEXT), [], [0, 1]),
    "a wide file": (files("wide_train.csv", "wide_test.csv", TEXT), [DIRTY], [0, 1]),
    "a file name of Hydra's grammar": (files("plain_train.csv", "a=b,c test.csv", TEXT), [DIRTY], [0, 1]),
    "nulls that no template shows": (files("null_train.jsonl", "null_test.jsonl", TEXT), [DIRTY], [0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_it_is_read_as_it_is_written(prepare, name):
    arguments, inputs, labels = READ[name]
    cell = prepare(*arguments)
    assert [prompt.input for prompt in cell.prompts[: len(inputs)]] == inputs
    assert [prompt.label for prompt in cell.prompts[: len(labels)]] == labels
    assert len({prompt.uid for prompt in cell.prompts}) == len(cell.prompts)
    assert cell.task.skipped == ()


REFUSED = {
    "a label outside the declared ones": (("dataset=s140b",), "data/s140b_test.csv, row 2: label '1': expected 0, 4"),
    "a star too few": (files("stars_train.csv", "stars_test.csv", STARS), "_test.csv, row 0: label '0': expected 1, 2"),
    "YAML's yes and no": (("dataset=yesno",), "put the label in quotes, as the file writes it"),
    "a null context": (("dataset=nullctx",), "null_test.jsonl, row 2: the field 'context' is null"),
    "a null text": (files("nulltext_train.jsonl", "nulltext_test.jsonl", TEXT), "row 0: the field 'text' is null"),
    "a null in Parquet": (files("plain_train.csv", "nani_test.parquet", TEXT), "row 1: the field 'text' is null"),
    "fractions in Parquet": (files("plain_train.csv", "nan_test.parquet", TEXT), "row 0: label 1.0: expected 0, 1"),
    "half a surrogate pair": (files("plain_train.csv", "surr_test.jsonl", TEXT), "line 1: field 'text' holds a lone"),
    "a choice that repeats": (("dataset=mcdup",), "data/mcdup_test.jsonl, row 2: the choices repeat"),
    "Latin-1": (files("latin_train.csv", "plain_test.csv", TEXT), "latin_train.csv is not UTF-8 (byte 14, line 2)"),
    "UTF-16": (files("utf16_train.csv", "plain_test.csv", TEXT), "utf16_train.csv is UTF-16: expected UTF-8"),
    "semicolons": (files("semi_train.csv", "plain_test.csv", TEXT), "separated by ',', not by ';'"),
    "labels that nobody declared": (files("yesno_train.csv", "yesno_test.csv"), "label 'no': expected an integer"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_clear_line(prepare, name):
    arguments, says = REFUSED[name]
    with pytest.raises(InputError) as caught:
        prepare(*arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_without_its_bad_rows_says_so_in_its_record(call, monkeypatch, tmp_path):
    """Two rows with a choice twice, one to train on and one to evaluate, through the program itself."""
    monkeypatch.chdir(FOLDER)
    arguments = ["dataset=mcdup", f"hydra.searchpath=[file://{FOLDER}]", "method=zero_shot", "seeds=[0]"]
    places = [f"output={tmp_path}/out", "progress=false"]
    assert call(*arguments, *places) == 2
    assert call(*arguments, *places, SKIP) == 0
    (record,) = records(tmp_path / "out").values()
    assert record["n_eval"] == 7
    assert record["n_skipped"] == 2
    assert record["provenance.skipped_rows"] == [
        "data/mc_train.jsonl, row 3: template 'plain': the choices repeat: ['good', 'bad', 'good']",
        "data/mcdup_test.jsonl, row 2: template 'plain': the choices repeat: ['good', 'bad', 'good']",
    ]
