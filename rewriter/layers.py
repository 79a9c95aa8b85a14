"""Find the activation that a class activation map is made of, and which of its axes holds the channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .draft import Dim
from .errors import OptionError, nearest
from .graph import Graph, Node, Value
from .tape import carries, touched

POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
WINDOWS = POOLS | frozenset(
    "Conv ConvTranspose DeformConv GlobalAveragePool GlobalMaxPool GlobalLpPool BatchNormalization "
    "InstanceNormalization GroupNormalization LRN DepthToSpace SpaceToDepth".split()
)
"""Operators that the specification gives the layout (N, C, spatial...)."""
MOVES = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})
MIXES = frozenset("MatMul Gemm Einsum LSTM GRU RNN Attention".split())
"""Their outputs have channels wherever the model likes."""
AFFINE = MOVES | frozenset("Conv Add Sub Pad BatchNormalization Cast Identity Dropout Concat Slice".split())
"""Beside products and quotients with a parameter."""


def candidates(graph: Graph, wrt: Sequence[Value], head: Value) -> list[Value]:
    """The tensors that every path from the inputs to the head goes through, in order."""
    nodes, active = [], {x.name for x in wrt}
    for node in touched(graph, wrt, head):  # what reads a shape only carries nothing
        if any(x.name in active for x in node.inputs) and any(carries(y) for y in node.outputs):
            nodes.append(node)
            active.update(y.name for y in node.outputs)
    active = {x.name for x in wrt}
    last_read: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for x in (*(x.name for x in node.inputs), *graph.hidden.get(node.name, ())):
            last_read[x] = i
    found: list[Value] = []
    latest = max((last_read.get(name, -1) for name in active), default=-1)
    for i, node in enumerate(nodes):
        if latest <= i and len(node.outputs) == 1:
            found.append(node.outputs[0])
        latest = max(latest, *(last_read.get(y.name, -1) for y in node.outputs))
    return found


def find_layer(graph: Graph, wrt: Sequence[Value], head: Value, name: str | None = None) -> Value:
    """The layer named (a tensor, or a node with one output), or the default: the last tensor with channels and more
    than one cell on every path to the head, after its activation and before a pool that follows it. Its channels are
    those that a convolution, a pool or a normalisation gave it, in any order (see `channel_axis`); it has the spatial
    axes of the input where a tensor has, and is no view that a normalisation was exported with.

    Raises OptionError when there is none, or no such name; the message lists what can be chosen.
    """
    nodes = touched(graph, wrt, head)
    axes = _axes(nodes)
    usual = [v for v in candidates(graph, wrt, head) if _spatial(v, axes.get(v.name)) and v is not head]
    if name is not None:
        return _named(nodes, usual, name)
    makers = {y.name: node for node in nodes for y in node.outputs}
    usual = [
        value for value in usual if makers[value.name].op not in MOVES and not _viewed(makers[value.name])
    ]
    ranks = {len(x.shape or ()) for x in wrt}
    usual = [value for value in usual if len(value.shape) in ranks] or usual
    if not usual:
        raise OptionError(
            "layer: no activation with channels and a spatial extent lies on every path to the target; "
            "name a tensor with layer="
        )
    chosen = usual.pop()
    while makers[chosen.name].op in POOLS and usual:
        chosen = usual.pop()
    if _embeds(graph, wrt, head, chosen):
        raise OptionError(
            f"layer: the last activation with a spatial extent, {chosen.name!r}, is a linear projection of the input, "
            "and attention mixes its cells behind it: it shows no evidence for a class. Choose another method, or "
            "name that tensor with layer= all the same"
        )
    return chosen


def channel_axis(graph: Graph, wrt: Sequence[Value], head: Value, value: Value) -> int | None:
    """Which axis of a tensor holds the channels, as far as the operators tell: those in WINDOWS read and write
    (N, C, spatial...), a Transpose moves the axis, operators on elements keep it. None where they do not tell."""
    return _axes(touched(graph, wrt, head)).get(value.name)


def _axes(nodes: Sequence[Node]) -> dict[str, int]:
    """Tensor -> its axis of channels: of what comes behind an operator that has a layout, and of what one reads."""
    axes = _made(nodes)
    for node in reversed(nodes):  # what a convolution reads has its channels there too
        axis = 1 if node.op in WINDOWS else next((axes[y.name] for y in node.outputs if y.name in axes), None)
        x = node.inputs[0] if node.op in WINDOWS else None
        for read in node.inputs if x is None else [x]:
            if axis is None or read.name in axes or read.shape is None or node.op in MIXES:
                continue
            if node.op == "Transpose":
                axes[read.name] = (
                    int(node.attrs["perm"][axis]) if "perm" in node.attrs else len(read.shape) - 1 - axis
                )
            elif node.op in WINDOWS or (
                node.op not in MOVES and len(read.shape) == len(node.outputs[0].shape or ())
            ):
                axes[read.name] = axis
    return axes


def _made(nodes: Sequence[Node]) -> dict[str, int]:
    """Tensor -> its axis of channels, for what comes behind the first operator that has a layout."""
    axes: dict[str, int] = {}
    views: dict[str, tuple[int, Sequence[Dim]]] = {}
    for node in nodes:
        found = _back(node, views) if node.op == "Reshape" else _after(node, axes)
        view: tuple[int, Sequence[Dim]] | None
        if node.op == "Reshape" and node.inputs[0].name in axes:
            view = (axes[node.inputs[0].name], node.inputs[0].shape)
        else:
            stays = node.op not in MOVES | MIXES
            view = next((views[x.name] for x in node.inputs if stays and x.name in views), None)
        for y in node.outputs:
            if view is not None:
                views[y.name] = view
            if found is not None and y.shape is not None and len(y.shape) > found:
                axes[y.name] = found
    return axes


def _back(node: Node, views: Mapping[str, tuple[int, Sequence[Dim]]]) -> int | None:
    """The axis of channels of a tensor that was looked at in another shape, and has its own again: exporters write
    GroupNormalization so. views: tensor -> axis and shape of what it is a view of."""
    if node.inputs[0].name not in views:
        return None
    axis, shape = views[node.inputs[0].name]
    now = node.outputs[0].shape
    if now is None or len(now) != len(shape) or not isinstance(now[axis], int) or now[axis] != shape[axis]:
        return None
    pairs = zip(now[1:], shape[1:], strict=True)
    fits = all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))
    return axis if fits else None


def _after(node: Node, axes: Mapping[str, int]) -> int | None:
    """The axis of channels of a node's outputs, from those of its inputs."""
    if node.op in WINDOWS:
        return 1
    known = [(axes[x.name], len(x.shape)) for x in node.inputs if x.name in axes]
    if node.op == "Transpose" and known:
        perm = node.attrs.get("perm", range(known[0][1])[::-1])
        return list(perm).index(known[0][0])
    ranks = {len(y.shape) for y in node.outputs if y.shape is not None}
    if node.op in MOVES | MIXES or len(set(known)) != 1 or ranks != {known[0][1]}:
        return None
    return known[0][0]


