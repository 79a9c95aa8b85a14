"""The verdict on each of ONNX's backend node tests: is the emitted VJP the derivative of the forward pass?

For every float32 or float64 input x of a case, with c a random cotangent of the first float output and t a random
direction: <c, (f(x + h t) - f(x - h t)) / 2h> of the forward pass in onnxruntime against <pull c, t> of the compiled
explanation. The forward pass runs in float64 where onnxruntime has the kernels (h = 2^-18, relative error 1e-4 for the
float32 explanation), else in float32 (h = 2^-6, 5e-3). Errors are relative to Σ |c| |J t|. A case whose own data
sits on a kink is moved by up to 20 % and asked again. A case whose forward pass is not finite (x mod 0, ∞ - ∞) has no
derivative there: all its data is moved into the domain, and the case is asked once more.

Each input is asked twice: with the other inputs fed at run time, and with them as initializers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import ExplainError, ModelError, TargetError, UnsupportedError
from onnxplain.rewriter.testing import Subject, check_adjoint, difference
from onnxplain.rules.gradient import GRADIENT
from onnxplain.rules.gradient.inert import INERT
from onnxplain.rules.registry import find
from tests.rules.forward import Runner, widened

Feeds = Mapping[str, np.ndarray]
LAST_OPSET, LAST_IR = 26, 13
"""The last ones that onnxruntime 1.31 implements; with a later release no case comes down to them."""

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)

REQUIRED = frozenset(
    "Conv ConvTranspose Gemm MatMul Relu LeakyRelu PRelu Clip Sigmoid Tanh Softplus Elu Selu HardSigmoid "
    "HardSwish Mish Gelu Erf Exp Log Sqrt Pow Reciprocal Abs Neg Softmax LogSoftmax MaxPool GlobalMaxPool "
    "AveragePool GlobalAveragePool ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 BatchNormalization "
    "InstanceNormalization GroupNormalization LayerNormalization LRN Add Sub Mul Div Sum Mean Max Min "
    "Where Concat Split Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Gather Slice Pad Resize "
    "Upsample DepthToSpace SpaceToDepth Identity Dropout Cast".split()
)
"""Operators that must be covered."""


class Status(StrEnum):
    AGREES = "agrees"
    NOT_DIFFERENTIABLE = "not differentiable"
    OUT_OF_SCOPE = "operator not in scope"
    REFUSED = "refused"
    CANNOT_RUN = "onnxruntime cannot run it"
    LIMIT = "known limit"
    WRONG = "wrong"


LIMITS = {
    name: "a row that is masked completely is NaN inside the forward pass; its zero cotangent times NaN is NaN"
    for name in (
        "test_attention_causal_boolmask_nan_robustness_expanded",
        "test_attention_23_boolmask_fullymasked_row_nan_robustness_expanded",
        "test_attention_4d_causal_nonpad_negative_offset_structural_empty_expanded",
        "test_attention_23_fullymasked_qk_matmul_output_mode3_zero_expanded",
        "test_attention_24_fullymasked_qk_matmul_output_mode3_zero_expanded",
        "test_attention_local_window_gqa_rank4_mask_expanded",
    )
}
"""Cases whose derivative is not computed, and why."""


@dataclass(frozen=True)
class Case:
    name: str
    model: onnx.ModelProto
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]

    @property
    def op(self) -> str:
        """The operator under test; for the expansion of a function, the function."""
        return _FUNCTIONS.get(self.name.partition("_expanded")[0], str(self.model.graph.node[0].op_type))


@dataclass(frozen=True)
class Outcome:
    """parameters: inputs that are not explained, each with the reason."""

    case: str
    op: str
    status: Status
    detail: str = ""
    parameters: tuple[str, ...] = ()


_FUNCTIONS: dict[str, str] = {}
"""Case -> its operator, for every case that is not an expansion."""


def load_cases() -> list[Case]:
    """All node tests, in the loader's order."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # the generators overflow and divide by zero on purpose
        loaded = load_model_tests(kind="node")
    cases = []
    for item in loaded:
        assert item.model is not None and item.data_sets is not None
        cases.append(Case(item.name, item.model, *map(tuple, item.data_sets[0])))
        if "_expanded" not in item.name:
            _FUNCTIONS[item.name] = item.model.graph.node[0].op_type
    return cases


def verdict(case: Case) -> Outcome:
    """What becomes of a case; never raises for a reason that lies in the case."""
    with np.errstate(all="ignore"):  # some cases are about infinities
        return _verdict(case)


