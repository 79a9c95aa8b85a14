"""Nodes that do y = scale x + shift to each channel: inference BatchNormalization, and arithmetic with constants."""

from __future__ import annotations

from dataclasses import dataclass

from ..graph import Node, Value
from .vectors import ONE, ZERO, Numbers, Vector, number, vector
from .view import View


@dataclass(frozen=True)
class Channels:
    """The channel axis of a tensor of a given rank, and its size."""

    rank: int
    axis: int
    size: int


@dataclass(frozen=True)
class Scaling:
    """y = scale x + shift, per channel."""

    scale: Vector
    shift: Vector

    def after(self, first: Scaling, do: Numbers) -> Scaling:
        """This one behind another one."""
        return Scaling(do.mul(self.scale, first.scale), do.add(do.mul(self.scale, first.shift), self.shift))


NOTHING = Scaling(ONE, ZERO)


def scaled_input(view: View, node: Node) -> Value | None:
    """What a node scales, if it is of the kind: its one input that depends on the model's input."""
    if node.domain or len([y for y in node.outputs if y.name]) != 1:
        return None
    if node.op == "BatchNormalization":
        return node.inputs[0]
    if node.op not in ("Mul", "Div", "Add", "Sub"):
        return None
    moving = [x for x in node.inputs if not view.parameter(x)]
    return moving[0] if len(moving) == 1 else None


def scaling(view: View, node: Node, at: Channels, do: Numbers) -> Scaling | None:
    """What the node does to a tensor with these channels; None where it is not the same for every position of
    a channel, or changes the shape."""
    if scaled_input(view, node) is None:
        return None
    return (_batch_norm if node.op == "BatchNormalization" else _arithmetic)(view, node, at, do)


def _batch_norm(view: View, node: Node, at: Channels, do: Numbers) -> Scaling | None:
    """s = γ / √(v + ε), shift β - s μ. ε stands wholly inside s."""
    if at.axis != 1 or node.attrs.get("training_mode", 0) or node.attrs.get("spatial", 1) != 1:
        return None
    gamma, beta, mean, variance = (vector(view, do.g, value, 1, 0, at.size) for value in node.inputs[1:5])
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    s = do.div(gamma, do.sqrt(do.add(variance, number(float(node.attrs.get("epsilon", 1e-5))))))
    return Scaling(s, do.sub(beta, do.mul(mean, s)))


def _arithmetic(view: View, node: Node, at: Channels, do: Numbers) -> Scaling | None:
    first = not view.parameter(node.inputs[0])
    c = vector(view, do.g, node.inputs[1 if first else 0], at.rank, at.axis, at.size)
    if c is None or (node.op == "Div" and not first):
        return None
    if node.op == "Add":
        return Scaling(ONE, c)
    if node.op == "Sub":
        return Scaling(ONE, do.sub(ZERO, c)) if first else Scaling(number(-1.0), c)
    return Scaling(c, ZERO) if node.op == "Mul" else Scaling(do.div(ONE, c), ZERO)
