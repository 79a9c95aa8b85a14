"""Small models frozen at x0: F, r and the transposed system, as the emitted graph gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxplain.rewriter.compile import explained_inputs
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.graph import Value, assemble, declared, prepare, variable, with_weights
from onnxplain.rewriter.results import Result, finish
from onnxplain.rewriter.tape import linearize, pull, push
from onnxplain.rules.methods_scope import OPTIONS
from onnxplain.rules.scope import freeze
from tests.rules.forward import session

Doubles = NDArray[np.float64]
Array = NDArray[Any]
F32 = 1e-5
"""Of Σ |F| |x| + |r|, the size of what float32 adds up; measured below 1e-6 for single nodes."""
OFFSET = {"freeze": "offset", "norm": "stats"}


def net(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    weights: Mapping[str, Any] | None = None,
    opset: int = 20,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    y: str = "y",
) -> onnx.ModelProto:
    """x (N, *shape) -> y; inputs: further ones. Weights that are lists are int64, other numbers float32."""
    arrays = {
        name: np.asarray(value, np.int64 if isinstance(value, list) else None)
        for name, value in (weights or {}).items()
    }
    kept = {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in arrays.items()}
    sizes: dict[str, Sequence[int | str]] = {"x": ["N", *shape], **(inputs or {})}
    graph = helper.make_graph(
        nodes,
        "frozen",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims) for name, dims in sizes.items()],
        [helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in kept.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    made = onnx.shape_inference.infer_shapes(made)
    kind = made.graph.output[0].type.tensor_type
    if not kind.HasField("shape"):  # of normalisations, which have the shape of x
        kind.CopyFrom(helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, ["N", *shape]).tensor_type)
    return made


def node(op: str, *inputs: str, y: str = "y", **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [y], f"{op.lower()}_{y}", **attrs)


LineOf = Callable[[Doubles, Doubles], Doubles]
"""y1 = f(x0, x1), in float64."""
EDGE = np.asarray(
    [[0.0, 1e-6, -1e-6, 1.0, -1.0, 6.0, 5.999, 0.5, -0.25, 1e4, -1e4, 3.0]], np.float32
)  # zeros, kinks, bounds and large values of the piecewise linear nodes


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Frozen:
    """A model frozen at x0 (one sample, or a batch): y0, F of the first sample, r; checked at once are y1 = y0 at
    x1 = x0, that y1 = F x1 + r elsewhere, and ⟨F t, c⟩ = ⟨t, F'c⟩. rows: several tangents of one sample can be run
    together."""

    def __init__(
        self,
        model: onnx.ModelProto,
        x0: Array,
        *,
        more: Mapping[str, Array] | None = None,
        rows: bool = True,
        **options: str,
    ) -> None:
        settled = {**{name: option.default for name, option in OPTIONS.items()}, **options}
        self.x0, self.more = np.asarray(x0, np.float32), dict(more or {})
        self._sessions = [session(_emitted(model, settled, affine)) for affine in (False, True)]
        y0 = self._run(self.x0, self.x0)["y0"]
        self.shape = y0.shape[1:]
        units = _unit(self.x0)
        steps = [units] if rows else [units[i : i + 1] for i in range(len(units))]
        runs = [self._run(self.x0[:1], t) for t in steps]
        self.y0: Doubles = y0[:1].astype(np.float64).ravel()
        columns = [run["pushed"].reshape(len(t), -1) for run, t in zip(runs, steps, strict=True)]
        self.F: Doubles = np.concatenate(columns).T.astype(np.float64)
        self.r: Doubles = runs[0]["rest"].astype(np.float64).ravel()
        self._check(y0, rows)

    def _run(self, x0: Array, t: Array, c: Array | None = None) -> dict[str, Array]:
        feeds = {"x": x0, "tangent": t.astype(np.float32), **self.more}
        if c is None:
            c = np.zeros((len(t), *self._tail()), np.float32)
        feeds["cotangent"] = c.astype(np.float32)
        found: dict[str, Array] = {}
        for run in self._sessions:
            names = [value.name for value in run.get_outputs()]
            found.update(zip(names, map(np.asarray, run.run(None, feeds)), strict=True))
        return found

    def _tail(self) -> tuple[int, ...]:
        shape = next(v.shape for v in self._sessions[0].get_inputs() if v.name == "cotangent")
        return tuple(dim if isinstance(dim, int) else 1 for dim in shape[1:])

    def _check(self, y0: Array, many: bool) -> None:
        rng = np.random.default_rng(0)
        x1 = rng.normal(size=self.x0.shape).astype(np.float32)
        for at, wanted in ((self.x0, y0), (x1, None)):
            got = self._run(self.x0, at)
            want = got["pushed"] + got["rest"] if wanted is None else wanted
            assert got["affine"].shape == want.shape
            size = np.abs(got["pushed"]) + np.abs(got["rest"]) + np.abs(want)
            assert np.isfinite(got["affine"]).all()
            off = np.abs(got["affine"] - want) - F32 * size
            assert (off <= 1e-6 * np.abs(want).max(initial=1e-3)).all(), float(off.max())
        for rows in (len(self.x0), *([3] if many and len(self.x0) == 1 else [])):
            t, c = rng.normal(size=(rows, *self.x0.shape[1:])), rng.normal(size=(rows, *y0.shape[1:]))
            got = self._run(self.x0, t, c)
            there, back = got["pushed"] * c.astype(np.float32), got["pulled"] * t.astype(np.float32)
            assert got["pushed"].shape == c.shape and got["pulled"].shape == t.shape
            size = float(np.abs(there).sum() + np.abs(back).sum())
            assert abs(float(there.sum(dtype=np.float64) - back.sum(dtype=np.float64))) <= F32 * size + 1e-9

    def agrees(self, F: Any, r: Any, tolerance: float = F32) -> None:
        """Slope and offset of the first sample against float64 ones; relative to each one's largest element."""
        for name, mine, want in (("F", self.F, F), ("r", self.r, r)):
            wanted = np.broadcast_to(np.asarray(want, np.float64), mine.shape)
            worst = float(np.abs(mine - wanted).max(initial=0))
            assert worst <= tolerance * max(1.0, float(np.abs(wanted).max(initial=0))), (
                f"{name} is off by {worst}"
            )


