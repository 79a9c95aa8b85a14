"""Operators that move, repeat or combine elements, over sweeps: adjointness, and a dense oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.oracles import moved_vjp, unbroadcast
from tests.rules.build import Dims, Probe, one_node

F = np.float32


def _random(seed: int, *sizes: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=sizes).astype(F)


@pytest.mark.parametrize("where", ["static", "dynamic sizes", "run-time widths"])
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(mode: str, where: str) -> None:
    x, widths = _random(5, 2, 2, 4, 5), np.asarray([0, 0, 1, 2, 0, 0, 3, 0])
    dims = ["N", 2, 4, 5] if where == "static" else ["N", 2, "H", "W"]
    inputs: dict[str, tuple[Dims, type]] = {"x": (dims, F)}
    constants, feeds = {"widths": widths}, {"x": x}
    if where == "run-time widths":
        inputs["widths"], constants, feeds = ([8], np.int64), {}, {"x": x, "widths": widths}
    probe = Probe(one_node("Pad", inputs, constants, mode=mode), feeds, rows=None)
    pairs = list(zip(widths[:4].tolist(), widths[4:].tolist(), strict=True))
    probe.agrees(moved_vjp(probe.ct, x.shape, lambda v: np.asarray(np.pad(v, pairs, mode=mode))))  # type: ignore[call-overload]


@pytest.mark.parametrize("dynamic", [False, True])
def test_pad_crops_by_negative_widths(dynamic: bool) -> None:
    x = _random(6, 2, 2, 5, 5)
    dims = ["N", 2, "H", "W"] if dynamic else ["N", 2, 5, 5]
    probe = Probe(one_node("Pad", {"x": (dims, F)}, {"w": np.asarray([0, 0, -1, 2, 0, 0, 1, -2])}), {"x": x})
    probe.agrees(
        moved_vjp(probe.ct, x.shape, lambda v: np.pad(v[:, :, 1:, :3], [(0, 0), (0, 0), (0, 1), (2, 0)]))
    )


SLICES = {
    "middle": (slice(1, 4), slice(None)),
    "steps": (slice(0, None, 2), slice(1, None, 3)),
    "backwards": (slice(None, None, -1), slice(4, 0, -2)),
    "from the end": (slice(-3, -1), slice(-2, None)),
}


@pytest.mark.parametrize("where", ["static", "dynamic sizes", "run-time edges"])
@pytest.mark.parametrize("name", SLICES)
def test_slice(name: str, where: str) -> None:
    cuts, x = SLICES[name], _random(7, 2, 2, 5, 6)
    far = 2**31
    steps = [cut.step or 1 for cut in cuts]
    starts = [
        (0 if step > 0 else far) if cut.start is None else cut.start
        for cut, step in zip(cuts, steps, strict=True)
    ]
    ends = [
        (far if step > 0 else -far) if cut.stop is None else cut.stop
        for cut, step in zip(cuts, steps, strict=True)
    ]
    given = {"starts": starts, "ends": ends, "axes": [2, 3], "steps": steps}
    constants = {key: np.asarray(value, np.int64) for key, value in given.items()}
    inputs: dict[str, tuple[Dims, type]] = {"x": (["N", 2, 5, 6], F)}
    feeds: dict[str, np.ndarray] = {"x": x}
    if where != "static":
        inputs["x"] = (["N", 2, "H", "W"], F)
    if where == "run-time edges":
        for key in ("starts", "ends"):
            inputs[key], feeds[key] = ([2], np.int64), constants.pop(key)
    model = one_node("Slice", inputs, constants, order=["x", "starts", "ends", "axes", "steps"])
    probe = Probe(model, feeds)
    probe.agrees(moved_vjp(probe.ct, x.shape, lambda v: v[:, :, cuts[0], cuts[1]]))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_concat(axis: int, dynamic: bool) -> None:
    sizes = {"a": [2, 2, 3, 4], "b": [2, 2, 3, 4], "c": [2, 2, 3, 4]}
    for i, name in enumerate(sizes):
        sizes[name][axis] += i
    feeds = {name: _random(8 + i, *size) for i, (name, size) in enumerate(sizes.items())}
    inputs: dict[str, tuple[Dims, type]] = {
        name: ([f"{name}{i}" for i in range(4)] if dynamic else ["N", *size[1:]], F)
        for name, size in sizes.items()
    }
    probe = Probe(one_node("Concat", inputs, axis=axis), feeds, inputs=("a", "b", "c"))
    ends = np.cumsum([size[axis] for size in sizes.values()])[:-1]
    for name, part in zip(sizes, np.split(probe.ct, ends, axis=axis), strict=True):
        probe.agrees(part, name)


@pytest.mark.parametrize("where", ["static", "dynamic", "run-time parts"])
@pytest.mark.parametrize("port", [0, 1, 2])
def test_split(port: int, where: str) -> None:
    x, parts = _random(9, 2, 6, 3), np.asarray([1, 3, 2])
    inputs: dict[str, tuple[Dims, type]] = {"x": (["N", "C" if where == "dynamic" else 6, 3], F)}
    feeds: dict[str, np.ndarray] = {"x": x}
    constants: dict[str, np.ndarray] = {"parts": parts}
    if where == "run-time parts":
        inputs["parts"], feeds["parts"], constants = ([3], np.int64), parts, {}
    model = one_node("Split", inputs, constants, order=["x", "parts"], rank=3, outputs=3, axis=1)
    probe = Probe(model, feeds, output=["y", "y1", "y2"][port])
    ends = np.cumsum(parts)
    expected = np.zeros(x.shape)
    expected[:, ends[port] - parts[port] : ends[port]] = probe.ct
    probe.agrees(expected)


Halves = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

BINARY: dict[str, Halves] = {
    "Add": lambda a, b, ct: (ct, ct),
    "Sub": lambda a, b, ct: (ct, -ct),
    "Mul": lambda a, b, ct: (ct * b, ct * a),
    "Div": lambda a, b, ct: (ct / b, -ct * a / b**2),
    "Pow": lambda a, b, ct: (ct * b * a ** (b - 1), ct * a**b * np.log(a)),
    "Max": lambda a, b, ct: (ct * (a >= b), ct * (b > a)),
    "Min": lambda a, b, ct: (ct * (a <= b), ct * (b < a)),
}
SHAPES = [
    ([3, 2, 4], [3, 2, 4]),
    ([3, 2, 4], [1, 2, 4]),
    ([3, 2, 4], [3, 1, 1]),
    ([3, 2, 4], [2, 1]),
    ([3, 2, 4], [4]),
    ([1, 2, 1], [3, 1, 4]),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("op", BINARY)
def test_broadcasting(op: str, shapes: tuple[list[int], list[int]]) -> None:
    """Both operands explained; static sizes, a batch of three."""
    a, b = (np.abs(_random(10 + i, *shape)) + F(0.5) for i, shape in enumerate(shapes))
    inputs = {"a": (shapes[0], F), "b": (shapes[1], F)}
    probe = Probe(
        one_node(op, inputs, rank=3), {"a": a, "b": b}, inputs=("a", "b"), tangent=op not in ("Max", "Min")
    )
    for name, x, part in zip("ab", (a, b), BINARY[op](a, b, probe.ct.astype(float)), strict=True):
        probe.agrees(unbroadcast(part, x.shape), name)


@pytest.mark.parametrize("tail", [[2, 4], [1, 4], [1, 1]], ids=str)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("op", ["Add", "Mul", "Div"])
def test_rows_of_one_sample_broadcast(op: str, dynamic: bool, tail: list[int]) -> None:
    """Three cotangents over a batch of one, sizes known or not."""
    a, b = np.abs(_random(12, 1, 2, 4)) + F(0.5), np.abs(_random(13, 1, *tail)) + F(0.5)
    inputs = {
        "a": (["N", "P", "Q"] if dynamic else ["N", 2, 4], F),
        "b": (["N", "R", "S"] if dynamic else ["N", *tail], F),
    }
    probe = Probe(one_node(op, inputs, rank=3), {"a": a, "b": b}, inputs=("a", "b"), rows=3)
    for name, x, part in zip("ab", (a, b), BINARY[op](a, b, probe.ct.astype(float)), strict=True):
        probe.agrees(unbroadcast(part, (3, *x.shape[1:])), name)


@pytest.mark.parametrize("sizes", [([3, 2, 4], [3, 1, 4]), ([3, 2, 4], [1]), ([3, 1, 4], [3, 2, 1])], ids=str)
def test_where(sizes: tuple[list[int], list[int]]) -> None:
    a, b = _random(14, *sizes[0]), _random(15, *sizes[1])
    chosen = np.random.default_rng(0).random((3, 2, 4)) < 0.5
    inputs: dict[str, tuple[Dims, type]] = {
        "c": ([3, 2, 4], np.bool_),
        "a": (sizes[0], F),
        "b": (sizes[1], F),
    }
    probe = Probe(one_node("Where", inputs, rank=3), {"c": chosen, "a": a, "b": b}, inputs=("a", "b"))
    probe.agrees(unbroadcast(probe.ct * chosen, a.shape), "a")
    probe.agrees(unbroadcast(probe.ct * ~chosen, b.shape), "b")


@pytest.mark.parametrize("dynamic", [False, True])
def test_tile(dynamic: bool) -> None:
    x = _random(16, 2, 3, 4)
    dims = ["N", "C", "W"] if dynamic else ["N", 3, 4]
    probe = Probe(one_node("Tile", {"x": (dims, F)}, {"r": np.asarray([1, 3, 2])}, rank=3), {"x": x})
    probe.agrees(moved_vjp(probe.ct, x.shape, lambda v: np.tile(v, (1, 3, 2))))
    single = Probe(
        one_node("Tile", {"x": (dims, F)}, {"r": np.asarray([1, 1, 2])}, rank=3), {"x": x[:1]}, rows=3
    )
    single.agrees(single.ct.reshape(3, 3, 2, 4).sum(2))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_adds_up_repeats(axis: int) -> None:
    x, index = _random(17, 3, 4, 5), np.asarray([[0, 2], [-1, 0]])
    model = one_node("Gather", {"x": (["N", "C", "W"], F)}, {"i": index}, axis=axis)
    probe = Probe(model, {"x": x})
    probe.agrees(moved_vjp(probe.ct, x.shape, lambda v: np.take(v, index, axis=axis)))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    x = _random(18, 2, 8, 3, 2)
    probe = Probe(one_node("DepthToSpace", {"x": (["N", 8, 3, 2], F)}, blocksize=2, mode=mode), {"x": x})

    def blocks(v: np.ndarray) -> np.ndarray:
        parts = v.reshape(2, 2, 2, 2, 3, 2)
        order = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
        return parts.transpose(order).reshape(2, 2, 6, 4)

    assert np.array_equal(probe.y, blocks(x))
    probe.agrees(moved_vjp(probe.ct, x.shape, blocks))


@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize(
    ("left", "right"),
    [([2, 3], [3]), ([2, 4, 3], [3]), ([2, 4, 3], [3, 5]), ([2, 1, 4, 3], [2, 5, 3, 2])],
)
def test_matmul(left: list[int], right: list[int], rows: int | None) -> None:
    a, b = _random(20, *([1, *left[1:]] if rows else left)), _random(21, *right)
    rank = np.matmul(np.empty(left), np.empty(right)).ndim
    model = one_node("MatMul", {"x": (["N", *left[1:]], F)}, {"b": b}, rank=rank)
    if rows and len(right) == 4:
        pytest.skip("the constant has a batch of its own: it cannot meet three rows")
    probe = Probe(model, {"x": a}, rows=rows)
    ct = probe.ct.astype(float)
    column = len(right) == 1
    product = ct[..., None] * b if column else ct @ np.swapaxes(b, -1, -2)
    probe.agrees(unbroadcast(product, (probe.ct.shape[0], *a.shape[1:])))


@pytest.mark.parametrize("affine", [("scale",), ("scale", "bias")])
def test_layer_norm_with_and_without_its_bias(affine: tuple[str, ...]) -> None:
    """dx = r (ct γ - mean ct γ - x̂ mean(x̂ ct γ)), population variance."""
    x, scale = _random(22, 2, 3, 5), _random(23, 5)
    constants = {"scale": scale, "bias": _random(24, 5)}
    model = one_node("LayerNormalization", {"x": (["N", 3, 5], F)}, {k: constants[k] for k in affine}, rank=3)
    probe = Probe(model, {"x": x})
    centred = x - x.mean(-1, keepdims=True)
    root = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    normal, ct = centred * root, probe.ct * scale
    probe.agrees(root * (ct - ct.mean(-1, keepdims=True) - normal * (normal * ct).mean(-1, keepdims=True)))
