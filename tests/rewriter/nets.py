"""Small models written as ONNX text, and what the tests of the rewriter do with them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import parser

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.draft import Draft, draft
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.graph import Graph, prepare
from onnxplain.rewriter.rules import Rules
from onnxplain.rewriter.tape import Tape, linearize
from onnxplain.rules.gradient import GRADIENT
from onnxplain.rules.registry import find
from tests.rules.forward import session


def net(body: str, opset: int = 18, ir: int = 8, more: str = "", functions: str = "") -> onnx.ModelProto:
    """A model from the text of its graph. more: further opset imports; functions: text behind the graph."""
    imports = f'"" : {opset}' + (f", {more}" if more else "")
    return parser.parse_model(f"<ir_version: {ir}, opset_import: [{imports}]>\n{body}\n{functions}")


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output by name; one thread, no optimisation."""
    made = session(model)
    names = [value.name for value in made.get_outputs()]
    return dict(zip(names, map(np.asarray, made.run(None, dict(feeds))), strict=True))


def explained(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    request: Request | None = None,
    method: str = "saliency",
) -> dict[str, np.ndarray]:
    """Outputs of the explanation graph."""
    made, _ = compile_model(model, find(method), request or Request(target="top"))
    return run(made, feeds)


def sealed(work: Draft) -> onnx.ModelProto:
    """The draft as a model that can be run: its heavy weights back in place. Checked in full."""
    model = onnx.ModelProto()
    model.CopyFrom(work.model)
    model.graph.initializer.extend(work.weights.values())
    onnx.checker.check_model(model, full_check=True)
    return model


def ops(work: Draft) -> list[str]:
    return [node.op_type for node in work.graph.node]


def drafted(body: str, opset: int = 18, ir: int = 8) -> Draft:
    return draft(net(body, opset, ir))


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal numbers, float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unchanged(work: Draft, before: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> None:
    """The checker passes, and every output is what it was, to the bit."""
    want, got = run(before, feeds), run(sealed(work), feeds)
    assert list(got) == list(want)
    for name in want:
        assert got[name].dtype == want[name].dtype
        assert np.array_equal(got[name], want[name], equal_nan=want[name].dtype.kind == "f"), name


def tape_of(
    model: onnx.ModelProto, rules: Rules = GRADIENT, wrt: tuple[str, ...] = ("x",), target: str = "y"
) -> tuple[Tape, Graph, Emit]:
    graph = prepare(model)
    g = Emit(graph)
    return linearize(graph, [graph.values[name] for name in wrt], graph.values[target], rules, g), graph, g