def _viewed(node: Node) -> bool:
    """Whether a normalisation works on a view: exporters write GroupNormalization as Reshape to (N, groups, -1),
    InstanceNormalization and Reshape back, where neither axis is one of channels or cells."""
    before = node.inputs[0].inputs[0].op if node.inputs and node.inputs[0].inputs else ""
    return node.op == "InstanceNormalization" and before == "Reshape"


def _embeds(graph: Graph, wrt: Sequence[Value], head: Value, layer: Value) -> bool:
    """Whether a layer is the patch embedding of a transformer: nothing but affine operators before it, products of
    two activations behind it."""
    before, live = touched(graph, wrt, layer), {x.name for x in wrt}
    for node in before:
        scaled = node.op in ("Mul", "Div") and sum(x.name in live for x in node.inputs) == 1
        if node.op not in AFFINE and not scaled:
            return False
        live.update(y.name for y in node.outputs)
    behind, live = touched(graph, [layer], head), {layer.name}
    for node in behind:
        if node.op in MIXES and sum(x.name in live for x in node.inputs) > 1:
            return True
        live.update(y.name for y in node.outputs)
    return False


def _named(nodes: Sequence[Node], usual: Sequence[Value], name: str) -> Value:
    values = {y.name: y for node in nodes for y in node.outputs}
    values |= {node.name: node.outputs[0] for node in nodes if node.name not in values}
    some = ", ".join(value.name for value in usual[-5:]) or "none"
    if name not in values:
        raise OptionError(
            f"layer: no tensor or node {name!r} between input and target{nearest(name, values)}; "
            f"the usual ones here: {some}"
        )
    chosen = values[name]
    rank = len(chosen.shape or ())
    if not carries(chosen) or rank < 3 or (rank == 3 and chosen.name not in _made(nodes)):
        raise OptionError(
            f"layer: {name!r} has no channels and spatial axes (shape {chosen.shape}); a map needs (N, C, spatial...) "
            f"as a convolution makes it; the usual ones here: {some}"
        )
    return chosen


def _spatial(value: Value, axis: int | None) -> bool:
    if value.shape is None or len(value.shape) < 3 or axis is None:
        return False
    cells = [dim for i, dim in enumerate(value.shape) if i not in (0, axis)]
    return any(not isinstance(dim, int) or dim > 1 for dim in cells)
