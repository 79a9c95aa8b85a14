"""Activations and layer normalisations that a model spells out: found in every grouping, and in nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain.rewriter.canonical import canonise

from .nets import floats, net, run
from .views import Seen, agrees, as_model, canonical

NUMBERS = (
    "float half = {0.5}, float one = {1}, float two = {2}, float[1] three = {3}, float six = {6}, float zero = {0}, "
    "float big = {3.4028235e38}, float sixth = {0.16666667}, float root = {0.70710677}, float sqrt2 = {1.4142135}, "
    "float cube = {0.044715}, float slope = {0.7978846}, float slope2 = {1.5957692}, float quick = {1.702}, "
    "float cubed = {0.035677407}, float other = {0.7}"
)
"""Rounded to float32, as exporters write them."""


def spelled(body: str, more: str = "", shape: str = "2, 3, 7") -> Seen:
    """x to y; the view must compute the same, on numbers on both sides of every bend."""
    text = f"g (float[{shape}] x) => (float[{shape}] y) <{NUMBERS}{', ' if more else ''}{more}> {{ {body} }}"
    size = [int(n) for n in shape.split(",")]
    return agrees(net(text), {"x": 3 * floats(*size)})


GATES: dict[str, tuple[str, str, dict[str, object]]] = {
    "swish": ("s = Sigmoid (x) y = Mul (x, s)", "Swish", {"alpha": 1.0}),
    "swish turned": ("s = Sigmoid (x) y = Mul (s, x)", "Swish", {"alpha": 1.0}),
    "swish 1.702": ("a = Mul (x, quick) s = Sigmoid (a) y = Mul (x, s)", "Swish", {"alpha": 1.702}),
    "swish of tanh": (
        "h = Mul (x, half) t = Tanh (h) a = Add (t, one) y = Mul (h, a)",
        "Swish",
        {"alpha": 1.0},
    ),
    "hard swish": ("s = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul (s, x)", "HardSwish", {}),
    "clip, divide, multiply": (
        "a = Add (x, three) c = Clip (a, zero, six) d = Div (c, six) y = Mul (x, d)",
        "HardSwish",
        {},
    ),
    "clip, multiply, divide": (
        "a = Add (three, x) c = Clip (a, zero, six) d = Mul (c, x) y = Div (d, six)",
        "HardSwish",
        {},
    ),
    "clip, times a sixth": (
        "a = Add (x, three) c = Clip (a, zero, six) d = Mul (x, sixth) y = Mul (c, d)",
        "HardSwish",
        {},
    ),
    "clip to one": (
        "a = Div (x, six) b = Add (a, half) c = Clip (b, zero, one) y = Mul (x, c)",
        "HardSwish",
        {},
    ),
    "gelu as torch": (
        "a = Div (x, sqrt2) e = Erf (a) b = Add (e, one) c = Mul (x, b) y = Mul (c, half)",
        "Gelu",
        {"approximate": "none"},
    ),
    "gelu as tensorflow": (
        "a = Mul (x, root) e = Erf (a) b = Add (one, e) c = Mul (half, b) y = Mul (x, c)",
        "Gelu",
        {"approximate": "none"},
    ),
    "gelu, half first": (
        "h = Mul (half, x) a = Div (x, sqrt2) e = Erf (a) b = Add (e, one) y = Mul (h, b)",
        "Gelu",
        {"approximate": "none"},
    ),
    "gelu, divided": (
        "a = Div (x, sqrt2) e = Erf (a) b = Add (e, one) c = Mul (x, b) y = Div (c, two)",
        "Gelu",
        {"approximate": "none"},
    ),
    "gelu, summed": (
        "h = Mul (half, x) a = Mul (x, root) e = Erf (a) b = Mul (h, e) y = Add (b, h)",
        "Gelu",
        {"approximate": "none"},
    ),
    "tanh gelu as torch": (
        "h = Mul (x, half) p = Pow (x, three) c = Mul (p, cube) a = Add (x, c) b = Mul (a, slope) t = Tanh (b) "
        "d = Add (t, one) y = Mul (h, d)",
        "Gelu",
        {"approximate": "tanh"},
    ),
    "tanh gelu as products": (
        "q = Mul (x, x) r = Mul (q, x) c = Mul (cube, r) a = Add (c, x) b = Mul (slope, a) t = Tanh (b) "
        "d = Add (one, t) e = Mul (half, d) y = Mul (x, e)",
        "Gelu",
        {"approximate": "tanh"},
    ),
    "tanh gelu, factored": (
        "q = Mul (x, x) c = Mul (cubed, q) a = Add (c, slope) b = Mul (x, a) t = Tanh (b) d = Add (one, t) "
        "e = Mul (x, d) y = Mul (e, half)",
        "Gelu",
        {"approximate": "tanh"},
    ),
    "tanh gelu as sigmoid": (
        "p = Pow (x, three) c = Mul (p, cube) a = Add (x, c) b = Mul (a, slope2) s = Sigmoid (b) y = Mul (x, s)",
        "Gelu",
        {"approximate": "tanh"},
    ),
    "mish": ("s = Softplus (x) t = Tanh (s) y = Mul (x, t)", "Mish", {}),
    "clip from zero": ("y = Clip (x, zero)", "Relu", {}),
    "clip to the largest number": ("y = Clip (x, zero, big)", "Relu", {}),
    "max with zero": ("y = Max (x, zero)", "Relu", {}),
    "max of zero": ("y = Max (zero, x)", "Relu", {}),
}


@pytest.mark.parametrize("case", GATES)
def test_activations(case: str) -> None:
    body, op, attributes = GATES[case]
    seen = spelled(body)
    assert seen.ops == [op]
    made = seen.view.nodes[0]
    assert {
        key: pytest.approx(v) if isinstance(v, float) else v for key, v in attributes.items()
    } == made.attrs
    assert (made.inputs[0].name, made.outputs[0].name) == ("x", "y")
    assert made.name == seen.graph.nodes[-1].name


@pytest.mark.parametrize("case", GATES)
def test_activations_of_an_activation(case: str) -> None:
    """x is read many times, and by others than the pattern."""
    body = GATES[case][0].replace("(x", "(u").replace(", x", ", u").replace("y =", "v =")
    seen = spelled(f"u = Add (x, other) {body} y = Add (u, v)")
    assert seen.ops == ["Add", GATES[case][1], "Add"]


@pytest.mark.parametrize(
    "body",
    [
        "s = Softplus (x) y = Mul (x, s)",
        "s = Sigmoid (x) y = Mul (s, s)",
        "s = Sigmoid (x) a = Mul (x, x) y = Mul (a, s)",
        "s = Sigmoid (x) a = Add (x, one) y = Mul (a, s)",
        "a = Add (x, one) s = Sigmoid (a) y = Mul (x, s)",
        "s = HardSigmoid (x) y = Mul (s, x)",
        "a = Add (x, two) c = Clip (a, zero, six) d = Mul (x, c) y = Div (d, six)",
        "a = Add (x, three) c = Clip (a, zero, six) y = Mul (x, c)",
        "a = Add (x, three) c = Clip (a, zero, other) d = Mul (x, c) y = Div (d, six)",
        "a = Mul (x, other) e = Erf (a) b = Add (e, one) c = Mul (x, b) y = Mul (c, half)",
        "a = Mul (x, root) e = Erf (a) b = Add (e, two) c = Mul (x, b) y = Mul (c, half)",
        "a = Mul (x, root) e = Erf (a) b = Add (e, one) y = Mul (x, b)",
        "p = Pow (x, three) c = Mul (p, other) a = Add (x, c) b = Mul (a, slope) t = Tanh (b) d = Add (t, one) "
        "e = Mul (d, x) y = Mul (e, half)",
        "s = Softplus (x) a = Mul (s, half) t = Tanh (a) y = Mul (x, t)",
        "y = Clip (x, zero, six)",
        "y = Clip (x, one)",
        "y = Max (x, one)",
        "a = Neg (x) y = Max (x, a)",
    ],
)
def test_what_only_looks_like_one_stays(body: str) -> None:
    seen = spelled(body)
    assert seen.view.nodes == seen.graph.nodes


def test_a_gate_that_others_read_stays() -> None:
    seen = spelled("s = Sigmoid (x) a = Mul (x, s) y = Add (a, s)")
    assert seen.ops == ["Sigmoid", "Mul", "Add"]


def test_a_kept_gate_stays() -> None:
    body = "s = Sigmoid (x) y = Mul (x, s)"
    text = f"g (float[2] x) => (float[2] y) {{ {body} }}"
    assert agrees(net(text), {"x": floats(2)}, keep=["s"]).ops == ["Sigmoid", "Mul"]
    assert agrees(net(text), {"x": floats(2)}, keep=["y"]).ops == ["Swish"]


def test_a_gate_from_another_branch_stays() -> None:
    """Squeeze and excitation multiplies with the sigmoid of something else."""
    seen = spelled(
        "m = ReduceMean <keepdims = 1> (x, last) s = Sigmoid (m) y = Mul (x, s)", "int64[1] last = {2}"
    )
    assert seen.ops == ["ReduceMean", "Sigmoid", "Mul"]


def test_the_factors_of_an_activation_are_not_taken_for_a_scaling() -> None:
    """gelu's ½, behind the erf, would fit the weights of the next layer too."""
    body = GATES["gelu as torch"][0].replace("y =", "v =")
    seen = spelled(
        f"{body} y = MatMul (v, w)", "float[7, 7] w = {" + ", ".join(str(i % 5) for i in range(49)) + "}"
    )
    assert seen.ops == ["Gelu", "MatMul"]


