"""The reference input that a method compares with."""

from __future__ import annotations

import numpy as np

from ..rewriter.graph import Value
from ..rewriter.method import Option
from ..rewriter.scene import Stage

BASELINE = Option("zeros", None, "zeros, a number, black, blur, input, or an array")


def reference(stage: Stage, x: Value) -> Value:
    spec = stage.options["baseline"]
    if isinstance(spec, str):
        spec = 0.0
    value = np.broadcast_to(np.asarray(spec, x.dtype), [1, *x.shape[1:]])
    return stage.g.constant(np.ascontiguousarray(value))
