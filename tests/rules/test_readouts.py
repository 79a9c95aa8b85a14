"""Readouts inside the graph against those of the host, and both against formulas written here in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

import onnxplain
from onnxplain import OptionError
from onnxplain.rewriter.emit import Emit
from onnxplain.rewriter.graph import assemble, prepare
from onnxplain.rewriter.passes.lower import lower
from onnxplain.rewriter.passes.share import share
from onnxplain.rules.readouts import REDUCING, STEPS, jet_table, readout
from onnxplain.runtime import colormaps, render
from onnxplain.runtime.providers import create_session
from tests.runtime.small import model_of

Array = NDArray[Any]
Wide = NDArray[np.float64]

KEEPING = ("minmax", "sym", "centre", "unit", "max")
CHAINS = [
    *sorted(REDUCING),
    *KEEPING,
    *(f"{a},{b}" for a, b in itertools.product(sorted(REDUCING), ("minmax", "sym", "centre", "unit"))),
    *(f"{a},{b}" for a, b in itertools.product(("minmax", "sym", "centre"), sorted(REDUCING))),
    "maxabs,max",
    "minmax,maxabs,unit,max",
]


def emitted(spec: str, m: Array, axis: int = 1, channels_last: bool = False) -> Array:
    """The readout of m as onnxruntime computes it, next to a model that does nothing."""
    session = _session(spec, str(m.dtype), ("N", *m.shape[1:]), axis, channels_last)
    return np.asarray(session.run(["heat"], {"m": m})[0])


@cache
def _session(spec: str, dtype: str, shape: tuple[Any, ...], axis: int, channels_last: bool) -> Any:
    kind = np.dtype(dtype).type
    graph = prepare(model_of([helper.make_node("Abs", ["m"], ["y"])], {"m": shape}, {"y": shape}, dtype=kind))
    g = Emit(graph)
    heat = readout(spec, channels_last)(g, graph.inputs[0], axis)
    final = g.Identity(heat)
    final.name, final.shape = "heat", ["N", *heat.shape]
    nodes, finals = share(g.nodes, [final])
    g.nodes = nodes
    nodes, finals = lower(g, finals)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(finals[0].dtype))
    model = assemble(graph, nodes, [helper.make_tensor_value_info("heat", element, final.shape)])
    onnx.checker.check_model(model, full_check=True)  # with the shape that the readout claims
    return create_session(model.SerializeToString())


def host(spec: str, m: Array, axis: int = 1) -> Wide:
    values = np.asarray(m, np.float64)
    for name in spec.split(","):
        values = render.READOUTS[name](values, axis)
    return values


def _normalised(formula: Callable[[Wide], Wide]) -> Callable[[Wide, int], Wide]:
    def each(m: Wide, axis: int) -> Wide:
        """Sample by sample; zeros for a constant one."""
        return np.stack([np.zeros_like(s) if s.max() == s.min() else formula(s) for s in m])

    return each


def _p99(a: Wide) -> Wide:
    ordered = np.sort(a.ravel())
    place = 0.99 * (ordered.size - 1)
    low, part = int(place), place - int(place)
    p99 = ordered[low] if part == 0 else (1 - part) * ordered[low] + part * ordered[low + 1]
    top = p99 if p99 > ordered[0] else ordered[-1]
    return np.asarray(np.clip((a - ordered[0]) / (top - ordered[0]), 0, 1))


FORMULAS: dict[str, Callable[[Wide, int], Wide]] = {
    "maxabs": lambda m, axis: np.maximum(m.max(axis), -m.min(axis)),
    "sum": lambda m, axis: np.add.reduce(m, axis),
    "abssum_p99": lambda m, axis: _normalised(_p99)(np.abs(m).sum(axis), axis),
    "minmax": _normalised(lambda s: (s - s.min()) / (s.max() - s.min())),
    "max": _normalised(lambda s: s / s.max()),
    "sym": _normalised(lambda s: s / np.abs(s).max()),
    "centre": _normalised(lambda s: s / (2 * np.abs(s).max()) + 0.5),
    "unit": _normalised(lambda s: s / np.linalg.norm(s)),
}


def formula(spec: str, m: Array, axis: int = 1) -> Wide:
    values = np.asarray(m, np.float64)
    for name in spec.split(","):
        values = FORMULAS[name](values, axis)
    return values


@cache
def maps() -> NDArray[np.float32]:
    """(6, 3, 12, 13): two random maps, a constant one, zeros, one pixel of 156 (less than 1 %), two values."""
    rng = np.random.default_rng(11)
    m = rng.normal(size=(6, 3, 12, 13)) * rng.lognormal(sigma=2, size=(6, 1, 12, 13))
    m[2], m[3], m[4] = -0.7, 0.0, 0.0
    m[4, :, 5, 6] = (1.0, -2.0, 0.5)
    m[5] = np.where(m[5] > 0, 3.0, 1.0)
    return m.astype(np.float32)


def for_chain(spec: str) -> NDArray[np.float32]:
    """`max` is defined for maps without negative values."""
    return np.abs(maps()) if "max" in spec.split(",") else maps()


def close(got: Array, expected: Wide, tolerance: float = 2e-6) -> None:
    """2e-6 of the largest value: a few roundings of float32 (measured: below 4e-7)."""
    assert got.shape == expected.shape
    assert np.isfinite(got).all()
    scale = max(1.0, float(np.abs(expected).max()))
    assert float(np.abs(got - expected).max()) <= tolerance * scale


def test_every_readout_is_tested() -> None:
    assert {name for chain in CHAINS for name in chain.split(",")} | {"jet"} == set(STEPS)
    assert set(render.READOUTS) == set(FORMULAS) == set(STEPS) - {"jet"}


@pytest.mark.parametrize("spec", CHAINS)
def test_graph_host_and_formula_agree(spec: str) -> None:
    m = for_chain(spec)
    got = emitted(spec, m)
    assert got.dtype == np.float32
    close(got, formula(spec, m))
    close(got, host(spec, m))
    if "," not in spec:
        assert np.abs(render.readout(spec, m) - host(spec, m)).max() <= 1e-6 * max(1.0, np.abs(m).max() * 3)


@pytest.mark.parametrize("spec", CHAINS)
def test_channels_last(spec: str) -> None:
    """The same map in another layout: exactly the same result, but for the order of a sum."""
    m = for_chain(spec)
    first, last = emitted(spec, m), np.ascontiguousarray(m.transpose(0, 2, 3, 1))
    if first.ndim == 4:
        first = first.transpose(0, 2, 3, 1)
    for axis, channels_last in ((-1, False), (1, True)):
        close(emitted(spec, last, axis, channels_last), first.astype(np.float64), 1e-6)
    close(first, host(spec, last, 3))


@pytest.mark.parametrize("spec", CHAINS)
def test_float64(spec: str) -> None:
    m = for_chain(spec).astype(np.float64)
    got = emitted(spec, m)
    assert got.dtype == np.float64
    close(got, formula(spec, m), 1e-13)


@pytest.mark.parametrize("spec", CHAINS)
def test_a_sample_does_not_see_the_others(spec: str) -> None:
    m = for_chain(spec)
    together = emitted(spec, m)
    for i in range(len(m)):
        assert np.array_equal(emitted(spec, m[i : i + 1])[0], together[i])


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30, 1e30])
@pytest.mark.parametrize("spec", [*KEEPING, "abssum_p99", "sum,sym", "maxabs,minmax"])
def test_a_constant_map_gives_zeros(spec: str, value: float) -> None:
    m = np.full((2, 3, 4, 5), value, np.float32)
    assert not emitted(spec, m).any()
    if not (value < 0 and spec == "max"):  # refused by the host
        assert not host(spec, m).any()


@pytest.mark.parametrize("spec", ["minmax", "max", "sym", "centre", "unit", "abssum_p99", "sum,sym"])
def test_one_pixel(spec: str) -> None:
    """A map of one pixel and channel is constant."""
    assert not emitted(spec, np.full((1, 1, 1, 1), 5.0, np.float32)).any()


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("spec", ["minmax", "max", "sym", "centre", "unit", "abssum_p99", "sum,unit"])
def test_tiny_and_huge_maps(spec: str, scale: float) -> None:
    """Gradients of deep networks leave the range in which a float32 can be squared; the picture must not change."""
    m = for_chain(spec)[:2]
    close(emitted(spec, (m.astype(np.float64) * scale).astype(np.float32)), formula(spec, m), 5e-6)


@pytest.mark.parametrize("spec", [*KEEPING, "abssum_p99"])
def test_subnormal_values_never_give_nan(spec: str) -> None:
    m = (for_chain(spec)[:2] * 1e-42).astype(np.float32)
    got = emitted(spec, m)
    assert np.isfinite(got).all() and np.abs(got).max() <= 1


def test_maxima_that_are_not_positive() -> None:
    """`max` of a map without positive values: zeros in the graph, which cannot refuse; the host refuses it."""
    m = -np.abs(maps()[:2])
    assert not emitted("max", m).any()
    with pytest.raises(OptionError, match="without negative values"):
        render.readout("max", m)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (10, 10), (1, 101), (7, 11), (224, 224)])
def test_the_percentile_is_numpys(shape: tuple[int, int]) -> None:
    a = np.random.default_rng(5).lognormal(sigma=2, size=(2, 1, *shape)).astype(np.float32)
    total = a[:, 0].astype(np.float64)
    low, p99 = total.min((1, 2), keepdims=True), np.percentile(total, 99, axis=(1, 2), keepdims=True)
    expected = np.clip((total - low) / np.where(p99 > low, p99 - low, 1), 0, 1)
    close(emitted("abssum_p99", a), expected)


def test_where_the_percentile_is_the_minimum_the_maximum_counts() -> None:
    expected = np.zeros((12, 13))
    expected[5, 6] = 1
    assert np.array_equal(emitted("abssum_p99", maps()[4:5])[0], expected)
    assert np.array_equal(render.readout("abssum_p99", maps()[4:5])[0], expected)


@pytest.mark.parametrize("spec", ["maxabs", "sum", "abssum_p99", "minmax", "sum,sym"])
def test_signals_of_three_axes(spec: str) -> None:
    """(N, C, L) -> (N, L), as a picture of one line."""
    m = maps()[:, :, 5, :]
    expected = emitted(spec, m[:, :, None, :])
    assert np.array_equal(emitted(spec, m), expected.squeeze(2 if expected.ndim == 4 else 1))


def test_jet_is_the_map_of_the_host() -> None:
    assert np.array_equal(jet_table(), colormaps.jet_table().astype(np.float32))
    v = np.linspace(-0.5, 1.5, 4001, dtype=np.float32).reshape(1, 1, 1, -1)
    got = emitted("sum,jet", v)
    assert got.shape == (1, 1, 4001, 3)
    assert np.array_equal(got, colormaps.jet(v[:, 0].astype(np.float64)).astype(np.float32))
    assert got[0, 0, 0].tolist() == [0, 0, 0.5] and got[0, 0, -1].tolist() == [0.5, 0, 0]


@pytest.mark.parametrize("spec", ["maxabs,minmax", "abssum_p99", "sum,centre"])
def test_jet_at_the_end_of_a_chain(spec: str) -> None:
    values = emitted(spec, maps())
    assert np.array_equal(
        emitted(f"{spec},jet", maps()), colormaps.jet(values.astype(np.float64)).astype(np.float32)
    )


def test_jet_of_a_model_in_float64() -> None:
    got = emitted("sum,minmax,jet", maps().astype(np.float64))
    assert np.allclose(got, colormaps.jet(host("sum,minmax", maps())), atol=1e-7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("maxab", r"no readout 'maxab' \(did you mean 'maxabs'\?\); there are maxabs, sum"),
        ("sum,symm", r"did you mean 'sym'"),
        ("raw", "no readout 'raw'"),
        ("", "start with one of abssum_p99, maxabs, sum"),
        (" , ", "start with one of"),
        ("jet", "start with one of"),
        ("minmax,jet", "start with one of"),
        ("sum,jet,minmax", "jet comes last"),
        ("sum,jet,jet", "jet only once"),
        ("maxabs,sum", "only one of abssum_p99, maxabs, sum"),
        ("sum,minmax,sum", "only one of"),
    ],
)
def test_chains_without_meaning(spec: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        readout(spec)
    with pytest.raises(OptionError, match=message):
        onnxplain.compile(linear("NCHW"), reduce=spec)


def test_blanks_are_ignored() -> None:
    assert np.array_equal(emitted(" maxabs , minmax ", maps()), emitted("maxabs,minmax", maps()))


@pytest.mark.parametrize("spec", ["maxabs", "sum", "abssum_p99", "minmax,sum"])
def test_no_channels_to_reduce(spec: str) -> None:
    """A map (N, F) has none; reduced over its only axis, the rest would mix the samples."""
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": ["N", 4]}, {"y": ["N", 4]})
    with pytest.raises(OptionError, match="an attribution of 2 axes has no channels to reduce; use minmax"):
        onnxplain.compile(model, reduce=spec)
    heat = onnxplain.compile(model, reduce="minmax")(np.ones((2, 4)), target=[0, 1]).heatmap
    assert heat is not None and heat.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


SIDES = (3, 6, 5)
"""C, H, W."""


def linear(layout: str, dtype: type = np.float32) -> onnx.ModelProto:
    """x (N, 3, 6, 5) or (N, 6, 5, 3) -> flatten(x) weight (N, 4)."""
    c, h, w = SIDES
    shape = [c, h, w] if layout == "NCHW" else [h, w, c]
    weight: Array = np.random.default_rng(2).normal(size=(c * h * w, 4)).astype(dtype)
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    return model_of(nodes, {"x": ["N", *shape]}, {"y": ["N", 4]}, {"w": weight}, dtype)


def record(layout: str) -> dict[str, object]:
    numbers = {"mean": [0, 0, 0], "std": [1, 1, 1]}
    return {"layout": layout, "color": "RGB", "size": list(SIDES[1:]), "resize": "stretch", **numbers}


@pytest.mark.parametrize("given", [True, False], ids=["record", "shape of the input"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("spec", ["maxabs", "sum", "abssum_p99"])
def test_the_channel_axis_of_a_compiled_model(layout: str, spec: str, given: bool) -> None:
    about = record(layout) if given else None
    explainer = onnxplain.compile(linear(layout), reduce=spec, preprocessing=about)
    shape = SIDES if layout == "NCHW" else (*SIDES[1:], SIDES[0])
    result = explainer(np.zeros((2, *shape)), target=[1, 3])
    assert result.heatmap is not None and result.heatmap.shape == (2, *SIDES[1:])
    assert result.heatmap.dtype == np.float32
    close(result.heatmap, render.readout(spec, result.attribution, layout).astype(np.float64))
    declared = explainer.model.graph.output[-1]
    assert [d.dim_value or d.dim_param for d in declared.type.tensor_type.shape.dim] == ["N", *SIDES[1:]]


def test_the_record_wins_over_the_shape() -> None:
    """(N, 3, 5, 3): either axis could hold the channels."""
    nodes = [helper.make_node("Flatten", ["x"], ["y"])]
    model = model_of(nodes, {"x": ["N", 3, 5, 3]}, {"y": ["N", 45]})
    for layout, shape in (("NCHW", [1, 5, 3]), ("NHWC", [1, 3, 5])):
        about = record(layout) | {"size": shape[1:]}
        heat = onnxplain.compile(model, reduce="sum", preprocessing=about)(
            np.zeros((1, 3, 5, 3)), target=0
        ).heatmap
        assert heat is not None and list(heat.shape) == shape


@pytest.mark.parametrize("spec", ["maxabs", "sum,sym", "abssum_p99,jet", "unit"])
def test_a_heat_map_is_float32_whatever_the_model(spec: str) -> None:
    explainer = onnxplain.compile(linear("NCHW", np.float64), target="cotangent", reduce=spec)
    result = explainer(np.zeros((1, *SIDES)), cotangent=np.eye(4)[:2])
    assert result.attribution.dtype == np.float64
    assert result.heatmap is not None and result.heatmap.dtype == np.float32
    steps = spec.removesuffix(",jet")
    expected = host(steps, result.attribution)
    close(result.heatmap, colormaps.jet(expected) if steps != spec else expected)


def test_every_row_has_its_own_heat_map() -> None:
    explainer = onnxplain.compile(linear("NCHW"), target=[2, 0], reduce="maxabs,minmax")
    result = explainer(np.zeros((2, *SIDES)))
    assert result.heatmap is not None and result.heatmap.shape == (4, *SIDES[1:])
    close(result.heatmap, host("maxabs,minmax", result.attribution))
    assert np.array_equal(result.heatmap[:2], result.heatmap[2:])


def rows_of(table: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    return np.asarray(table, np.float32)[None, None]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("minmax", [[0, 1], [0.25, 0.5]]),
        ("sym", [[-1, 1], [-0.5, 0]]),
        ("centre", [[0, 1], [0.25, 0.5]]),
        ("unit", [[-2 / 3, 2 / 3], [-1 / 3, 0]]),
        ("maxabs", [[2, 2], [1, 0]]),
        ("sum", [[-2, 2], [-1, 0]]),
    ],
)
def test_by_hand(spec: str, expected: list[list[float]]) -> None:
    got = emitted(spec, rows_of([[-2, 2], [-1, 0]]))
    assert np.allclose(got.reshape(2, 2), expected, atol=1e-7)
