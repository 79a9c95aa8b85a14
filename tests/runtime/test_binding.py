"""Bound sessions: the same results as `run`, outputs handed on without a copy. On the CPU, by the calls of CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from onnx import helper

from onnxplain.rewriter.errors import ImageError, ModelError, OptionError, ProviderError
from onnxplain.runtime import binding as module
from onnxplain.runtime.binding import Bound
from onnxplain.runtime.providers import create_session
from onnxplain.runtime.session import run
from tests.runtime.small import model_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

RNG = np.random.default_rng(5)
W = RNG.normal(size=(4, 4)).astype(np.float32)
X = RNG.normal(size=(2, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def session() -> InferenceSession:
    """y = x W, sums = rows of y added up; bias is added to y."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "bias"], ["y"]),
        helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
    ]
    shapes: dict[str, list[int | str]] = {"x": ["N", 4], "bias": [1, 4]}
    model = model_of(nodes, shapes, {"y": ["N", 4], "total": []}, {"w": W})
    return create_session(model.SerializeToString())


def bound(session: InferenceSession) -> Bound:
    made = Bound(session)
    made.feed("x", X)
    made.feed("bias", np.zeros((1, 4), np.float32))
    return made


def test_results_are_those_of_run(session: InferenceSession) -> None:
    made = bound(session)
    made.run()
    want = run(session, {"x": X, "bias": np.zeros((1, 4), np.float32)})
    for name in ("y", "total"):
        assert np.array_equal(made.fetch(name), want[name])
    assert (made.device, made.device_id) == ("cpu", 0)


def test_inputs_are_bound_once(session: InferenceSession) -> None:
    made = bound(session)
    made.run()
    first = made.fetch("y")
    made.feed("bias", np.ones((1, 4), np.float32))
    made.run()
    assert np.array_equal(made.fetch("y"), np.add(first, np.float32(1)))


def test_a_fed_array_may_be_changed_afterwards(session: InferenceSession) -> None:
    made, x = bound(session), X.copy()
    made.feed("x", x)
    x[:] = 0
    made.run()
    assert np.array_equal(made.fetch("y"), run(session, {"x": X, "bias": np.zeros((1, 4), np.float32)})["y"])


def test_an_output_becomes_an_input(session: InferenceSession) -> None:
    """Five steps of x <- x W."""
    made = bound(session)
    want: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = X
    for _ in range(5):
        made.run()
        made.swap("y", "x")
        want = run(session, {"x": want, "bias": np.zeros((1, 4), np.float32)})["y"]
    assert np.array_equal(made.fetch("y"), want)


def test_a_fetched_array_is_not_overwritten(session: InferenceSession) -> None:
    made = bound(session)
    made.run()
    first = made.fetch("y")
    kept = first.copy()
    made.swap("y", "x")
    for _ in range(3):
        made.run()
        made.swap("y", "x")
    assert np.array_equal(first, kept)


def test_nothing_is_copied_on_the_way(session: InferenceSession, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bound(session)
    made.run()
    monkeypatch.setattr(made, "_upload", lambda value: pytest.fail("an array went to the device"))
    value = made._made["y"]
    made.swap("y", "x")
    assert made._fed["x"] is value
    made.run()


def test_what_does_not_fit(session: InferenceSession) -> None:
    made = bound(session)
    with pytest.raises(OptionError, match="no output 'y' yet"):
        made.fetch("y")
    with pytest.raises(OptionError, match="no output 'y' yet"):
        made.swap("y", "x")
    made.run()
    with pytest.raises(OptionError, match=r"no input 'z'.*it has: x, bias"):
        made.feed("z", X)
    with pytest.raises(OptionError, match=r"no output 'totl'.*did you mean 'total'"):
        made.fetch("totl")
    with pytest.raises(OptionError, match="no input 'image'"):
        made.swap("y", "image")
    with pytest.raises(OptionError, match="takes float32, not float64"):
        made.feed("x", X.astype(np.float64))
    with pytest.raises(OptionError, match="axis 1 is 3 instead of 4"):
        made.feed("x", X[:, :3])
    with pytest.raises(OptionError, match=r"output 'y' is \[2, 4\], input 'bias' takes \[1, 4\]"):
        made.swap("y", "bias")
    with pytest.raises(OptionError, match=r"output 'total' is \[\]"):
        made.swap("total", "x")
    with pytest.raises(OptionError, match="no array was fed to the input 'x', 'bias'"):
        Bound(session).run()


def test_another_type_is_not_handed_on() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=11)]
    model = model_of(nodes, {"x": ["N", 4]}, {"y": ["N", 4]})
    model.graph.output[0].type.tensor_type.elem_type = 11
    made = Bound(create_session(model.SerializeToString()))
    made.feed("x", X)
    made.run()
    with pytest.raises(
        OptionError, match=r"output 'y' is a tensor\(double\), input 'x' takes a tensor\(float\)"
    ):
        made.swap("y", "x")


def test_a_picture_of_another_shape_is_an_image_error() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 3, 4, 4]}, {"y": ["N", 3, 4, 4]})
    with pytest.raises(ImageError, match="axis 1 is 1 instead of 3"):
        Bound(create_session(model.SerializeToString())).feed("x", np.zeros((1, 1, 4, 4), np.float32))


def test_a_failure_on_the_way_is_typed() -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    model = model_of(nodes, {"a": ["N", 4], "b": ["M", 4]}, {"y": ["N", 4]})
    made = Bound(create_session(model.SerializeToString(), log_severity=4))
    made.feed("a", X)
    made.feed("b", np.zeros((3, 4), np.float32))
    with pytest.raises(ModelError, match="failed while running"):
        made.run()


def test_a_device_without_room_is_typed(session: InferenceSession, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Bound(session)
    made.device = "no such device"
    with pytest.raises(ProviderError, match="cannot put 32 bytes on no such device:0"):
        made.feed("x", X)


class Elsewhere:
    """Tells the providers that a session on another device would."""

    def __init__(self, provider: str, options: dict[str, str]) -> None:
        self.provider, self.options = provider, options

    def get_inputs(self) -> list[object]:
        return []

    get_outputs = get_inputs

    def get_providers(self) -> list[str]:
        return [self.provider, "CPUExecutionProvider"]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {self.provider: self.options}


@pytest.mark.parametrize(
    ("provider", "options", "device"),
    [
        ("CUDAExecutionProvider", {"device_id": "1"}, ("cuda", 1)),
        ("TensorrtExecutionProvider", {}, ("cuda", 0)),
        ("XnnpackExecutionProvider", {}, ("cpu", 0)),
    ],
)
def test_the_device_is_that_of_the_first_provider(
    provider: str, options: dict[str, str], device: tuple[str, int]
) -> None:
    session = cast("InferenceSession", Elsewhere(provider, options))
    assert module._device(session) == device
