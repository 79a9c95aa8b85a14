"""What an optimisation on the host needs: gradient files without the passes that it does not look at, and Adam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from ...rewriter.draft import captured
from ...rewriter.respell import forget_spelling, read_spelling

Floats = npt.NDArray[np.float64]


def trimmed(model: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """The nodes and weights that some tensors of an emitted file need, and these tensors as its outputs; its inputs
    stay. onnxruntime runs every node of a file, whatever outputs are asked for: a loss at another input than the
    model's own would pay for the model's outputs too."""
    needed, kept = set(outputs), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input) | captured(node)
            kept.append(node)
    made = onnx.ModelProto()
    made.CopyFrom(_shell(model))
    made.graph.name = model.graph.name
    made.graph.input.extend(model.graph.input)
    made.graph.node.extend(reversed(kept))
    made.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    made.graph.sparse_initializer.extend(
        tensor for tensor in model.graph.sparse_initializer if tensor.values.name in needed
    )
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    made.graph.output.extend(known.get(name, helper.make_empty_tensor_value_info(name)) for name in outputs)
    made.graph.value_info.extend(
        value for value in model.graph.value_info if value.name in needed and value.name not in outputs
    )
    _spelled_again(made)
    return made


def _shell(model: onnx.ModelProto) -> onnx.ModelProto:
    shell = onnx.ModelProto(ir_version=model.ir_version)
    shell.opset_import.extend(model.opset_import)
    shell.functions.extend(model.functions)
    shell.metadata_props.extend(model.metadata_props)
    return shell


def _spelled_again(model: onnx.ModelProto) -> None:
    """The metadata on primitives, for what is left of them."""
    spelling = read_spelling(model)
    if spelling is None:
        return
    made = {name for node in model.graph.node for name in node.output}
    forget_spelling(model)
    kept = [entry for entry in spelling.entries if entry["output"] in made]
    replace(spelling, entries=kept).stamp(model)


@dataclass(frozen=True)
class Adam:
    """m ← β1 m + (1 - β1) g,  v ← β2 v + (1 - β2) g²,  x ← x - rate m̂ / (√v̂ + ε), with m̂ = m / (1 - β1^t) and
    v̂ = v / (1 - β2^t) at step t = 1, 2, ... Kingma & Ba 2015, Algorithm 1."""

    rate: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def step(self, x: Floats, gradient: npt.ArrayLike, moments: Moments | None) -> tuple[Floats, Moments]:
        """moments: what the last step returned; None before the first one."""
        g = np.asarray(gradient, np.float64)
        before = moments or Moments(np.zeros_like(g), np.zeros_like(g), 0)
        t = before.steps + 1
        first = self.beta1 * before.first + (1 - self.beta1) * g
        second = self.beta2 * before.second + (1 - self.beta2) * g * g
        mean, spread = first / (1 - self.beta1**t), second / (1 - self.beta2**t)
        return x - self.rate * mean / (np.sqrt(spread) + self.epsilon), Moments(first, second, t)


@dataclass(frozen=True)
class Moments:
    """Running means of a gradient and of its square."""

    first: Floats
    second: Floats
    steps: int


__all__ = ["Adam", "Floats", "Moments", "trimmed"]
