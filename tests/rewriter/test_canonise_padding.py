"""Zero padding in front of a convolution becomes its own."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import NodeProto
from onnx.helper import make_node

from .nets import floats
from .views import Seen, agrees, model_of

CONV = make_node("Conv", ["h", "w"], ["y"], "conv", pads=[0, 1, 2, 0], strides=[2, 1])
SIZE = (2, 3, 7, 6)


def padded(
    pads: list[int], *, conv: NodeProto = CONV, inputs: str = "", mode: str = "constant", **more: np.ndarray
) -> Seen:
    names = ["x", "pads", *inputs.split(",")] if inputs else ["x", "pads"]
    pad = make_node("Pad", names, ["h"], "pad", mode=mode)
    weights = {"w": floats(4, 3, 3, 2, seed=1), "pads": np.asarray(pads, np.int64), **more}
    return agrees(model_of([pad, conv], SIZE, weights), {"x": floats(*SIZE)})


def test_pads_add_up() -> None:
    seen = padded([0, 0, 1, 2, 0, 0, 3, 4])
    assert seen.ops == ["Conv"]
    made = seen.node("conv")
    assert made.attrs["pads"] == [1, 3, 5, 4]
    assert [x.name for x in made.inputs] == ["x", "w"] and made.outputs[0].name == "y"


def test_pads_by_axis() -> None:
    seen = padded([3, 1, 2, 0], inputs=",axes", axes=np.asarray([-1, 2], np.int64))
    assert seen.ops == ["Conv"]
    assert seen.node("conv").attrs["pads"] == [1, 4, 2, 2]


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_zero_that_is_written_out(zero: float) -> None:
    assert padded([0, 0, 1, 1, 0, 0, 1, 1], inputs="zero", zero=np.asarray(zero, np.float32)).ops == ["Conv"]


def test_what_a_convolution_cannot_pad_stays() -> None:
    one = np.asarray(1, np.float32)
    assert padded([0, 0, 1, 1, 0, 0, 1, 1], inputs="one", one=one).ops == ["Pad", "Conv"]
    assert padded([0, 0, 1, 1, 0, 0, 1, 1], mode="reflect").ops == ["Pad", "Conv"]
    assert padded([0, 0, 1, 1, 0, 0, 1, 1], mode="edge").ops == ["Pad", "Conv"]
    assert padded([0, 0, -1, 1, 0, 0, 1, 1]).ops == ["Pad", "Conv"]
    assert padded([1, 0, 1, 1, 0, 0, 1, 1]).ops == ["Pad", "Conv"]
    wide = make_node("Conv", ["h", "v"], ["y"], "conv")
    assert padded([0, 1, 0, 0, 0, 0, 0, 0], conv=wide, v=floats(2, 4, 1, 1)).ops == ["Pad", "Conv"]


def test_pads_known_at_run_time_only_stay() -> None:
    nodes = [
        make_node("NonZero", ["t"], ["i"]),
        make_node("Gather", ["list", "i"], ["g"]),
        make_node("Squeeze", ["g"], ["pads"]),
    ]
    weights = {
        "w": floats(4, 3, 3, 2),
        "t": np.arange(8, dtype=np.float32) - 20,
        "list": np.asarray([0, 0, 1, 1] * 2),
    }
    pad = make_node("Pad", ["x", "pads"], ["h"], "pad")
    seen = agrees(model_of([*nodes, pad, CONV], SIZE, weights), {"x": floats(*SIZE)})
    assert seen.ops[-2:] == ["Pad", "Conv"]


def test_a_pad_that_two_convolutions_read_stays() -> None:
    pad = make_node("Pad", ["x", "pads"], ["h"], "pad")
    nodes = [
        pad,
        make_node("Conv", ["h", "w"], ["a"], "one"),
        make_node("Conv", ["h", "w"], ["b"], "two"),
        make_node("Add", ["a", "b"], ["y"]),
    ]
    weights = {"w": floats(4, 3, 3, 2, seed=1), "pads": np.asarray([0, 0, 1, 1] * 2)}
    model = model_of(nodes, SIZE, weights)
    assert agrees(model, {"x": floats(*SIZE)}).ops == ["Pad", "Conv", "Conv", "Add"]
    model = model_of([pad, CONV], SIZE, weights)
    assert agrees(model, {"x": floats(*SIZE)}, keep=["h"]).ops == ["Pad", "Conv"]


def scaled(first: str) -> list[NodeProto]:
    pad = ("Pad", "pads")
    shift = ("Add", "t")
    order = [pad, shift] if first == "pad" else [shift, pad]
    names = ["x", "h1", "h"]
    return [make_node(op, [names[i], other], [names[i + 1]]) for i, (op, other) in enumerate(order)]


def test_a_shift_uncovers_the_padding_before_it() -> None:
    """Pad, then a shift of everything, then a convolution that has no padding of its own: all one node."""
    conv = make_node("Conv", ["h", "w"], ["y"], "conv")
    weights = {"w": floats(4, 3, 3, 2, seed=1), "pads": np.asarray([0, 0, 1, 2] * 2), "t": floats(3, 1, 1)}
    seen = agrees(model_of([*scaled("pad"), conv], SIZE, weights), {"x": floats(*SIZE)})
    assert seen.ops == ["Conv"]
    assert seen.node("conv").attrs["pads"] == [1, 2, 1, 2]


def test_padding_behind_a_shift_holds_the_shift_off() -> None:
    """Only the pad goes: its zeros are not shifted."""
    conv = make_node("Conv", ["h", "w"], ["y"], "conv")
    weights = {"w": floats(4, 3, 3, 2, seed=1), "pads": np.asarray([0, 0, 1, 2] * 2), "t": floats(3, 1, 1)}
    seen = agrees(model_of([*scaled("shift"), conv], SIZE, weights), {"x": floats(*SIZE)})
    assert seen.ops == ["Add", "Conv"]