def test_double_precision_wants_double_constants() -> None:
    def model(root: str) -> Seen:
        text = f"""g (double[4] x) => (double[4] y)
        <double root = {{{root}}}, double one = {{1}}, double half = {{0.5}}> {{
            a = Mul (x, root) e = Erf (a) b = Add (e, one) c = Mul (x, b) y = Mul (c, half) }}"""
        return canonical(net(text))

    assert model("0.7071067811865476").ops == ["Gelu"]
    assert "Erf" in model("0.7071067").ops


MEAN = "m = ReduceMean <keepdims = 1> (x, last) d = Sub (x, m) "
SQUARE, POWER = "q = Mul (d, d) ", "q = Pow (d, two) "
ROOT = "v = ReduceMean <keepdims = 1> (q, last) a = Add (v, eps) s = Sqrt (a) "
PARAMETERS = (
    "int64[1] last = {-1}, float eps = {0.001}, float[7] gamma = {1, -2, 3, 0.5, 1, 2, 0}, "
    "float[7] beta = {0, 1, 2, -3, 1, 0, 5}"
)
NORMS = {
    "as torch": MEAN + POWER + ROOT + "n = Div (d, s) p = Mul (n, gamma) y = Add (p, beta)",
    "turned": MEAN + SQUARE + ROOT + "n = Div (d, s) p = Mul (gamma, n) y = Add (beta, p)",
    "reciprocal": MEAN
    + SQUARE
    + ROOT
    + "r = Reciprocal (s) n = Mul (d, r) p = Mul (n, gamma) y = Add (p, beta)",
    "one over": MEAN + SQUARE + ROOT + "r = Div (one, s) n = Mul (r, d) p = Mul (n, gamma) y = Add (p, beta)",
    "power": MEAN
    + SQUARE
    + "v = ReduceMean <keepdims = 1> (q, last) a = Add (eps, v) r = Pow (a, minus) n = Mul (d, r) "
    "p = Mul (n, gamma) y = Add (p, beta)",
    "scale first": MEAN
    + SQUARE
    + ROOT
    + "r = Reciprocal (s) f = Mul (r, gamma) p = Mul (d, f) y = Add (p, beta)",
    "multiplied out": MEAN
    + SQUARE
    + ROOT
    + "r = Reciprocal (s) f = Mul (r, gamma) g = Mul (x, f) h = Mul (m, f) k = Sub (beta, h) y = Add (g, k)",
    "computed twice": MEAN
    + "m2 = ReduceMean <keepdims = 1> (x, last) d2 = Sub (x, m2) q = Mul (d, d2) "
    + ROOT
    + "d3 = Sub (x, m) n = Div (d3, s) p = Mul (n, gamma) y = Add (p, beta)",
    "without bias": MEAN + SQUARE + ROOT + "n = Div (d, s) y = Mul (n, gamma)",
    "without scale": MEAN + SQUARE + ROOT + "n = Div (d, s) y = Add (n, beta)",
    "bare": MEAN + SQUARE + ROOT + "y = Div (d, s)",
    "without epsilon": MEAN + SQUARE + "v = ReduceMean <keepdims = 1> (q, last) s = Sqrt (v) y = Div (d, s)",
}
MINUS = ", float minus = {-0.5}"