def _unit(x0: Array) -> Array:
    return np.eye(x0[0].size, dtype=np.float32).reshape(-1, *x0.shape[1:])


def _emitted(model: onnx.ModelProto, options: Mapping[str, Any], affine: bool) -> onnx.ModelProto:
    """y0, F t, r and F'c of one model; or F t + r in one pass. A file cannot give one tensor under two names."""
    graph = prepare(model)
    g = Emit(graph)
    (x,) = explained_inputs(graph, ("x",))
    head = graph.outputs[0]
    tape = linearize(graph, [x], head, freeze(options), g)
    t, c = _rows("tangent", x), _rows("cotangent", head)
    found: dict[str, Value] = {"affine": push(tape, {x.name: t}, g, affine=True)[head.name]}
    if not affine:
        none = g.Expand(g.number(0.0, head), g.Shape(head))
        found = {
            "pushed": push(tape, {x.name: t}, g)[head.name],
            "rest": push(tape, {}, g, affine=True).get(head.name, none),
            "pulled": pull(tape, {head.name: c}, g)[x.name],
            "y0": head,
        }
    tail = list(head.shape[1:])
    results: list[Result] = [
        (name, value, ["K", *(x.shape[1:] if name == "pulled" else tail)]) for name, value in found.items()
    ]
    infos = finish(g, results, set(graph.values) | {"tangent", "cotangent"}, "portable")
    made = assemble(graph, g.nodes, infos)
    made.graph.input.extend(declared(value) for value in (t, c))
    del made.graph.output[: len(graph.outputs)]
    return with_weights(made, graph)


def _rows(name: str, like: Value) -> Value:
    return variable(name, like.dtype, ["K", *like.shape[1:]])


def line(f: LineOf, x0: Array) -> tuple[Doubles, Doubles]:
    """(F, r) of y1 = f(x0, x1), affine in x1, of the first sample."""
    at = np.asarray(x0[:1], np.float32).astype(np.float64)
    r = np.asarray(f(at, np.zeros_like(at)), np.float64).ravel()
    units = np.eye(at.size).reshape(-1, *at.shape)
    return np.stack([np.asarray(f(at, unit)).ravel() - r for unit in units], axis=1), r
