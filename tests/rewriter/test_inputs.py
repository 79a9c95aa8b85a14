"""Integer inputs: explained where they become floating-point. The oracle is the model that begins there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxplain.rewriter.apart import apart
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rewriter.errors import OptionError, TargetError
from onnxplain.rewriter.load import load
from onnxplain.rules.registry import find

from .nets import explained, floats, net, run

RNG = np.random.default_rng(5)
TABLE, HEAD, KERNEL = floats(300, 5, seed=1), floats(5, 3, seed=2), floats(2, 3, 3, 3, seed=3)
IDS = np.array([[1, 4, 7, 1], [2, 2, 299, 9]])
PIXELS = RNG.integers(0, 256, (2, 6, 7, 3), dtype=np.uint8)

WORDS = "r = Relu(e) s = Mul(r, r) m = ReduceMean <keepdims = 0> (s, one) y = MatMul(m, w)"
PICTURE = "c = Conv(t, k) r = Relu(c) p = GlobalAveragePool(r) y = Flatten(p)"


def with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    known = {"E": TABLE, "w": HEAD, "k": KERNEL, "one": np.array([1])}
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in known.items() if name in read
    )
    return model


def tokens(front: str = "e = Gather(E, ids)") -> onnx.ModelProto:
    return with_weights(net(f"g (int64[N,L] ids) => (float[N,3] y) {{ {front} {WORDS} }}"))


def pixels(front: str) -> onnx.ModelProto:
    return with_weights(net(f"g (uint8[N,6,7,3] u) => (float[N,2] y) {{ {front} {PICTURE} }}"))


EMBEDDED = with_weights(net(f"g (float[N,L,5] e) => (float[N,3] y) {{ {WORDS} }}"))
FLOATING = with_weights(
    net(f"g (float[N,6,7,3] f) => (float[N,2] y) {{ t = Transpose <perm = [0,3,1,2]> (f) {PICTURE} }}")
)
FRONTS = (
    "f = Cast <to = 1> (u) t = Transpose <perm = [0,3,1,2]> (f)",
    "f = Transpose <perm = [0,3,1,2]> (u) t = Cast <to = 1> (f)",
    "i = Cast <to = 6> (u) f = Transpose <perm = [0,3,1,2]> (i) t = Cast <to = 1> (f)",
)
METHODS = (
    "saliency",
    "input-x-gradient",
    "guided-backprop",
    "integrated-gradients",
    "lrp.epsilon",
    "deeplift.rescale",
)


@pytest.mark.parametrize("method", METHODS)
def test_tokens_are_explained_at_their_embedding(method: str) -> None:
    request = Request(target=1)
    found = explained(tokens(), {"ids": IDS}, request, method)
    want = explained(EMBEDDED, {"e": TABLE[IDS]}, request, method)
    assert found["attribution"].shape == (2, 4, 5) and np.abs(found["attribution"]).max() > 0
    np.testing.assert_allclose(found["attribution"], want["attribution"], rtol=1e-6, atol=1e-8)
    assert np.array_equal(found["y"], run(tokens(), {"ids": IDS})["y"])


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("method", [*METHODS, "grad-cam"])
def test_pixels_are_explained_in_their_own_shape(method: str, front: str) -> None:
    found = explained(pixels(front), {"u": PIXELS}, Request(target=0), method)
    want = explained(FLOATING, {"f": PIXELS.astype(np.float32)}, Request(target=0), method)
    assert found["attribution"].shape == PIXELS.shape and np.abs(found["attribution"]).max() > 0
    np.testing.assert_allclose(found["attribution"], want["attribution"], rtol=1e-6, atol=1e-8)
    assert np.array_equal(found["y"], run(pixels(front), {"u": PIXELS})["y"])


def test_the_card_says_what_is_explained() -> None:
    made, card = compile_model(tokens(), find("saliency"), Request())
    onnx.checker.check_model(made, full_check=True)
    assert card.target["at"] == {"e": "ids"} and "'ids' holds integers" in card.approximations[0]
    assert [value.name for value in made.graph.input] == ["ids", "target"] and card.inputs == ("target",)


def test_words_before_types_and_masks() -> None:
    """The largest table; a mask that is multiplied with the embedding is no table."""
    model = with_weights(
        net(
            "g (int64[N,L] mask, int64[N,L] kind, int64[N,L] ids) => (float[N,3] y) { a = Gather(K, kind) "
            f"b = Gather(E, ids) c = Cast <to = 1> (mask) d = Unsqueeze(c, two) ab = Add(a, b) "
            f"e = Mul(ab, d) {WORDS} }}"
        )
    )
    model.graph.initializer.append(numpy_helper.from_array(floats(2, 5, seed=8), "K"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "two"))
    feeds = {"ids": IDS, "kind": IDS % 2, "mask": (IDS != 2).astype(np.int64)}
    _, card = compile_model(model, find("saliency"), Request())
    assert card.target["at"] == {"b": "ids"}
    found = explained(model, feeds, Request(target=0))["attribution"]
    assert not found[feeds["mask"] == 0].any() and found[feeds["mask"] == 1].any()
    named = explained(model, feeds, Request(target=0, inputs=("ids", "kind")))
    assert np.array_equal(named["attribution/ids"], named["attribution/kind"])


def test_a_table_that_is_read_again_behind_the_cut() -> None:
    """Tied weights, larger than what a loop may hold twice: y = mean relu(e) Eᵀ."""
    tied = with_weights(
        net(
            "g (int64[N,L] ids) => (float[N,300] y) { e = Gather(E, ids) r = Relu(e) m = ReduceMean <keepdims = 0> "
            "(r, one) t = Transpose <perm = [1,0]> (E) y = MatMul(m, t) }"
        )
    )
    x = TABLE[IDS]
    for method in ("saliency", "integrated-gradients"):
        found = explained(tied, {"ids": IDS}, Request(target=7), method)["attribution"]
        slope = (x > 0) * TABLE[7] / 4
        want = slope if method == "saliency" else slope * x
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)


def test_categories_of_one_input_are_named_by_their_tensor() -> None:
    model = net(
        "g (int64[N,2] cat, float[N,4] num) => (float[N,7] y) { c0, c1 = Split <axis = 1, num_outputs = 2> (cat) "
        "i0 = Squeeze(c0, ax) i1 = Squeeze(c1, ax) e0 = Gather(A, i0) e1 = Gather(B, i1) "
        "z = Concat <axis = 1> (e0, e1, num) y = Mul(z, z) }"
    )
    a, b = floats(5, 2, seed=4), floats(6, 1, seed=6)
    for name, value in (("A", a), ("B", b), ("ax", np.array([1]))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    feeds = {"cat": np.array([[3, 1], [0, 5]]), "num": floats(2, 4)}
    for method in ("saliency", "integrated-gradients"):
        found = explained(model, feeds, Request(target=1, inputs=("e0",)), method)["attribution"]
        x = a[feeds["cat"][:, 0]]
        want = np.zeros_like(x)
        want[:, 1] = 2 * x[:, 1] if method == "saliency" else x[:, 1] ** 2
        np.testing.assert_allclose(found, want, rtol=2e-2 if method != "saliency" else 1e-6, atol=1e-6)
    with pytest.raises(OptionError, match="several places; name one with inputs=: e0, e1"):
        compile_model(model, find("saliency"), Request(inputs=("cat",)))


def test_integers_that_never_become_floating_point_are_refused() -> None:
    only = net("g (int64[N,3] x) => (float[N,3] y) { c = Greater(x, x) y = Cast <to = 1> (c) }")
    with pytest.raises(TargetError, match="no Cast, Gather or OneHot"):
        compile_model(only, find("saliency"), Request())
    beside = net(
        "g (int64[N,3] x, float[N,3] z) => (float[N,3] y) { c = Greater(x, x) f = Cast <to = 1> (c) y = Mul(f, z) }"
    )
    with pytest.raises(OptionError, match="'x' has no derivative"):
        compile_model(beside, find("saliency"), Request(inputs=("x",)))


def test_apart_is_front_and_rest() -> None:
    parts = apart(load(tokens()), None)
    assert parts is not None and parts.names == ("e",)
    (e,) = run(parts.front, {"ids": IDS}).values()
    assert np.array_equal(e, TABLE[IDS])
    assert np.array_equal(run(parts.rest.model, {"e": e})["y"], run(tokens(), {"ids": IDS})["y"])
    assert apart(load(EMBEDDED), None) is None


@pytest.mark.parametrize("kind", ("float", "int32", "uint8"))
@pytest.mark.parametrize("method", ("saliency", "integrated-gradients"))
def test_a_scalar_is_no_batch(kind: str, method: str) -> None:
    body = "<float[1,3] w = {1, 2, 3}> { a = Cast <to = 1> (x) y = Mul(w, a) }"
    model = net(f"g ({kind} x) => (float[1,3] y) {body}")
    for names in (None, ("x",)):
        with pytest.raises(TargetError, match="is a scalar: it has no batch axis"):
            compile_model(model, find(method), Request(inputs=names))