@pytest.mark.parametrize("case", NORMS)
def test_layer_normalisations(case: str) -> None:
    seen = spelled(NORMS[case], PARAMETERS + MINUS)
    assert seen.ops == ["LayerNormalization"]
    made = seen.view.nodes[0]
    assert made.attrs["axis"] == -1
    assert made.attrs["epsilon"] == pytest.approx(0 if case == "without epsilon" else 0.001)
    assert made.inputs[0].name == "x" and made.outputs[0].name == "y"
    scaled, shifted = "gamma" in NORMS[case], "beta" in NORMS[case]
    assert (made.inputs[1].name == "gamma") == scaled
    assert len(made.inputs) == 2 + shifted
    assert made.name == seen.graph.nodes[-1].name


def test_a_layer_normalisation_over_two_axes() -> None:
    body = NORMS["without scale"].replace("last", "two_axes").replace("beta", "shift")
    more = (
        PARAMETERS
        + ", int64[2] two_axes = {2, 1}, float[1, 3, 7] shift = {"
        + ", ".join(map(str, range(21)))
        + "}"
    )
    seen = spelled(body, more)
    assert seen.ops == ["LayerNormalization"]
    assert seen.view.nodes[0].attrs["axis"] == -2
    assert [list(x.shape) for x in seen.view.nodes[0].inputs[1:]] == [[3, 7], [3, 7]]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (NORMS["as torch"].replace("last)", "first)"), 9),
        (NORMS["as torch"].replace("(q, last)", "(q, first)"), 9),
        (NORMS["as torch"].replace("d = Sub (x, m)", "d = Sub (m, x)"), 9),
        (NORMS["as torch"].replace(POWER, "q = Mul (d, x) "), 9),
        (NORMS["as torch"].replace("n = Div (d, s)", "n = Div (x, s)"), 9),
        (NORMS["bare"].replace("y = Div (d, s)", "n = Div (d, s) y = Add (n, s)"), 8),
    ],
)
def test_what_only_looks_like_a_layer_normalisation_stays(body: str, left: int) -> None:
    seen = spelled(body, PARAMETERS + ", int64[1] first = {1}")
    assert len(seen.ops) == left and "LayerNormalization" not in seen.ops


