"""What input and biases contribute to one score.

Navarrete et al. Theorem 1, Fig. 4, Tables 3 and 4; docs/methods/linearscope.md, "Contributions".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .layout import Array


@dataclass(frozen=True)
class Contributions:
    """y_c = F_c x0 + Σ_t ⟨q_t, κ_t⟩: the share of the input, then one a node t with a constant part κ_t (the bias of a
    convolution, an offset), q_t the sensitivity of y_c to it.

    names, values: of the terms, "input" first, in graph order. target: flat index of the score. score: y_c.
    """

    names: tuple[str, ...]
    values: Array
    target: int
    score: float

    @property
    def input(self) -> float:
        """F_c x0."""
        return float(self.values[0])

    @property
    def residual(self) -> float:
        """r_c: all the rest."""
        return float(np.sum(self.values[1:], dtype=np.float64))

    @property
    def ratio(self) -> float:
        """r_c / y_c, as in Tables 3 and 4. Can exceed 1 or be negative; infinite or NaN where y_c = 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.divide(self.residual, self.score))

    @property
    def share(self) -> float:
        """|r_c| / (|F_c x0| + |r_c|), in [0, 1]; 0 where both are 0."""
        total = abs(self.input) + abs(self.residual)
        return abs(self.residual) / total if total else 0.0

    @property
    def error(self) -> float:
        """|Σ terms - y_c| / Σ |terms|: how well they add up to the score; a few 1e-7 in float32."""
        size = float(np.sum(np.abs(self.values), dtype=np.float64)) or 1.0
        return abs(self.input + self.residual - self.score) / size

    def largest(self, count: int) -> list[tuple[str, float]]:
        """The terms of largest magnitude, largest first."""
        order = np.argsort(-np.abs(self.values), kind="stable")[:count]
        return [(self.names[i], float(self.values[i])) for i in order]


__all__ = ["Contributions"]
