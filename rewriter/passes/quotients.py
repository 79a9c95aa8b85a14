"""Forms of v / (z + ε s(z)), s(z) = 1 for z >= 0 and -1 below; 0 where the divisor is 0."""

from __future__ import annotations

import numpy as np
import onnx

from ..emit import Emit
from ..graph import Node, Value


def inverse(g: Emit, node: Node) -> Value:
    """Inverse(z; epsilon, positive): 1 / (z + ε s(z))."""
    (z,) = node.inputs
    epsilon = float(node.attrs["epsilon"])
    if epsilon:
        return g.Reciprocal(stable(g, z, epsilon, bool(node.attrs["positive"])))
    none = g.Equal(z, 0.0)
    return g.Where(none, g.number(0.0, z), g.Reciprocal(g.Where(none, g.number(1.0, z), z)))


def quotient(g: Emit, node: Node) -> Value:
    """Quotient(v, z; epsilon, positive): v / (z + ε s(z)). Of v = max(z, 0) it is x / (1 + |x|) at x = v / ε: z need
    not be kept. Of z itself it is the absolute value of that, at x = z / ε."""
    v, z = node.inputs
    epsilon, positive = float(node.attrs["epsilon"]), bool(node.attrs["positive"])
    if epsilon and (v is z or (v.inputs and v.inputs[0].op == "Relu" and v.inputs[0].inputs[0] is z)):
        share = _softsign(g, v, 1.0 / epsilon)
        return g.Abs(share) if v is z else share
    if epsilon:
        return g.Div(v, stable(g, z, epsilon, positive))
    if v is z:
        return g.cast(g.Not(g.Equal(v, 0.0)), v)
    none = g.Equal(z, 0.0)
    return g.Where(none, g.number(0.0, z), g.Div(v, g.Where(none, g.number(1.0, z), z)))


def _softsign(g: Emit, v: Value, factor: float) -> Value:
    """f v / (1 + |f v|); of float16 in float32, where 1 / ε has room. onnxruntime has no Softsign of doubles from opset
    19 on, so that is spelt out."""
    if v.dtype == np.float64:
        scaled = g.Mul(v, factor)
        return g.Div(scaled, g.Add(g.Abs(scaled), 1.0))
    if v.dtype != np.float16:
        return g.Softsign(g.Mul(v, factor))
    return g.cast(g.Softsign(g.Mul(g.Cast(v, to=int(onnx.TensorProto.FLOAT)), factor)), v)


def stable(g: Emit, z: Value, epsilon: float, positive: bool) -> Value:
    """z + ε s(z). Where z >= 0 and its channels are known ε stands as a bias, which a convolution takes in."""
    if not positive:
        shift = g.Where(g.GreaterOrEqual(z, 0.0), g.number(epsilon, z), g.number(-epsilon, z))
        return g.Add(z, shift)
    shape = list(z.shape or ())
    if len(shape) < 3 or not isinstance(shape[1], int):
        return g.Add(z, epsilon)
    return g.Add(z, g.filled(epsilon, (shape[1], *[1] * (len(shape) - 2)), z))