@pytest.mark.parametrize("size", ["1", "3, 1", "2, 1, 1"])
def test_parameters_of_another_shape_stay_nodes(size: str) -> None:
    count = int(np.prod([int(n) for n in size.split(",")]))
    more = f"{PARAMETERS}, float[{size}] scale = {{{', '.join(['2'] * count)}}}"
    seen = spelled(NORMS["without bias"].replace("gamma", "scale"), more)
    assert seen.ops == ["LayerNormalization", "Mul"]


def test_a_size_that_is_not_static_has_no_ones() -> None:
    body = NORMS["bare"]
    text = (
        f"g (float[2, T] x) => (float[2, T] y) <int64[1] last = {{-1}}, float eps = {{0.001}}> {{ {body} }}"
    )
    assert "LayerNormalization" not in agrees(net(text), {"x": floats(2, 5)}).ops


def test_a_layer_normalisation_whose_deviation_is_kept_stays() -> None:
    body = NORMS["bare"]
    text = (
        f"g (float[2, 7] x) => (float[2, 7] y) <int64[1] last = {{-1}}, float eps = {{0.001}}> {{ {body} }}"
    )
    assert agrees(net(text), {"x": floats(2, 7)}, keep=["s"]).ops[-1] == "Div"
    assert agrees(net(text), {"x": floats(2, 7)}, keep=["x", "y"]).ops == ["LayerNormalization"]


def test_a_second_look_finds_nothing_new() -> None:
    body = GATES["gelu as torch"][0].replace("y =", "u =")
    linear = "h = MatMul (x, w) x1 = Add (h, beta) "
    more = PARAMETERS + ", float[7, 7] w = {" + ", ".join(str(i % 5) for i in range(49)) + "}"
    seen = spelled(linear + body.replace("(x", "(x1").replace(", x", ", x1") + " y = Identity (u)", more)
    assert seen.ops == ["MatMul", "Gelu", "Identity"]
    again = canonise(seen.view, seen.g)
    assert again.nodes == seen.view.nodes
    assert run(as_model(seen), {"x": floats(2, 3, 7)})["y"].shape == (2, 3, 7)
