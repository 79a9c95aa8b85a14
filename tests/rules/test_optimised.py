"""The loss of a mask and the ascent in one file: golden data, closed forms, differences, torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxplain
from onnxplain import OptionError, TargetError, UnsupportedError
from onnxplain.rewriter.compile import Request, compile_model
from onnxplain.rules.registry import find
from onnxplain.runtime.perturb.maximise import Ascent, maximise
from tests.runtime.perturb.masking import CONVOLUTIONAL, GOLDEN, close, stored
from tests.runtime.small import WEIGHT, gradient, model_of, picture

Array = npt.NDArray[Any]
NETS = (*CONVOLUTIONAL, "attention", "mlp_bias", "mlp_nobias", "smooth_acts")
LOSS, ASCENT = "meaningful-perturbation.loss", "activation-maximization"
X = np.random.default_rng(3).normal(size=(1, 2, 3, 4))
NULL = np.random.default_rng(4).normal(size=(1, 2, 3, 4))
M = np.random.default_rng(5).uniform(0.05, 0.95, size=(1, 1, 2, 3))
"""For `picture`; no two cells of it are equal, so that |.| is smooth around it."""


def masking(squash: str | None = "Softmax", **options: Any) -> Callable[..., Mapping[str, Array]]:
    """The loss of class 2 of `picture` in float64: a function of the mask."""
    model = picture(np.float64, squash)
    if squash == "Sigmoid":
        del model.graph.node[-1].attribute[:]
    explainer = onnxplain.compile(model, LOSS, target=2, threads=1, **options)
    return lambda m=M: explainer(X, mask=m, null=NULL).results


def unoptimised(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = session.run(None, {node.name: feeds[node.name] for node in session.get_inputs()})
    return {node.name: np.asarray(v) for node, v in zip(session.get_outputs(), values, strict=True)}


@pytest.mark.parametrize("net", CONVOLUTIONAL)
def test_loss_and_gradient_of_the_golden_masks(net: str) -> None:
    known = stored(net)
    found = onnxplain.compile(GOLDEN / f"{net}.onnx", LOSS, blur=0.0, threads=1)(
        known["x"], mask=known["mask"], null=known["mask_null"]
    )
    close(found.results["mask_loss"], known["mask_loss"])
    close(found.results["mask_grad"], known["mask_grad"])
    close(found.outputs["y"] if "y" in found.outputs else next(iter(found.outputs.values())), known["y"])


@pytest.mark.parametrize("net", NETS)
def test_golden_ascents(net: str) -> None:
    known = stored(net)
    explainer = onnxplain.compile(
        GOLDEN / f"{net}.onnx",
        ASCENT,
        target=int(known["y"].argmax()),
        steps=20,
        eta=0.1,
        step="plain",
        decay=0.01,
        threads=1,
    )
    found = explainer(known["am_start"]).results
    close(found["maximised"], known["am_20"])
    scores = [explainer(x).outputs for x in (known["am_start"], found["maximised"])]
    ends = [next(iter(score.values())).ravel()[known["y"].argmax()] for score in scores]
    close(found["maximised_history"][0, [0, -1]], ends)
    np.testing.assert_array_equal(found["maximised_score"], found["maximised_history"][:, -1:])


@pytest.mark.parametrize("method", (LOSS, ASCENT))
def test_the_forward_pass_stays_as_it_is(method: str) -> None:
    known = stored("resnet")
    model = onnx.load(GOLDEN / "resnet.onnx")
    options: dict[str, Any] = {"steps": 3} if method == ASCENT else {}
    emitted = onnxplain.compile(model, method, target=1, **options).model
    x = model.graph.input[0].name
    feeds = {
        x: known["x"].astype(np.float32),
        "mask": known["mask"].astype(np.float32),
        "null": known["mask_null"].astype(np.float32),
    }
    before, after = unoptimised(model, feeds), unoptimised(emitted, feeds)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    stored_weights = {tensor.name for tensor in model.graph.initializer}
    mine = [tensor.name for tensor in emitted.graph.initializer]
    assert stored_weights <= set(mine) and len(set(mine)) == len(mine)
    assert emitted.ByteSize() < 2.5 * model.ByteSize() + 60_000  # nodes twice, weights once


def test_a_mask_of_ones_keeps_the_image() -> None:
    logits = X.reshape(1, -1) @ WEIGHT
    p = np.exp(logits) / np.exp(logits).sum()
    found = masking(blur=1.3)(np.ones((1, 1, 2, 3)))
    # the matrix of the upsampling is float32
    np.testing.assert_allclose(found["mask_loss"], p[:, 2:3], rtol=1e-6)
    np.testing.assert_allclose(found["mask_deleted"], 0, atol=1e-6)
    behind = masking(lambda1=0.5)(np.zeros((1, 1, 2, 3)))
    z = NULL.reshape(1, -1) @ WEIGHT
    q = np.exp(z) / np.exp(z).sum()
    np.testing.assert_allclose(behind["mask_score"], q[:, 2:3], rtol=1e-6)
    np.testing.assert_allclose(behind["mask_loss"] - behind["mask_score"], 0.5 * 6, rtol=1e-6)
    np.testing.assert_allclose(behind["mask_deleted"], 1, atol=1e-6)


@pytest.mark.parametrize(
    ("squash", "options"),
    [
        ("Softmax", {"blur": 0.0}),
        ("Softmax", {"blur": 0.8, "beta": 1.5, "lambda1": 0.3, "lambda2": 0.7}),
        (None, {"blur": 2.0}),
        ("Sigmoid", {"beta": 1.0, "lambda2": 0.2}),
        ("LogSoftmax", {}),
        ("Softmax", {"score": "value"}),
        ("Softmax", {"score": "value", "head": "prob"}),
    ],
)
def test_the_gradient_is_that_of_the_loss(squash: str | None, options: dict[str, Any]) -> None:
    loss, step = masking(squash, **options), 1e-5
    found, numbers = loss()["mask_grad"], np.empty(M.size)
    for i in range(M.size):
        e = np.zeros(M.size)
        e[i] = step
        up, down = (loss(M + sign * e.reshape(M.shape))["mask_loss"] for sign in (1, -1))
        numbers[i] = (up - down).item() / (2 * step)
    # central differences: step² and 1e-16 / step
    np.testing.assert_allclose(found.ravel(), numbers, rtol=0, atol=1e-7 * np.abs(numbers).max())


def test_what_a_probability_is() -> None:
    """The softmax of logits, whichever way the model ends; the sigmoid where it ends in one."""
    blended = [masking(squash)()["mask_score"] for squash in (None, "Softmax", "LogSoftmax")]
    np.testing.assert_allclose(blended[0], blended[1], rtol=1e-9)
    np.testing.assert_allclose(blended[0], blended[2], rtol=1e-9)
    value = masking("Sigmoid", score="value")()["mask_score"]
    np.testing.assert_allclose(masking("Sigmoid")()["mask_score"], 1 / (1 + np.exp(-value)), rtol=1e-9)


@pytest.mark.parametrize("net", ("cnn_odd", "resnet", "overlap_pool"))
def test_torch_agrees_in_float64(net: str) -> None:
    """Autograd through the oracle's network, torch's interpolation and a blur written as sums."""
    torch = pytest.importorskip("torch")
    from tests.torch_oracle import Oracle, logits

    known, sigma, beta, lambda1, lambda2 = stored(net), 1.2, 2.5, 0.02, 0.3
    model = onnx.load(GOLDEN / f"{net}.onnx")
    c = int(known["y"].argmin())
    m = torch.tensor(known["mask"].astype(np.float64), requires_grad=True)
    x, null = (torch.tensor(known[key].astype(np.float64)) for key in ("x", "mask_null"))
    whole = torch.nn.functional.interpolate(m, size=x.shape[2:], mode="bilinear", align_corners=False)
    for axis in (2, 3):
        at = torch.arange(x.shape[axis], dtype=torch.float64)
        weight = torch.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
        whole = torch.tensordot(whole, weight / weight.sum(1, keepdim=True), dims=([axis], [1]))
        whole = torch.movedim(whole, -1, axis)
    blended = whole * x + (1 - whole) * null
    oracle = Oracle(
        model, {model.graph.input[0].name: blended.detach().numpy()}, model.graph.input[0].name, logits(model)
    )
    p = torch.softmax(oracle.head, 1)[0, c]
    (back,) = torch.autograd.grad(p, oracle.x)
    rough = sum((m.diff(dim=axis).abs() ** beta).sum() for axis in (2, 3))
    penalty = lambda1 * (1 - m).abs().sum() + lambda2 * rough
    (slope,) = torch.autograd.grad((blended * back).sum() + penalty, m)
    options: dict[str, Any] = {"blur": sigma, "beta": beta, "lambda1": lambda1, "lambda2": lambda2}
    found = onnxplain.compile(model, LOSS, threads=1, **options)(
        known["x"], target=c, mask=known["mask"], null=known["mask_null"]
    ).results
    close(found["mask_loss"], (p + penalty).item())
    close(found["mask_grad"], slope.numpy())
    close(found["mask_deleted"], 1 - whole.detach().numpy())


def test_rows_are_by_themselves() -> None:
    """A batch of three is three runs; a list of classes lies sample by sample; -1 is the top class of x."""
    rng = np.random.default_rng(6)
    x, null = (rng.normal(size=(3, 2, 3, 4)).astype(np.float32) for _ in range(2))
    m = rng.uniform(size=(3, 1, 2, 2)).astype(np.float32)
    model = picture(squash="Softmax")
    whole = onnxplain.compile(model, LOSS, target=[1, 4], threads=1)(x, mask=m, null=null).results
    each = onnxplain.compile(model, LOSS, threads=1)
    assert whole["mask_grad"].shape == (6, 1, 2, 2) and whole["mask_deleted"].shape == (3, 1, 3, 4)
    for i in range(3):
        for k, c in enumerate((1, 4)):
            one = each(x[i : i + 1], target=c, mask=m[i : i + 1], null=null[i : i + 1]).results
            for name in ("mask_loss", "mask_score", "mask_grad"):
                np.testing.assert_allclose(whole[name][2 * i + k], one[name][0], rtol=1e-5, atol=1e-7)
    top = int((x[0].ravel() @ WEIGHT).argmax())
    first = (x[:1], m[:1], null[:1])
    both = [each(first[0], target=c, mask=first[1], null=first[2]).results["mask_loss"] for c in (-1, top)]
    np.testing.assert_array_equal(both[0], both[1])


def test_channels_last() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Flatten", ["t"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
    ]
    last = model_of(nodes, {"x": ["N", 3, 4, 2]}, {"scores": ["N", 5]}, {"weight": WEIGHT.astype(np.float32)})
    emitted, _ = compile_model(last, find(LOSS), Request(target=2, preprocessing={"layout": "NHWC"}))
    single = {"x": X, "null": NULL, "mask": M}
    turned = {k: (v if k == "mask" else np.moveaxis(v, 1, 3)).astype(np.float32) for k, v in single.items()}
    found = unoptimised(emitted, turned)
    known = onnxplain.compile(picture(), LOSS, target=2, threads=1)(X, mask=M, null=NULL).results
    for name in ("mask_loss", "mask_grad", "mask_deleted"):
        close(found[name], known[name], 1e-6)


def test_what_cannot_be_masked() -> None:
    flat = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 4]}, {"y": ["N", 4]})
    with pytest.raises(TargetError, match="no spatial axes"):
        onnxplain.compile(flat, LOSS)
    with pytest.raises(OptionError, match="'flat' is none; take score='value'"):
        onnxplain.compile(picture(), LOSS, head="flat")
    single = model_of(
        [
            helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0),
            helper.make_node("Reshape", ["y", "two"], ["z"]),
        ],
        {"x": ["N", 2, 3, 4]},
        {"z": ["N", 1]},
        {"axes": np.array([1, 2, 3]), "two": np.array([-1, 1])},
    )
    # A single number has no softmax: its "probability" is the number itself.
    losses = [
        onnxplain.compile(single, LOSS, score=score, target=0, threads=1)(X, mask=M, null=NULL).results[
            "mask_loss"
        ]
        for score in ("probability", "value")
    ]
    assert losses[0].shape == (1, 1)
    np.testing.assert_array_equal(losses[0], losses[1])
    with pytest.raises(OptionError, match=r"beta=0\.5"):
        onnxplain.compile(picture(), LOSS, beta=0.5)
    named = model_of(
        [helper.make_node("Flatten", ["mask"], ["scores"])], {"mask": ["N", 2, 3, 4]}, {"scores": ["N", 24]}
    )
    with pytest.raises(TargetError, match="already has a tensor named 'mask'"):
        onnxplain.compile(named, LOSS)


@pytest.mark.parametrize("method", (LOSS, ASCENT))
def test_what_does_not_depend_on_the_input(method: str) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
        helper.make_node("Concat", ["s", "five"], ["d"], axis=0),
        helper.make_node("Expand", ["half", "d"], ["y"]),
    ]
    model = model_of(
        nodes,
        {"x": ["N", 2, 3, 4]},
        {"y": ["N", 5]},
        {"half": np.array([[0.5]], np.float32), "five": np.array([5])},
    )
    with pytest.raises(TargetError, match="there is nothing to optimise"):
        onnxplain.compile(model, method)


@pytest.mark.parametrize("method", (LOSS, ASCENT))
def test_nodes_with_a_subgraph_are_named(method: str) -> None:
    value = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["t"])], "b", [], [value])
    nodes = [
        helper.make_node("If", ["yes"], ["r"], name="fork", then_branch=branch, else_branch=branch),
        helper.make_node("Flatten", ["r"], ["scores"], axis=1),
    ]
    model = model_of(nodes, {"x": ["N", 2, 3, 4]}, {"scores": ["N", 24]})
    model.graph.input.append(helper.make_tensor_value_info("yes", TensorProto.BOOL, []))
    with pytest.raises(UnsupportedError, match="If at 'fork': its subgraph would have to run again"):
        onnxplain.compile(model, method)


def climbed(x: Array = X, target: Any = 3, **options: Any) -> Mapping[str, Array]:
    """Of `picture`, whose unit c is linear with the gradient w_c."""
    return onnxplain.compile(picture(), ASCENT, target=target, threads=1, **options)(x).results


def test_a_linear_unit_on_the_sphere_and_with_decay() -> None:
    w = gradient(3)
    sphere = climbed(norm=2.5, decay=0.0, steps=60)["maximised"]
    np.testing.assert_allclose(sphere, 2.5 * w / np.linalg.norm(w), atol=1e-4)
    ridge = climbed(decay=0.5, eta=0.2, step="plain", steps=100)["maximised"]
    np.testing.assert_allclose(ridge, w / (2 * 0.5), atol=1e-5)  # 0.8^100 of the way is left
    unit = climbed(decay=0.5, eta=0.2, steps=1)["maximised"]
    np.testing.assert_allclose(unit, X + 0.2 * (w / np.linalg.norm(w) - X), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1e-6, 5e-3, 1.0, 1e4])
def test_the_ascent_does_not_depend_on_how_steep_the_unit_is(size: float) -> None:
    """a = s <w, x>: x goes to w / (2 λ ‖w‖) for every s. With a decay that is divided by ‖g‖ it ran to infinity."""
    w = np.array([[0.6], [0.8]], np.float32)
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["scores"])], {"x": ["N", 2]}, {"scores": ["N", 1]}
    )
    model.graph.initializer.append(numpy_helper.from_array(np.float32(size) * w, "w"))
    x = np.array([[1.0, -1.0]], np.float32)
    image = onnxplain.compile(model, ASCENT, target=0, decay=0.05, threads=1)(x).results["maximised"]
    np.testing.assert_allclose(image, 10 * w.T, rtol=1e-4)  # 0.9^200 of the way is left
    own = maximise(model, 0, x, ascent=Ascent(decay=0.05, blur=0.0), threads=1)
    np.testing.assert_allclose(own.image, image, rtol=1e-5)


def test_the_history_is_that_of_every_image() -> None:
    found = climbed(steps=4, decay=0.0, step="plain", eta=0.1)
    w = gradient(3).ravel()
    known = X.ravel() @ w + 0.1 * np.arange(5) * (w @ w)
    close(found["maximised_history"][0], known, 1e-6)
    assert found["maximised_history"].shape == (1, 5) and found["maximised_score"].shape == (1, 1)


@pytest.mark.filterwarnings("default::onnxplain.ExplainWarning")
def test_a_dead_unit_stays() -> None:
    """No gradient: nothing is divided by, and the decay alone is left."""
    nodes = [
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Flatten", ["r"], ["scores"], axis=1),
    ]
    model = model_of(nodes, {"x": ["N", 2, 3, 4]}, {"scores": ["N", 24]})
    x = np.ones((1, 2, 3, 4), np.float32)
    still = onnxplain.compile(model, ASCENT, target=0, steps=5, decay=0.0, threads=1)(x).results
    np.testing.assert_array_equal(still["maximised"], x)
    shrunk = onnxplain.compile(model, ASCENT, target=0, steps=1, decay=0.1, threads=1)(x).results
    np.testing.assert_allclose(shrunk["maximised"], 0.8 * x, rtol=1e-6)
    zero = onnxplain.compile(model, ASCENT, target=0, steps=3, norm=2.0, threads=1)(0 * x).results
    np.testing.assert_array_equal(zero["maximised"], 0 * x)


def test_targets_of_an_ascent() -> None:
    rows = np.random.default_rng(8).normal(size=(3, 2, 3, 4)).astype(np.float32)
    classes = [4, -1, 0]
    tops = (rows.reshape(3, -1) @ WEIGHT).argmax(1)
    fed = onnxplain.compile(picture(), ASCENT, steps=7, threads=1)(rows, target=classes).results
    for i, c in enumerate((4, int(tops[1]), 0)):
        one = climbed(rows[i : i + 1], c, steps=7)
        for name in ("maximised", "maximised_score", "maximised_history"):
            np.testing.assert_allclose(fed[name][i], one[name][0], rtol=1e-5, atol=1e-5)
    sums = onnxplain.compile(picture(), ASCENT, target="cotangent", steps=7, threads=1)(
        rows[:1], cotangent=np.eye(5, dtype=np.float32)[[4, 0]]
    ).results
    assert sums["maximised"].shape == (2, 2, 3, 4)
    for i, c in enumerate((4, 0)):
        np.testing.assert_allclose(
            sums["maximised"][i], climbed(rows[:1], c, steps=7)["maximised"][0], rtol=1e-5, atol=1e-5
        )
    with pytest.raises(TargetError, match="one unit"):
        onnxplain.compile(picture(), ASCENT, target=[0, 1])
    with pytest.raises(TargetError, match="class 5 is out of range"):
        onnxplain.compile(picture(), ASCENT, target=5)


def test_several_inputs_are_refused() -> None:
    from tests.runtime.small import product

    for method in (LOSS, ASCENT):
        with pytest.raises(OptionError, match=r"choose one with inputs=\('a',\)"):
            onnxplain.compile(product(), method, inputs=("a", "b"))
    a, b = (np.random.default_rng(i).normal(size=(1, 2, 3, 4)).astype(np.float32) for i in (1, 2))
    found = onnxplain.compile(
        product(), ASCENT, inputs=("a",), target=5, steps=2, step="plain", decay=0.0, threads=1
    )
    image = found({"a": a, "b": b}).results["maximised"]
    known = a.ravel().copy()
    known[5] += 2 * b.ravel()[5]
    np.testing.assert_allclose(image.ravel(), known, rtol=1e-5)
