"""Running small models with onnxruntime, and their difference quotients."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

SILENT = 4
TYPES = (("Cast", "to"), ("GroupNormalization", "stash_type"))
"""Attributes that name a type to compute in."""


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """One thread, no graph optimisation: what is tested is the emitted file, node by node."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Runner:
    """`run` of the checkers; keeps the sessions of the models it has met."""

    def __init__(self) -> None:
        self._sessions: dict[int, tuple[onnx.ModelProto, ort.InferenceSession]] = {}

    def __call__(self, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if id(model) not in self._sessions:
            self._sessions[id(model)] = (model, session(model))
        run = self._sessions[id(model)][1]
        names = {value.name for value in run.get_inputs()}
        given = {name: value for name, value in feeds.items() if name in names}
        return [np.asarray(value) for value in run.run(None, given)]


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function in float64: every float32 tensor, constant and Cast of the model."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen(wide.graph)
    return wide


def _widen(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if (node.op_type, attribute.name) in TYPES and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if attribute.name in ("value_float", "value_floats"):
                values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                attribute.CopyFrom(
                    onnx.helper.make_attribute(
                        "value", numpy_helper.from_array(np.asarray(values, np.float64))
                    )
                )
            if attribute.HasField("g"):
                _widen(attribute.g)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
        )
