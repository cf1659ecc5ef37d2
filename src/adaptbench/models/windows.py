"""Sliding windows of attention: a token sees those that stand less than so many positions before it."""

import torch
from torch import Tensor


class Windows:
    """Which keys a window leaves to the queries of a pass, by their positions; every layer asks for the same."""

    def __init__(self, positions: Tensor):  # (N, T)
        self.positions = positions
        self._made: dict[tuple[int, int], Tensor] = {}

    def visible(self, window: int, held: int) -> Tensor:  # (N, 1, T, held + T)
        """True where a query is less than `window` after a key: one of `held` tokens read before, or of this pass."""
        if (window, held) not in self._made:
            before = torch.arange(held, device=self.positions.device).expand(len(self.positions), -1)
            keys = torch.cat([before, self.positions], dim=1)
            self._made[window, held] = (self.positions[:, :, None] - keys[:, None] < window)[:, None]
        return self._made[window, held]
