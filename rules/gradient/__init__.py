"""The tangent of every operator: y = f(x) near the recorded x. docs/methods/gradient.md; one operator family a file.

Importing the package fills GRADIENT, the base of every other rule set.
"""

from . import combine, conv, inert, matmul, move, norm, pointwise, pool, reduce, resize
from .base import GRADIENT

__all__ = [
    "GRADIENT",
    "combine",
    "conv",
    "inert",
    "matmul",
    "move",
    "norm",
    "pointwise",
    "pool",
    "reduce",
    "resize",
]