def _verdict(case: Case) -> Outcome:
    graph = case.model.graph
    floats = [
        value.name
        for value, data in zip(graph.input, case.inputs, strict=False)
        if value.type.tensor_type.elem_type in FLOATS and _array(data) is not None
    ]
    outputs = [value for value in graph.output if value.type.tensor_type.elem_type in FLOATS]
    if not floats or not outputs:
        what = "input" if not floats else "output"
        return Outcome(case.name, case.op, Status.NOT_DIFFERENTIABLE, f"no float32 or float64 {what}")
    if case.op in INERT:
        return Outcome(
            case.name, case.op, Status.NOT_DIFFERENTIABLE, "piecewise constant, or reads the shape only"
        )
    if any(node.domain not in ("", "ai.onnx") for node in graph.node):
        return Outcome(case.name, case.op, Status.OUT_OF_SCOPE, "an operator of another domain")
    arrays = {v.name: _array(x) for v, x in zip(graph.input, case.inputs, strict=False)}
    feeds = {name: array for name, array in arrays.items() if array is not None}
    model, problem = _runnable(case, feeds)
    if model is None:
        return Outcome(case.name, case.op, Status.CANNOT_RUN, problem)
    y = outputs[0].name
    outcome = _combine(case, {x: _one_input(model, feeds, x, y) for x in floats})
    if outcome.status is Status.WRONG and not np.isfinite(_forward(model, feeds, y)).all():
        moved = {name: _inside(value) if name in floats else value for name, value in feeds.items()}
        if np.isfinite(_forward(model, moved, y)).all():
            return _combine(case, {x: _one_input(model, moved, x, y) for x in floats})
    return outcome


def _forward(model: onnx.ModelProto, feeds: Feeds, y: str) -> np.ndarray:
    return Runner()(model, feeds)[[value.name for value in model.graph.output].index(y)]


def _inside(values: np.ndarray) -> np.ndarray:
    """The values with 1 for infinities and NaN, and 1/2 for zeros."""
    finite = np.where(np.isfinite(values), values, 1)
    return np.where(finite == 0, 0.5, finite).astype(values.dtype)


def _runnable(case: Case, feeds: Feeds) -> tuple[onnx.ModelProto | None, str]:
    """The case's model. Where onnxruntime does not know its opset yet: the same nodes under the last one it
    knows, if their outputs are those the case expects."""
    try:
        Runner()(case.model, feeds)
        return case.model, ""
    except (
        Exception
    ) as error:  # onnxruntime has a type an error; each means that there is nothing to compare with
        problem = _first_line(error)
    lower = onnx.ModelProto()
    lower.CopyFrom(case.model)
    entry = lower.opset_import[0]
    if entry.domain or entry.version <= LAST_OPSET:
        return None, problem
    entry.version, lower.ir_version = LAST_OPSET, min(lower.ir_version, LAST_IR)
    try:
        made = Runner()(lower, feeds)
    except Exception as error:  # as above
        return None, _first_line(error)
    expected = [_array(output) for output in case.outputs]
    same = all(
        b is not None and np.allclose(a, b, 1e-3, 1e-5, equal_nan=True)
        for a, b in zip(made, expected, strict=True)
    )
    return (lower, "") if same else (None, problem)


def _array(data: Any) -> np.ndarray | None:
    """The loader gives arrays, scalars, TensorProtos, and for sequences and optionals lists and None."""
    if isinstance(data, TensorProto):
        return np.asarray(numpy_helper.to_array(data))
    return np.asarray(data) if isinstance(data, (np.ndarray, np.generic, float, int)) else None


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)[:160]


def _combine(case: Case, found: dict[str, tuple[Status, str]]) -> Outcome:
    reasons = {x: (status, text) for x, (status, text) in found.items() if status is not Status.AGREES}
    wrong = [f"{x}: {text}" for x, (status, text) in reasons.items() if status is Status.WRONG]
    if wrong and case.name in LIMITS and all("= nan" in text for text in wrong):
        return Outcome(case.name, case.op, Status.LIMIT, LIMITS[case.name])
    if wrong:
        return Outcome(case.name, case.op, Status.WRONG, "; ".join(wrong))
    data = next(iter(found))
    if data not in reasons:
        return Outcome(
            case.name, case.op, Status.AGREES, "", tuple(f"{x}: {text}" for x, (_, text) in reasons.items())
        )
    status, text = next(iter(reasons.values()))
    if status is Status.REFUSED and case.op not in REQUIRED and case.op not in set(GRADIENT.ops()):
        status = Status.OUT_OF_SCOPE
    return Outcome(case.name, case.op, status, text)


def _one_input(model: onnx.ModelProto, feeds: Feeds, x: str, y: str) -> tuple[Status, str]:
    """Both variants; a refusal counts only where no variant is accepted."""
    found = [_variant(model, given, x, y) for model, given in _variants(model, feeds, x)]
    for status in (Status.WRONG, Status.AGREES):
        for result in found:
            if result[0] is status:
                return result
    return found[-1]


def _variants(model: onnx.ModelProto, feeds: Feeds, x: str) -> Iterable[tuple[onnx.ModelProto, Feeds]]:
    yield model, feeds
    if len(feeds) > 1:
        frozen = onnx.ModelProto()
        frozen.CopyFrom(model)
        frozen.ir_version = max(frozen.ir_version, 4)  # initializers need not be inputs
        kept = [value for value in frozen.graph.input if value.name == x or value.name not in feeds]
        del frozen.graph.input[:]
        frozen.graph.input.extend(kept)
        for name, value in feeds.items():
            if name != x:
                frozen.graph.initializer.append(numpy_helper.from_array(value, name))
        yield frozen, {x: feeds[x]}


