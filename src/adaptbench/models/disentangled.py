"""DeBERTa-v2 and v3 (He et al. 2021): the library's disentangled attention, through our attention function.

Theirs is computed in its own code, where nothing can be put before keys and values, and which takes the projections of
relative positions to be the same for all rows. Where queries and keys share their maps with positions (v3), a method on
those maps changes both, and fused runs differ in both. The parameters are the library's own.
"""

from typing import Any

from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from adaptbench.models.attention import attention


class DisentangledAttention(DisentangledSelfAttention):
    """Scores q k + q p_k + p_q k over sqrt(3 head width), p being projections of the relative position."""

    def forward(
        self,
        hidden_states: Tensor,  # (N, S, D)
        attention_mask: Tensor,  # (N, 1, S, S)
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,  # (1, S, S)
        rel_embeddings: Tensor | None = None,  # (2 * span, D)
    ) -> tuple[Tensor, None]:
        query = self._heads(self.query_proj(hidden_states if query_states is None else query_states))
        key, value = self._heads(self.key_proj(hidden_states)), self._heads(self.value_proj(hidden_states))
        kinds = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
        scaling = (query.shape[-1] * kinds) ** -0.5
        bias = None
        if self.relative_attention and relative_pos is not None and rel_embeddings is not None:
            bias = scaling * self._position_scores(query, key, relative_pos, self.pos_dropout(rel_embeddings))
        output, _ = attention(
            self,
            query,
            key,
            value,
            attention_mask.bool().any(-2, keepdim=True),  # what stands at padding sees all, and nobody reads it
            position_bias=bias,
            scaling=scaling,
            dropout=self.dropout.p if self.training else 0.0,
            is_causal=False,
        )
        return output.flatten(-2), None

    def _heads(self, states: Tensor) -> Tensor:  # (N, S, H * W) -> (N, H, S, W)
        return states.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)

    def _position_scores(self, query: Tensor, key: Tensor, relative: Tensor, embeddings: Tensor) -> Tensor:
        """(N, H, S, S) of content to position and position to content, not scaled yet."""
        span = self.pos_ebd_size
        positions = embeddings[None, : 2 * span]
        away = relative.view(1, 1, *relative.shape[-2:]).long()  # of a key from a query, in buckets
        total: Any = 0
        if "c2p" in self.pos_att_type:
            keys = self._heads((self.key_proj if self.share_att_key else self.pos_key_proj)(positions))
            scores = query @ _for_rows(keys, len(query)).transpose(2, 3)  # (N, H, S, 2 * span)
            place = (away + span).clamp(0, 2 * span - 1)
            total = total + scores.gather(3, place.expand(*scores.shape[:2], -1, -1))
        if "p2c" in self.pos_att_type:
            queries = self._heads((self.query_proj if self.share_att_key else self.pos_query_proj)(positions))
            scores = key @ _for_rows(queries, len(key)).transpose(2, 3)
            place = (span - away).clamp(0, 2 * span - 1)
            total = total + scores.gather(3, place.expand(*scores.shape[:2], -1, -1)).transpose(2, 3)
        return total


def _for_rows(projected: Tensor, rows: int) -> Tensor:
    """One projection for all rows, or one of each run for its rows."""
    return projected if len(projected) == 1 else projected.repeat_interleave(rows // len(projected), 0)


def take_over(model: nn.Module) -> None:
    """Let every disentangled attention of a model compute as here."""
    for module in model.modules():
        if type(module) is DisentangledSelfAttention:
            module.__class__ = DisentangledAttention


def taken_over(model: nn.Module) -> bool:
    """Whether a model computes disentangled attention as here."""
    return any(isinstance(module, DisentangledAttention) for module in model.modules())
