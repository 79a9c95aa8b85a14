"""One node while it is brought to a later opset: what a step reads of it, and what it may change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...errors import ModelError
from ..shapes import TensorType


@dataclass(frozen=True)
class Scope:
    """What is known about the tensors that a node may read: types by shape inference, and constants."""

    types: Callable[[], dict[str, TensorType]]
    constants: dict[str, onnx.TensorProto]


@dataclass
class Spot:
    """version: the opset that the step leads to. before, after: nodes that the step adds around the node. A step keeps
    the names of the tensors that the node makes."""

    node: onnx.NodeProto
    scope: Scope
    fresh: Callable[[str], str]
    """A name that the model does not have yet, from a hint."""
    version: int = 0
    before: list[onnx.NodeProto] = field(default_factory=list)
    after: list[onnx.NodeProto] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, texts as str."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def pop(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, which the node has no more."""
        value = self.get(name, default)
        kept = [attribute for attribute in self.node.attribute if attribute.name != name]
        del self.node.attribute[:]
        self.node.attribute.extend(kept)
        return value

    def set(self, name: str, value: Any) -> None:
        self.pop(name)
        self.node.attribute.append(helper.make_attribute(name, value))

    def input(self, i: int) -> str:
        """The name of an input; '' for one that is left out."""
        return str(self.node.input[i]) if i < len(self.node.input) else ""

    def put(self, i: int, name: str) -> None:
        """Set an input; those before it that are not there are left out."""
        self.node.input.extend([""] * (i + 1 - len(self.node.input)))
        self.node.input[i] = name

    def constant(self, values: object, dtype: Any = np.int64) -> str:
        """A Constant in front of the node; integers unless dtype says otherwise."""
        tensor = numpy_helper.from_array(np.asarray(values, dtype))
        return self.add("Constant", [], value=tensor)

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node in front of this one; the name of what it makes."""
        name = self.fresh(f"{self.node.output[0]}/{op}")
        self.before.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def behind(self, op: str, *more: str, output: int = 0, **attributes: Any) -> None:
        """A node behind this one, which takes over the name of one of its outputs. Later calls lie nearer."""
        name = self.node.output[output]
        self.node.output[output] = self.fresh(f"{name}/before")
        made = [self.node.output[output], *more]
        self.after.insert(0, helper.make_node(op, made, [name], self.fresh(f"{name}/{op}"), **attributes))

    def array(self, name: str) -> np.ndarray | None:
        """The values of a constant."""
        tensor = self.scope.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def rank(self, name: str) -> int:
        """Number of axes; refuses where it is not known."""
        found = self.scope.types().get(name)
        if found is None or found.shape is None:
            self.refuse(f"the number of axes of {name!r} is not known")
        return len(found.shape)

    def dtype(self, name: str) -> np.dtype[Any] | None:
        found = self.scope.types().get(name)
        return None if found is None else found.dtype

    def refuse(self, reason: str) -> NoReturn:
        name = self.node.name or self.node.output[0]
        raise ModelError(
            f"{self.node.op_type} at {name!r} cannot be brought to opset {self.version}: {reason}; export the model "
            "with opset 18"
        )
