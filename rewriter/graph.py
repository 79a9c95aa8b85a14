"""The prepared forward model as linked objects: what rules look at and what the explanation is added to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from .draft import Dim, Draft, captured, draft, make_attribute
from .errors import ModelError
from .passes.batch import free_batch, leading_names
from .passes.canonical import drop_identities, explicit_windows
from .passes.ceil import settle_ceil
from .passes.constants import drop_unread, fold, fold_sizes
from .passes.functions import inline
from .passes.operands import vet_operands
from .passes.opset import lift
from .passes.order import forget_unknown, sort_nodes, type_outputs
from .passes.pixels import cast_first
from .passes.shapes import TensorType, fix_inputs, infer, vet_shapes
from .rows import Rows

if TYPE_CHECKING:

    class Value:
        """A tensor: name, numpy dtype or None, shape (list of int, symbol or None; None: unknown rank)."""

        name: str
        dtype: Any
        shape: Any
        inputs: list[Node]
        outputs: list[Node]

    class Node:
        """An operator: its ONNX name, attributes, and the tensors it reads and makes."""

        op: str
        name: str
        domain: str | None
        attrs: dict[str, Any]
        inputs: list[Value]
        outputs: list[Value]

else:
    Value, Node = gs.Tensor, gs.Node

Shape: TypeAlias = Sequence[Dim]

LOOP = "onnxplain/loop"
"""Name of the node whose body is the explanation graph, where a method averages over samples."""


def is_value(x: object) -> TypeGuard[Value]:
    return isinstance(x, gs.Tensor)


def variable(name: str = "", dtype: Any = None, shape: Shape | None = None) -> Value:
    """A tensor without a value; without a name it stands for an omitted input."""
    made: Any = gs.Variable(name, dtype=dtype, shape=None if shape is None else list(shape))  # pyright: ignore
    return made  # type: ignore[no-any-return]


def parameter(name: str, array: np.ndarray) -> Value:
    made: Any = gs.Constant(name, array)
    return made  # type: ignore[no-any-return]


def operator(
    op: str, name: str, attrs: dict[str, Any], inputs: list[Value], outputs: list[Value], domain: str
) -> Node:
    made: Any = gs.Node(op, name, attrs, inputs, outputs, domain=domain)  # pyright: ignore
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Graph:
    """A forward model in the compiler's form: opset >= 18, no functions, constants folded, windows explicit.

    `nodes` are in topological order. Values are graphsurgeon tensors whose `dtype` and `shape` are filled
    where known (a dim is an int, a symbol, or None; `shape` is None when the rank is unknown).
    """

    draft: Draft
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    hidden: Mapping[str, frozenset[str]]
    """Node name -> outer tensors its subgraphs read."""
    twin: Callable[[Node], Node] | None = None
    """A node -> the same node at the reference input, for the methods that compare with one."""
    rows: Rows = field(default_factory=Rows)
    """Where the samples of the batch are, seen from the explained inputs."""

    def constant(self, value: Value | None) -> np.ndarray | None:
        """The array behind a parameter, or None when it is not known at compile time."""
        if value is None:
            return None
        if isinstance(value, gs.Constant):
            return np.asarray(value.values)
        tensor = self.draft.weights.get(value.name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    @property
    def opset(self) -> int:
        return self.draft.opset


def prepare(model: onnx.ModelProto, shapes: Mapping[str, tuple[Dim, ...]] | None = None) -> Graph:
    """Run the passes and link the graph. Raises ModelError (malformed, opset), OptionError (shapes), and
    TargetError (shapes that free a batch which does not go through)."""
    work = draft(model)
    sort_nodes(work)
    forget_unknown(work)
    type_outputs(work)
    _check(work)
    inline(work)
    settle_ceil(
        work
    )  # before shape inference writes sizes down, and again once constants and sizes are known
    lift(work)
    wanted = leading_names(work, shapes or {})
    if shapes:
        fix_inputs(work, dict(shapes), keep=wanted)
    fold(work)
    vet_shapes(work)
    cast_first(work)
    settle_ceil(work)
    drop_identities(work)
    drop_unread(work)
    free_batch(work, wanted)
    _name_nodes(work)
    types = infer(work)
    if fold_sizes(work, types):
        types = infer(work)
    vet_operands(work, types)
    explicit_windows(work, types)
    del work.graph.value_info[:]
    return link(work, types)


def _check(work: Draft) -> None:
    """Form, not cost: names, types, attributes, topological order."""
    try:
        onnx.checker.check_model(work.closed())
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the model is malformed: {' '.join(str(error).split())[:300]}") from error


def _name_nodes(work: Draft) -> None:
    """Unnamed nodes, and nodes that share a name, get one by operator and position, so that a message can
    point at them."""
    seen: set[str] = set()
    for i, node in enumerate(work.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_{i}"
        seen.add(node.name)


def link(work: Draft, types: Mapping[str, TensorType]) -> Graph:
    net = _imported(work)
    values: Any = net.tensors()
    for name, known in types.items():
        value: Any = values.get(name)
        if isinstance(value, gs.Variable):
            _set_type(value, known)
    return Graph(
        draft=work,
        inputs=tuple(values[value.name] for value in work.graph.input),
        outputs=tuple(values[value.name] for value in work.graph.output),
        nodes=tuple(net.nodes),
        values=values,
        hidden={node.name: frozenset(captured(node)) for node in work.graph.node if _nested(node)},
    )


def _imported(work: Draft) -> Any:
    try:
        return gs.import_onnx(work.closed())
    except (
        Exception
    ) as error:  # graphsurgeon has no errors of its own: whatever a field it cannot read leads to
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"the model holds what cannot be linked: {why}; export it again") from error


def _set_type(value: Any, known: TensorType) -> None:
    value.dtype = known.dtype
    value.shape = None if known.shape is None else list(known.shape)


def _nested(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def proto(node: Node) -> onnx.NodeProto:
    """A NodeProto of an emitted node; its attributes are plain numbers, strings and lists."""
    made = helper.make_node(
        node.op, [x.name for x in node.inputs], [y.name for y in node.outputs], node.name, domain=node.domain
    )
    made.attribute.extend(make_attribute(key, value) for key, value in node.attrs.items())
    return made


def assemble(
    graph: Graph,
    nodes: Sequence[Node],
    outputs: Iterable[onnx.ValueInfoProto],
    stated: Sequence[Value] = (),
) -> onnx.ModelProto:
    """The forward model with emitted nodes, their constants and extra outputs added; weights come last, once. stated:
    emitted tensors whose types are written down."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.draft.model)
    made = {id(y) for node in nodes for y in node.outputs}
    model.graph.value_info.extend(_rows(graph))
    model.graph.value_info.extend(declared(value) for value in stated if id(value) in made)
    append(model.graph, graph, nodes)
    model.graph.output.extend(outputs)
    return model


