"""The outputs that an explanation adds to the file, their types, and the check of the whole file."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from .draft import Dim
from .emit import Emit
from .errors import ModelError
from .graph import Graph, Value, declared
from .passes.factor import factor
from .passes.lower import lower
from .passes.share import share

ATTRIBUTION, HEATMAP = "attribution", "heatmap"

Result = tuple[str, Value, list[Dim]]
"""(name, value, shape) of an output that the explanation adds."""


def finish(g: Emit, results: Sequence[Result], taken: set[str], provider: str) -> list[onnx.ValueInfoProto]:
    """Name the results, drop and merge what can be, spell the primitives; `g.nodes` is then what to write.
    Raises ModelError where a name is taken."""
    for name, _, _ in results:
        if name in taken:
            raise ModelError(f"the model already has a tensor named {name!r}; is it an explanation itself?")
    named = []
    for name, value, shape in results:
        final = g.Identity(value)
        final.name, final.shape = name, shape
        named.append(final)
    g.nodes, finals = share(g.nodes, named)
    g.nodes, finals = factor(g, finals)
    g.nodes, finals = share(g.nodes, finals)
    nodes, finals = lower(g, finals, provider)
    g.nodes, finals = share(nodes, finals, [node for node, _ in g.spelled])
    return [declared(value) for value in finals]


def vet(model: onnx.ModelProto, graph: Graph) -> None:
    """Full check of the emitted graph, weights standing in as inputs of their type and shape."""
    shell = onnx.ModelProto()
    shell.CopyFrom(model)
    for name, tensor in graph.draft.weights.items():
        shell.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    try:
        onnx.checker.check_model(shell, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"the explanation graph does not pass the checker: {' '.join(str(error).split())[:400]}"
        ) from error
