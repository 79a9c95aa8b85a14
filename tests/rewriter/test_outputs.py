"""Which output is explained where the first cannot be: labels before scores, scores as lists of maps."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import TargetError
from onnxplain.rules.registry import find
from onnxplain.runtime.explainer import Explainer

from .nets import explained, floats, net

W = floats(4, 3, seed=2)


def classifier(zipped: bool) -> onnx.ModelProto:
    """scikit-learn's: the label first, the probabilities behind it, by default as a list of maps."""
    kind = "seq(map(int64, float)) scores" if zipped else "float[N,3] scores"
    end = (
        "p = Softmax(z) scores = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2]> (p)"
        if zipped
        else "scores = Softmax(z)"
    )
    body = f"z = MatMul(x, w) label = ArgMax <axis = 1, keepdims = 0> (z) {end}"
    model = net(f"g (float[N,4] x) => (int64[N] label, {kind}) {{ {body} }}", more='"ai.onnx.ml" : 3')
    model.graph.initializer.append(numpy_helper.from_array(W, "w"))
    return model


def test_a_label_before_the_scores() -> None:
    found = explained(classifier(False), {"x": floats(2, 4)}, Request(target=2))
    np.testing.assert_allclose(found["attribution"], np.tile(W[:, 2], (2, 1)), rtol=1e-6)
    _, card = compile_model(classifier(False), find("saliency"), Request())
    assert card.target["output"] == "scores"
    assert card.approximations == ("output 'label' holds no floating-point numbers: explained is 'scores'",)


@pytest.mark.parametrize("output", [None, "scores"])
@pytest.mark.parametrize("method", ["saliency", "integrated-gradients"])
def test_scores_behind_a_zipmap(method: str, output: str | None) -> None:
    """The tensor before it. The list stays in a file without a loop, for whoever runs it with onnxruntime alone."""
    made, card = compile_model(classifier(True), find(method), Request(output=output))
    x = floats(2, 4)
    result = Explainer(made, card)(x, target=1)
    want = W[:, 1] * (1 if method == "saliency" else x)
    np.testing.assert_allclose(result.attribution, np.broadcast_to(want, x.shape), rtol=1e-4, atol=1e-6)
    assert result.outputs["label"].tolist() == (x @ W).argmax(1).tolist()
    names = [value.name for value in made.graph.output]
    if method == "saliency":
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        scores = session.run(["scores"], {"x": x, "target": np.full((2, 1), -1)})[0]
        z = np.exp(x @ W)
        for i, one in enumerate(np.asarray(scores)):
            np.testing.assert_allclose(
                [one[c] for c in range(3)], (z / z.sum(1, keepdims=True))[i], rtol=1e-5
            )
    else:
        assert "scores" not in names and any("a loop cannot carry" in note for note in card.approximations)


def test_a_model_of_labels_alone_is_refused() -> None:
    model = net("g (float[N,4] x) => (int64[N] label) { label = ArgMax <axis = 1, keepdims = 0> (x) }")
    with pytest.raises(TargetError, match="'label' is not a floating-point tensor"):
        compile_model(model, find("saliency"), Request())


def test_two_inputs_with_equal_maps_have_two_outputs() -> None:
    model = net("g (float[N,3] a, float[N,3] b) => (float[N,3] y) { y = Add(a, b) }")
    feeds = {"a": floats(2, 3), "b": floats(2, 3, seed=1)}
    for method in ("saliency", "input-x-gradient", "integrated-gradients"):
        found = explained(model, feeds, Request(target=0, inputs=("a", "b")), method)
        for name, x in feeds.items():
            want = np.zeros((2, 3))
            want[:, 0] = 1 if method == "saliency" else x[:, 0]
            np.testing.assert_allclose(found[f"attribution/{name}"], want, rtol=1e-5, atol=1e-7)
