"""What is known of the tuners of Hugging Face PEFT 0.21: which are refused and why, and what a few need.

A tuner is refused where scores would depend on the batch, or where training it takes more than following the gradient
of a loss: a loss of its own, calls in the training loop, or a start that is computed from data by another call.
Tuners that are not named here are tried when they are attached (`methods/peft_trial.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from adaptbench.errors import InputError
from adaptbench.methods.tensor_files import shown

# A task's index for every row: a run has one task.
NEED_TASK = {"MULTITASK_PROMPT_TUNING", "POLY"}
# They look words up themselves and hand the model embeddings.
LOOK_UP_WORDS = {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING"}
# They read values of weights while they attach, or of their own parameters in a forward pass: without storage they
# cannot be counted.
READ_VALUES = {"ADAMSS", "BOFT", "FROD", "POLY", "SHIRA", "UNILORA", "VBLORA", "WAVEFT"}

_REFUSED = {
    "ADALORA": "it moves ranks between modules by calls in PEFT's training loops (update_and_allocate), which are not "
    "made here; LORA with rank_pattern sets ranks by hand",
    "CPT": "it replaces its parameters in every forward pass, where no optimizer here would find them",
    "LILY": "it routes every token by a mean over the whole batch, so scores would depend on the batch",
    "XLORA": "it mixes adapters that were trained before, and here a method starts from the base model",
}
_SET_HERE = {
    "peft_type": "method.peft_type names it",
    "task_type": "it follows from the model",
    "inference_mode": "what is attached here is trained",
}
_OTHER_START = "PEFT computes that start from data or from quantised weights by a call of its own, not made here"
_OTHER_FILE = "it starts from a file whose content no run's id would know"
_OTHER_LOSS = "it adds a loss of its own, which is not trained on here"


def _data_driven(value: Any) -> bool:
    return isinstance(value, str) and value.lower() in ("eva", "corda", "loftq", "lora_ga")


# Tuner, argument, whether its value is refused, why.
_REFUSED_VALUES: tuple[tuple[str, str, Callable[[Any], bool], str], ...] = (
    ("LORA", "init_lora_weights", _data_driven, _OTHER_START),
    ("LORA", "kasa_config", bool, _OTHER_LOSS),
    ("LORA", "monteclora_config", bool, _OTHER_LOSS),
    ("LORA", "arrow_config", bool, "it routes among adapters that were trained before"),
    ("LORA", "velora_config", bool, "a row's gradient depends on the rows beside it"),
    ("LORA", "alora_invocation_tokens", bool, "it sets in where a row has them, and bills know lengths only"),
    ("ADAMSS", "use_asa", bool, "it prunes by calls in PEFT's training loops, which are not made here"),
    ("MULTITASK_PROMPT_TUNING", "prompt_tuning_init_state_dict_path", bool, _OTHER_FILE),
    ("PVERA", "sample_at_inference", bool, "scores would be random"),
    ("SHADOW", "auxiliary_loss_weight", bool, f"{_OTHER_LOSS}; expected 0"),
    ("SHADOW", "shadow_model", lambda value: value != "mirror", _OTHER_FILE),
)


def check_tuner(peft_type: str, arguments: Mapping[str, Any]) -> None:
    """Find fault with a tuner, and with the names of arguments.

    Raises:
        InputError: it cannot be trained or scored here, or an argument is not the user's to set; says why.
    """
    if peft_type in _REFUSED:
        raise InputError(f"method.peft_type={peft_type!r}: {_REFUSED[peft_type]}")
    for name in sorted(arguments.keys() & _SET_HERE.keys()):
        raise InputError(f"method.arguments.{name}={shown(arguments[name])}: leave it out, {_SET_HERE[name]}")


def check_values(peft_type: str, config: Any) -> None:
    """Find fault with the values of PEFT's configuration, its defaults among them.

    Raises:
        InputError: the tuner cannot be trained or scored here with one; says why.
    """
    for tuner, name, refused, why in _REFUSED_VALUES:
        if tuner == peft_type and refused(value := getattr(config, name, None)):
            raise InputError(f"method.arguments.{name}={shown(value)}: {peft_type} with it cannot be had here: {why}")


def check_tuner_on(peft_type: str, is_encoder_decoder: bool, named: str) -> None:
    """Find fault with a tuner on a kind of model.

    Raises:
        InputError: PEFT computes something else there than it says.
    """
    if is_encoder_decoder and peft_type == "MULTITASK_PROMPT_TUNING":
        raise InputError(f"method.peft_type={peft_type!r}: PEFT leaves out what the decoder of {named} reads")
