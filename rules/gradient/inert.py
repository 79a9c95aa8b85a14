"""Operators without influence: piecewise constant in x, or reading only its shape."""

from __future__ import annotations

from ...rewriter.emit import Emit
from ...rewriter.linear import Local
from ...rewriter.site import Site
from .base import GRADIENT

INERT = (
    "ArgMax ArgMin Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil ConstantOfShape Equal EyeLike "
    "Floor Greater GreaterOrEqual Hardmax IsInf IsNaN Less LessOrEqual NonMaxSuppression NonZero Not And Or Xor "
    "OneHot RandomNormalLike RandomUniformLike Range Round Shape Sign Size Unique"
).split()


@GRADIENT.on(*INERT)
def inert(site: Site, g: Emit) -> Local:
    """dy = 0."""
    return Local()
