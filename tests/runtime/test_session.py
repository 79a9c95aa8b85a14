"""Feeds are checked before the run, with the name of the input and both shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxplain.rewriter.errors import ExplainError, ImageError, ModelError, OptionError
from onnxplain.runtime.providers import create_session
from onnxplain.runtime.session import check_feeds, run

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

IMAGE = np.zeros((2, 3, 4, 4), np.float32)
TARGET = np.zeros((2, 1), np.int64)


@pytest.fixture(scope="module")
def session() -> InferenceSession:
    """image [N, 3, 4, W], target [N, 1] -> pooled [N, 3, 1, 1], row [N, 1]."""
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Add", ["target", "target"], ["row"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 4, "W"]),
            helper.make_tensor_value_info("target", TensorProto.INT64, ["N", 1]),
        ],
        [
            helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["N", 3, 1, 1]),
            helper.make_tensor_value_info("row", TensorProto.INT64, ["N", 1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return create_session(cast(bytes, model.SerializeToString()))


def test_run_gives_outputs_by_name(session: InferenceSession) -> None:
    result = run(session, {"image": IMAGE + 2, "target": TARGET + 3})
    assert set(result) == {"pooled", "row"}
    assert (result["pooled"] == 2).all() and result["row"].tolist() == [[6], [6]]
    assert set(run(session, {"image": IMAGE, "target": TARGET}, ["row"])) == {"row"}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (IMAGE[0], r"'image' takes \[N, 3, 4, W\], not \[3, 4, 4\]: 3 axes instead of 4"),
        (np.zeros((2, 1, 4, 4), np.float32), "axis 1 is 1 instead of 3"),
        (np.zeros((2, 4, 4, 3), np.float32), "axis 1 is 4 instead of 3"),
    ],
)
def test_a_picture_of_another_shape(
    session: InferenceSession, image: np.ndarray[tuple[int, ...], np.dtype[np.float32]], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        check_feeds(session, {"image": image, "target": TARGET})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (TARGET.astype(np.int32), r"'target' takes int64, not int32; convert it: \.astype\('int64'\)"),
        (TARGET[:, 0], r"'target' takes \[N, 1\], not \[2\]: 1 axes instead of 2"),
        (TARGET[:1], r"axis 0 \(N\) is 1, but 2 in 'image'"),
    ],
)
def test_a_target_that_does_not_fit(
    session: InferenceSession, target: np.ndarray[tuple[int, ...], np.dtype[np.int64]], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        check_feeds(session, {"image": IMAGE, "target": target})


def test_names_that_are_wrong_or_missing(session: InferenceSession) -> None:
    with pytest.raises(OptionError, match=r"no input 'imgae' .did you mean 'image'"):
        check_feeds(session, {"imgae": IMAGE, "target": TARGET})
    with pytest.raises(OptionError, match="for the input 'target'"):
        check_feeds(session, {"image": IMAGE})
    with pytest.raises(OptionError, match=r"no output 'pool' .did you mean 'pooled'"):
        run(session, {"image": IMAGE, "target": TARGET}, ["pool"])


def test_a_failure_inside_the_run_is_typed() -> None:
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["A"]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, ["B"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = create_session(cast(bytes, model.SerializeToString()), log_severity=4)
    feeds = {"x": np.zeros(6, np.float32), "shape": np.array([4, 2])}
    with pytest.raises(ModelError, match="failed while running") as caught:
        run(session, feeds)
    assert isinstance(caught.value, ExplainError) and caught.value.__cause__ is not None
    assert run(session, feeds | {"shape": np.array([3, 2])})["y"].shape == (3, 2)
