"""Classifiers of transformers with the weights of a head of ours."""

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from adaptbench.models.encoders import LAST, Encoder
from adaptbench.models.heads import ClassificationHead
from tests.models.bare import DEBERTA

KNOWN = ("bert", "roberta", *DEBERTA, "llama", "gpt2", "opt")


@torch.no_grad()
def made_different(encoder: Encoder, head: ClassificationHead) -> ClassificationHead:
    """The head with weights that make scores far apart; no bias where the library's has none."""
    for dense in (head.dense, head.project):
        if dense is not None:
            dense.weight.normal_(std=0.3)
            dense.bias.normal_(std=0.0 if encoder.pooling == LAST else 1.0)
    return head


@torch.no_grad()
def classifier_of_transformers(encoder: Encoder, head: ClassificationHead, run: int) -> Any:
    """The library's own classifier of such a model, with one run's weights."""
    own = AutoModelForSequenceClassification.from_pretrained(
        encoder.model.config._name_or_path,
        num_labels=head.project.bias.shape[-1],
        pad_token_id=encoder.pad_id,
        attn_implementation="eager",
        dtype=encoder.dtype,
    )
    theirs = {
        "bert": lambda: (own.bert.pooler.dense, own.classifier),
        "roberta": lambda: (own.classifier.dense, own.classifier.out_proj),
        "deberta-v2": lambda: (own.pooler.dense, own.classifier),
    }.get(own.config.model_type, lambda: (own.score,))()
    ours = [dense for dense in (head.dense, head.project) if dense is not None]
    for dense, linear in zip(ours, theirs, strict=True):
        linear.weight.copy_(dense.weight[run].T)
        if linear.bias is not None:
            linear.bias.copy_(dense.bias[run, 0])
    return own.eval()