RESHAPING = frozenset({"Reshape", "Expand", "Tile"})


def _rows(graph: Graph) -> list[onnx.ValueInfoProto]:
    """The types of tensors that still count the samples of the batch, where onnxruntime's own inference loses sight of
    it. Two tensors stay in the blocked layout together only if it knows that they have the same rows."""
    outputs = {value.name for value in graph.outputs}
    made = [y for node in graph.nodes if node.op in RESHAPING and not node.domain for y in node.outputs]
    return [
        declared(y)
        for y in made
        if y.dtype is not None and y.shape and isinstance(y.shape[0], str) and y.name not in outputs
    ]


def declared(value: Value) -> onnx.ValueInfoProto:
    """Its name, type and shape as a file states them."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return helper.make_tensor_value_info(value.name, element, value.shape)


def append(
    target: onnx.GraphProto,
    graph: Graph,
    nodes: Iterable[Node],
    *,
    reads: Iterable[Value] = (),
    outer: str | None = None,
) -> None:
    """Write emitted nodes, and the constants that they or `reads` need, behind what is in the graph. outer: the scope
    of an enclosing graph, whose constants are read from there."""
    known = {tensor.name for tensor in target.initializer} | set(graph.values)
    wanted = list(reads)
    for node in nodes:
        target.node.append(proto(node))
        wanted += node.inputs
    for x in wanted:
        if (
            isinstance(x, gs.Constant)
            and x.name not in known
            and not (outer and x.name.startswith(f"{outer}/"))
        ):
            known.add(x.name)
            target.initializer.append(numpy_helper.from_array(np.asarray(x.values), x.name))


def with_weights(model: onnx.ModelProto, graph: Graph) -> onnx.ModelProto:
    """The weights, where the forward nodes are: in the model's graph, or in the body of its loop."""
    loops = [node for node in model.graph.node if node.op_type == "Loop" and node.name == LOOP]
    home = loops[0].attribute[0].g if loops else model.graph
    home.initializer.extend(graph.draft.weights.values())
    return model