def _variant(model: onnx.ModelProto, feeds: Feeds, x: str, y: str) -> tuple[Status, str]:
    run, rng = Runner(), np.random.default_rng(len(feeds))
    request = Request(target="cotangent", inputs=(x,), output=y, head="prob")
    attributed: onnx.ModelProto | None
    try:
        attributed, _ = compile_model(model, find("saliency"), request)
    except UnsupportedError as error:
        return Status.REFUSED, "; ".join(dict.fromkeys(f"{site.op}: {site.reason}" for site in error.sites))
    except TargetError as error:
        if "does not depend" not in str(error):
            return Status.REFUSED, _plain(str(error))
        attributed = None
    except ModelError as error:
        lifted = "cannot be brought to opset" not in str(error)
        return Status.WRONG if lifted else Status.REFUSED, str(error)[:200]
    except ExplainError as error:
        return Status.REFUSED, str(error)
    except Exception as error:  # a rule that crashes is a bug, whatever the type
        return Status.WRONG, f"compile: {type(error).__name__}: {_first_line(error)}"
    index = [value.name for value in model.graph.output].index(y)
    try:
        worst = ""
        moved = feeds
        for moved in _near(feeds, x, rng):
            worst = _disagreement(model, attributed, moved, x, index, run, rng)
            if not worst:
                break
        if worst:
            return Status.WRONG, worst
        if attributed is not None and feeds[x].size:
            check_adjoint(model, GRADIENT, moved, rng, run=run, subject=Subject(inputs=(x,), output=y))
    except Exception as error:  # the emitted file must run wherever the forward pass does
        return Status.WRONG, f"{type(error).__name__}: {_first_line(error)}"
    return Status.AGREES, ""


def _plain(text: str) -> str:
    """A reason without the names of one model."""
    if "no batch axis" in text:
        return "a scalar input has no batch axis" if "scalar" in text else "a scalar output has no batch axis"
    return text


def _near(feeds: Feeds, x: str, rng: np.random.Generator) -> Iterable[Feeds]:
    """The case's own data, then data 2 % off either way, then 20 % larger, in case its own sit on a kink or
    at the end of the domain. Infinities and NaN become 1."""
    yield feeds
    finite = np.where(np.isfinite(feeds[x]), feeds[x], 1)
    for low, high in ((-0.02, 0.02), (-0.02, 0.02), (0.1, 0.2)):
        shift = rng.uniform(low, high, finite.shape) * (1 + np.abs(finite))
        yield {**feeds, x: (finite + shift).astype(feeds[x].dtype)}


def _disagreement(
    model: onnx.ModelProto,
    attributed: onnx.ModelProto | None,
    feeds: Feeds,
    x: str,
    index: int,
    run: Runner,
    rng: np.random.Generator,
) -> str:
    """'' when <pull c, t> is the difference quotient, else both numbers. attributed None: no influence."""
    y = run(model, feeds)[index]
    if not feeds[x].size:
        return ""  # an empty input: there is no direction to go
    t = rng.uniform(-1, 1, feeds[x].shape)
    c = rng.uniform(-1, 1, y.shape).astype(y.dtype)
    pulled = 0.0
    if attributed is not None:
        attribution = run(attributed, {**feeds, "cotangent": c})[-1]
        if attribution.shape != feeds[x].shape:
            return f"attribution of shape {attribution.shape} for an input of {feeds[x].shape}"
        pulled = float(np.sum(attribution.astype(np.float64) * t))
    slope, rtol, noise = _slope(model, feeds, x, t, index, run)
    expected, scale = float(np.sum(c * slope)), float(np.sum(np.abs(c * slope)))
    if not np.isfinite(scale):
        return f"the difference quotient is {expected}"
    if abs(pulled - expected) <= rtol * scale + noise * float(np.sum(np.abs(c * y))):
        return ""
    return f"<pull c, t> = {pulled:.6g}, difference quotient {expected:.6g} (scale {scale:.3g})"


def _slope(
    model: onnx.ModelProto, feeds: Feeds, x: str, t: np.ndarray, index: int, run: Runner
) -> tuple[np.ndarray, float, float]:
    """(directional derivative, relative tolerance, rounding noise relative to y)."""
    wide = {
        name: value.astype(np.float64) if value.dtype == np.float32 else value
        for name, value in feeds.items()
    }
    before = run(model, feeds)[index]
    try:
        model64 = widened(model)
        if np.allclose(run(model64, wide)[index], before, rtol=1e-4, atol=1e-5):
            fine, coarse = (
                difference(lambda at: run(model64, at)[index], wide, {x: t}, 2.0**power)
                for power in (-18, -16)
            )
            if np.allclose(
                fine, coarse, 1e-5, 1e-6
            ):  # else a kernel that computes in float32 inside, or a kink
                return fine, 1e-4, 1e-9
    except Exception:  # no float64 kernel, or a type that must stay float32: the float32 forward pass decides
        pass
    tangent = {x: t.astype(feeds[x].dtype)}
    return difference(lambda at: run(model, at)[index], feeds, tangent, 2.0**-6), 5e-3, 4e-5
