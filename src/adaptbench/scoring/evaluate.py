"""Score every evaluation prompt with an adapted model, for all its runs."""

from collections.abc import Sequence

import torch
from tqdm import tqdm

from adaptbench.data.batching import Encoded, collate, encode
from adaptbench.data.templates import Prompt
from adaptbench.methods.base import Adaptation
from adaptbench.scoring.metrics import ChoiceScores
from adaptbench.scoring.rank import token_log_probabilities


def encode_for(adaptation: Adaptation, prompts: Sequence[Prompt], run: int) -> list[Encoded]:
    """The prompts as a run's model reads them: after its demonstrations, if it has some."""
    context = adaptation.contexts[run] if adaptation.contexts is not None else ()
    return [encode(adaptation.backbone, prompt, context) for prompt in prompts]


@torch.inference_mode()
def evaluate(
    adaptation: Adaptation, prompts: Sequence[Prompt], batch_size: int, progress: bool = False
) -> list[list[ChoiceScores]]:
    """Choice scores of each run (outer list), in the order of `prompts`.

    Runs of a delta share each pass as blocks of rows; runs that differ in their context go one after the
    other; where nothing depends on the run, one pass serves all.
    """
    runs = len(adaptation.seeds)
    with adaptation.attached():
        if adaptation.contexts is not None:
            return [
                _score(adaptation, encode_for(adaptation, prompts, run), 1, batch_size, progress)[0]
                for run in range(runs)
            ]
        encoded = encode_for(adaptation, prompts, 0)
        if adaptation.same_for_all_runs:
            return _score(adaptation, encoded, 1, batch_size, progress) * runs
        return _score(adaptation, encoded, runs, batch_size, progress)


def _score(
    adaptation: Adaptation, encoded: Sequence[Encoded], runs: int, batch_size: int, progress: bool
) -> list[list[ChoiceScores]]:
    backbone = adaptation.backbone
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].source))  # little padding
    size = max(1, batch_size // runs)
    results: list[dict[int, ChoiceScores]] = [{} for _ in range(runs)]
    starts = range(0, len(order), size)
    for start in tqdm(starts, desc="evaluating", leave=False, disable=None if progress else True, mininterval=1):
        indices = order[start : start + size]
        rows = [encoded[index] for index in indices]
        batch = collate(rows * runs, backbone.pad_id).to(backbone.device)
        sums = token_log_probabilities(backbone, batch).double().sum(2).view(runs, len(rows), -1).tolist()
        for run in range(runs):
            for index, row, values in zip(indices, rows, sums[run], strict=True):
                tokens = tuple(len(choice) for choice in row.choices)
                results[run][index] = ChoiceScores(row.prompt, tuple(values[: len(tokens)]), tokens)
    return [[scores[index] for index in range(len(encoded))] for scores in results]
