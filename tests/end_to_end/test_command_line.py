"""Whatever is mistyped ends in one clear line and exit code 2, before any model is loaded."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from adaptbench.cell import prepare_cell
from adaptbench.config import register_schemas, resolve

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["method=iaa3"], "Could not find 'method/iaa3'"),
        (["model=t5"], "Could not find 'model/t5'"),
        (["dataset=micro_nothing"], "Could not find 'dataset/micro_nothing'"),
        (["experiment=figure2"], "Could not find 'experiment/figure2'"),
        (["metod=ia3"], "Key 'metod' not in 'Config'"),
        (["method=lora", "method.rnak=3"], "Key 'rnak' not in 'LoRA'"),
        (["method=lora", "method.rank=four"], "Integer"),
        (["method=zero_shot", "method.steps=5"], "Key 'steps' not in 'ZeroShot'"),
        (["dataset.shotz=3"], "Key 'shotz' not in 'DatasetConfig'"),
        (["recipe.batchsize=3"], "Key 'batchsize' not in 'RecipeConfig'"),
        (["seeds=abc"], "seeds=abc"),
        (["seeds=[]"], "expected one or more different integers"),
        (["seeds=[1,1]"], "expected one or more different integers"),
        (["seeds=[-1]"], "expected integers from 0"),
        (["norm=length"], "expected one of token, none, character, byte"),
        (["model.dtype=fp32"], "expected one of auto, float32, bfloat16, float16"),
        (["recipe.losses=[lm,ul]"], "recipe.losses='ul'"),
        (["recipe.losses=[]"], "expected at least one"),
        (["recipe.optimizer=sgd"], "expected one of adafactor, adamw"),
        (["dataset.metric=bleu"], "expected one of accuracy"),
        (["tracking.mode=on"], "tracking.mode"),
        (["shots=0"], "shots=0: expected at least 1"),
        (["shots=999999"], "training rows"),
        (["limit=0"], "limit=0: expected at least 1"),
        (["method.steps=0"], "method.steps=0: expected at least 1"),
        (["recipe.batch_size=0"], "recipe.batch_size=0"),
        (["template=fancy"], "not a template of dataset 'micro_rte'"),
        (["dataset.source=ftp"], "expected one of microworld, files, shipped, parallel, hub"),
        (["dataset.source=hub", "dataset.path=x/y", "dataset.train=t", "dataset.evaluation=e", "shots=1"], "shots"),
        (["dataset.source=files"], "'evaluation' must name a file"),
        (
            ["dataset.source=files", "dataset.shots=4", "dataset.evaluation=nowhere.jsonl"],
            "no such file: nowhere.jsonl",
        ),
        (["model.path=/no/such/folder"], "not a model folder"),
        (["model.path=microworld:giant"], "no such shipped model"),
        (["model=local"], "model.path"),
        (["method=adapter", "method.placement=top"], "expected one of houlsby, tfew, pfeiffer"),
        (["method=lora", "method.targets=[q,z]"], "unknown z"),
        (["model.dtype=float16"], "T5 overflows in float16"),
        (["model.max_length=8"], "do not fit model.max_length=8"),
        (["-m", "method=ia3,lroa"], "Could not find 'method/lroa'"),
        (["-m", "shots=2,999999"], "training rows"),
        (["seeds=[1"], "no viable alternative at input '[1'"),
    ],
)
def test_bad_input_is_one_clear_line(call, capsys, arguments, says):
    assert call("progress=false", *arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert says in lines[0]
    assert "Traceback" not in captured.err
    assert captured.out == ""


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture
def composed():
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *overrides: resolve(compose("config", list(overrides)))


@pytest.mark.parametrize("group", ["method", "model", "recipe", "tracking", "dataset"])
def test_every_option_composes(composed, group):
    for option in options(group):
        classes = ["dataset.classes=2"]
        alone = {"local": ["model.path=x"], "linear_probe": ["dataset=files_classification", *classes]}
        extra = {**alone, "files_classification": classes}.get(option, []).copy()
        if option.startswith(("files_classification", "files_spans")):
            extra.append("method=lora")  # a head has to be trained
        config = composed(f"{group}={option}", *extra)
        assert getattr(config, group).name == option


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes(composed, experiment):
    assert composed(f"experiment={experiment}", "model.path=x").name == experiment


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_sweep_names_options_that_exist(experiment):
    """Composing an experiment does not look at what it sweeps; a renamed model or method must not hide there."""
    text = (CONF / f"experiment/{experiment}.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    swept = content.get("hydra", {}).get("sweeper", {}).get("params", {})
    cells = [(group, name) for entry in content.get("cells", []) for group in entry for name in entry[group]]
    named = [(group, name.strip()) for group in swept for name in str(swept[group]).split(",")] + cells
    for group, name in named:
        if (CONF / group).is_dir():
            assert name in options(group), f"{experiment}: no {group}={name}"


@pytest.mark.parametrize("dataset", [name for name in options("dataset") if name.startswith("micro_")])
def test_every_embedded_task_renders_every_row_in_every_template(composed, dataset):
    cell = prepare_cell(composed(f"dataset={dataset}"))
    assert len(cell.prompts) == 500
    for template in cell.task.templates:
        for example in [*cell.task.train, *cell.task.evaluation]:
            template.render(example.uid, example.fields)


def test_the_method_recipe_is_the_papers(composed):
    """Hyper-parameters per method as published; the micro recipe changes sizes and steps only where declared."""
    published = {
        "ia3": (1000, 3e-3), "lora": (1000, 3e-3), "adapter": (500, 3e-3), "prefix": (1000, 3e-3),
        "bitfit": (300, 3e-4), "full_ft": (300, 3e-4),
    }  # fmt: skip
    for method, (steps, learning_rate) in published.items():
        config = composed(f"method={method}", "recipe=tfew")
        assert (config.method.steps, config.method.learning_rate) == (steps, learning_rate)
        assert composed(f"method={method}", "recipe=tfew", "method.steps=7").method.steps == 7
    recipe = composed("recipe=tfew").recipe
    assert (recipe.batch_size, recipe.clip_norm, recipe.warmup_fraction) == (8, 1.0, 0.06)
    assert recipe.losses == ["lm", "unlikelihood", "length_normalized"]


def test_ten_steps_are_a_recipe_that_another_replaces(composed):
    """The default of real_all shows that everything runs; the paper's recipe is one word away."""
    assert composed("experiment=real_all", "method=ia3").method.steps == 10
    assert composed("experiment=real_all", "method=ia3", "recipe=tfew").method.steps == 1000


@pytest.mark.parametrize("experiment", ["embedded", "embedded_full", "tuning"])
def test_long_experiments_say_how_long_they_take(composed, experiment):
    assert composed(f"experiment={experiment}").seconds_per_run > 0
