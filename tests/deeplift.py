"""What the tests of DeepLIFT share: running an explanation, and the change of the explained tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.graph import assemble, declared, prepare, with_weights
from onnxplain.rewriter.method import Method
from onnxplain.rewriter.target import find_head
from onnxplain.rules.methods_deeplift import DEEPLIFT_MIXED, DEEPLIFT_RESCALE, DEEPLIFT_REVEAL_CANCEL
from tests.rules.forward import session

METHODS = {method.name: method for method in (DEEPLIFT_RESCALE, DEEPLIFT_REVEAL_CANCEL, DEEPLIFT_MIXED)}
DELTA = 1e-4
"""Σ m Δx may be off Δz by this, relative to Δz: float32 sums of thousands of terms are measured at 1e-8 to 3e-5."""

EXACT = 1e-5
"""Relative to the largest element: a few float32 operations."""

Array = NDArray[Any]


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Every output by name; one thread, no optimisation."""
    made = session(model)
    known = {value.name for value in made.get_inputs()}
    values = made.run(None, {name: value for name, value in feeds.items() if name in known})
    return dict(zip((value.name for value in made.get_outputs()), map(np.asarray, values), strict=True))


def explained(
    model: onnx.ModelProto,
    x: Array,
    method: Method = DEEPLIFT_RESCALE,
    target: Any = "cotangent",
    more: Mapping[str, Array] | None = None,
    name: str = "x",
    head: str = "logits",
    **options: Any,
) -> Array:
    """The attribution. target "cotangent": `more` holds it."""
    emitted, _ = compile_model(model, method, Request(target=target, head=head, options=options))
    return run(emitted, {name: x, **(more or {})})["attribution"]


def multipliers(model: onnx.ModelProto, x: Array, ct: Array, x0: Array, **options: Any) -> Array:
    """Rescale's contributions for a cotangent of the output itself, the reference fed row by row."""
    more = {"cotangent": ct, "baseline": x0}
    return explained(model, x, more=more, head="prob", baseline="input", **options)


def head_model(model: onnx.ModelProto, head: str = "logits") -> onnx.ModelProto:
    """The model up to the tensor that is explained, alone."""
    graph = prepare(model)
    value, _ = find_head(graph, graph.outputs[0], head)
    forward = assemble(graph, [], [declared(value)])
    del forward.graph.output[: len(graph.outputs)]
    return with_weights(forward, graph)


def change(
    model: onnx.ModelProto, x: Array, x0: Array, ct: Array, name: str = "x", head: str = "logits"
) -> Array:
    """Σ ct Δz of every sample, in float64; z is what is explained."""
    forward = head_model(model, head)
    ends = [run(forward, {name: np.broadcast_to(v, x.shape).copy()}) for v in (x0, x)]
    before, after = (next(iter(end.values())).astype(np.float64) for end in ends)
    return per_sample(ct.astype(np.float64) * (after - before))


def per_sample(v: Array) -> Array:
    return np.asarray(v.astype(np.float64).reshape(len(v), -1).sum(1))


def imbalance(
    model: onnx.ModelProto,
    x: Array,
    x0: Array,
    ct: Array,
    m: Array,
    name: str = "x",
    head: str = "logits",
) -> float:
    """|Σ m - Σ ct Δz| of the worst sample, relative to the largest |Σ ct Δz| of the batch."""
    want = change(model, x, x0, ct, name, head)
    assert np.abs(want).max() > 0, "an output that does not change proves nothing"
    return float(np.abs(per_sample(m) - want).max() / np.abs(want).max())


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def near(got: Array, want: Array, tolerance: float = EXACT) -> None:
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    assert np.abs(got - want).max() <= tolerance * max(1.0, float(np.abs(want).max()))
