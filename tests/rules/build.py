"""Models of one node, and both directions of their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxplain.rewriter.testing import Maps, Subject, apply, check_adjoint, check_tangent, maps, primal
from onnxplain.rules.gradient import GRADIENT
from tests.rules.forward import Runner

Dims = Sequence[Any]  # sizes and symbols


def one_node(
    op: str,
    inputs: Mapping[str, tuple[Dims, type]],
    constants: Mapping[str, np.ndarray] | None = None,
    order: Sequence[str] | None = None,
    rank: int = 4,
    outputs: int = 1,
    opset: int = 18,
    **attributes: Any,
) -> onnx.ModelProto:
    """y, y1, ... = op(*order); order: names of inputs and constants, '' for an omitted one."""
    constants = constants or {}
    names = list(order) if order is not None else [*inputs, *constants]
    made = ["y", *(f"y{i}" for i in range(1, outputs))]
    node = helper.make_node(op, names, made, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [_info(name, dtype, dims) for name, (dims, dtype) in inputs.items()],
        [_info(name, np.float32, [f"{name}{i}" for i in range(rank)]) for name in made],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _info(name: str, dtype: type, dims: Dims) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(dims))


class Probe:
    """A linearised model at one point: y, and pulls of random cotangents; adjointness is checked at once."""

    def __init__(
        self,
        model: onnx.ModelProto,
        feeds: Mapping[str, np.ndarray],
        *,
        output: str = "y",
        inputs: tuple[str, ...] = ("x",),
        rows: int | None = None,
        tangent: bool = False,
        seed: int = 0,
    ) -> None:
        self.run, self.feeds = Runner(), feeds
        subject = Subject(inputs=inputs, output=output)
        self.both: Maps = maps(model, GRADIENT, subject)
        rng = np.random.default_rng(seed)
        check_adjoint(model, GRADIENT, feeds, rng, run=self.run, subject=subject, rows=rows)
        if tangent:
            check_tangent(model, GRADIENT, feeds, rng, run=self.run, subject=subject)
        self.y = primal(self.both, feeds, self.run)
        shape = self.y.shape if rows is None else (rows, *self.y.shape[1:])
        self.ct = rng.uniform(-1, 1, shape).astype(self.y.dtype)
        tangents = {
            name: np.zeros((rows or len(feeds[name]), *feeds[name].shape[1:]), feeds[name].dtype)
            for name in inputs
        }
        _, pulled = apply(self.both, feeds, tangents, self.ct, self.run)
        self.pulled = dict(zip(inputs, pulled, strict=True))

    def agrees(self, expected: np.ndarray, name: str = "x") -> None:
        """float32 sums of up to a few hundred terms: 1e-5 of the largest element (measured: below 2e-6)."""
        got = self.pulled[name]
        assert got.shape == expected.shape
        assert np.abs(got - expected).max(initial=0) <= 1e-5 * max(
            1.0, float(np.abs(expected).max(initial=0))
        )
