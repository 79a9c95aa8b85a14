"""Occlusion and RISE in one graph: the score of copies of the input that a window or a random mask partly covers."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ..rewriter.emit import Emit
from ..rewriter.errors import OptionError
from ..rewriter.graph import Value
from ..rewriter.loop import Opened, Sampling
from ..rewriter.method import Option, Options
from ..rewriter.scene import Scene, Stage
from ..rewriter.target import Samples, count_of
from .baselines import BASELINE, reference
from .checks import both, number, say_sides, sides, whole
from .probability import LOGARITHM, PROBABILITY, SIGMOID, VALUE, ending
from .sampling import LANES, lanes_of

Places = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float32]
Bits = npt.NDArray[np.bool_]

MOST_BYTES = 1 << 27
"""Of the masks that stand in a file. A declared size costs nothing, masks of that size do."""

BORDERS = ("shift", "truncate")
REDUCES = ("mean", "sum")
SCORES = ("probability", "logit")

_SHARED = {
    "baseline": Option(
        BASELINE.default,
        None,
        "what shows where the input is taken away; as for other methods",
        BASELINE.check,
    ),
    "score": Option("probability", SCORES, "what is compared"),
    "lanes": LANES,
}
WINDOWS = MappingProxyType(
    {
        "k": Option(15, None, "side of the square window, in pixels; or rows,columns", sides(1, 1 << 15)),
        "stride": Option(
            None,
            None,
            "pixels from one window to the next; half of k by default; or rows,columns",
            lambda name, value: None if value is None else sides(1, 1 << 15)(name, value),
        ),
        "border": Option("shift", BORDERS, "the last window of a row: moved inside, or cut at the edge"),
        "reduce": Option("mean", REDUCES, "of the windows over a pixel"),
        **_SHARED,
    }
)
MASKS = MappingProxyType(
    {
        "n": Option(4000, None, "random masks", whole(1, 100_000)),
        "grid": Option(7, None, "cells of a mask along each side, before it is enlarged", whole(1, 1 << 10)),
        "p": Option(0.5, None, "chance of a cell to be kept, between 0 and 1", number(0.0, 1.0, above=True)),
        "seed": Option(0, None, "of the masks, which stand in the file", whole(0, 2**63 - 1)),
        **_SHARED,
    }
)


def windows(length: int, k: int, stride: int) -> int:
    """How many windows cover an axis."""
    return -(-(length - k) // stride) + 1


def spans(length: int, k: int, stride: int, border: str) -> Places:
    """(start, end) of the windows along one axis, (P, 2): every pixel is in one. The last ends with the axis: moved
    inside ("shift"), or shorter ("truncate")."""
    starts = np.arange(windows(length, k, stride), dtype=np.int64) * stride
    if border == "shift":
        starts = np.minimum(starts, length - k)
    return np.stack([starts, np.minimum(starts + k, length)], axis=1)


def enlarging(cells: int, length: int) -> Reals:
    """((cells + 1) ceil(length / cells), cells): bilinear weights of `cells` values spread over that many pixels.

    Centres lie at half pixels; beyond the outer ones the end value is repeated, so every row has the sum 1.
    """
    pixels = (cells + 1) * -(-length // cells)
    at = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells))), np.float32)


def draw(index: Places, size: tuple[int, int], grid: int, p: float, seed: int) -> tuple[Bits, Places]:
    """Cells (b, grid, grid), each on with chance p, and offsets (b, 2), row and column, from 0 to one cell, that
    excluded. Mask i depends on i and the seed alone."""
    steps = [-(-length // grid) for length in size]
    cells = np.empty((len(index), grid, grid), np.bool_)
    offsets = np.empty((len(index), 2), np.int64)
    for i, mask in enumerate(index):
        rng = np.random.default_rng((seed, int(mask)))
        cells[i] = rng.random((grid, grid)) < p
        offsets[i] = rng.integers(0, steps)
    return cells, offsets


def score(scene: Scene) -> Value:
    """Σ v f over the elements of the head, v the start (e_c of class c) and f probabilities or the head itself, once
    for every element of x: a map whose mean over masked copies, weighted by the masks, is the explanation."""
    g, z = scene.g, scene.stage.head
    with g.at("score"):
        f = z if scene.options["score"] == "logit" else _probability(g, scene.stage, z)
        parts = g.Mul(scene.seed, f)
        flat = Samples(scene.stage.graph, z, g, parts, count_of(scene.stage.graph, z, parts, g)).flat
        parts = g.ReduceSum(flat, g.ints(1), keepdims=0)
        value: Value = g.spread(g.Reshape(parts, g.ints(-1, *[1] * (len(scene.x.shape) - 1))), scene.x)
    return value


def _probability(g: Emit, stage: Stage, z: Value) -> Value:
    end = ending(stage.graph, z)
    if end.kind in (PROBABILITY, VALUE):
        return z
    if end.kind == LOGARITHM:
        return g.Exp(z)
    return g.Sigmoid(z) if end.kind == SIGMOID else g.Softmax(z, axis=end.axis)


def occluded(options: Options) -> Sampling:
    """f(x) - f(x with a window covered): its mean, or sum, over the windows that hold a pixel.

    Windows are made of their number; the file holds a line of bits for each row and column of them. Raises OptionError
    for an input that is no picture of a known size, a window larger than it, and a stride beyond the window.
    """

    def count(stage: Stage) -> Value:
        rows, columns = _bands(stage)
        return stage.g.ints(len(rows) * len(columns))

    def open_(stage: Stage, x: Value) -> Opened:
        g, (rows, columns) = stage.g, _bands(stage)
        shape = _shape(stage, x)
        kept: list[npt.NDArray[np.generic]] = []
        for line, axis in zip((rows, columns), stage.spatial_axes(x), strict=True):
            along = tuple(n if i == axis else 1 for i, n in enumerate(shape))
            # The loop takes the mean over all windows, these are P Q; over a pixel lie covers of them, row by column.
            covers = line.sum(0) if options["reduce"] == "mean" else np.ones(line.shape[1])
            kept += [line.reshape(-1, *along), (len(line) / covers).reshape(along).astype(x.dtype)]
        return (reference(stage, x), *map(g.constant, kept))

    def covered(g: Emit, opened: Opened, k: Value) -> Value:
        _, rows, _, columns, _ = opened
        many = g.rows(columns)
        return g.And(g.Gather(rows, g.Div(k, many)), g.Gather(columns, g.Mod(k, many)))

    def finish(g: Emit, x: Value, opened: Opened, means: Sequence[Value]) -> Value:
        # The loop subtracts the score of x from those of its copies.
        return g.Neg(g.Mul(g.Mul(means[0], opened[2]), opened[4]))

    return Sampling(
        count,
        open_,
        point=lambda g, x, opened, k: g.Where(covered(g, opened, k), opened[0], x),
        finish=finish,
        centred=True,
        lanes=lanes_of(options),
        scale=lambda g, x, opened, m, k: g.Where(covered(g, opened, k), m, g.number(0.0, x)),
    )


def _bands(stage: Stage) -> tuple[Bits, Bits]:
    """The rows, and the columns, of the windows: (P, height), (Q, width)."""
    k, stride = both(stage.options["k"]), stage.options["stride"]
    stride = (max(1, k[0] // 2), max(1, k[1] // 2)) if stride is None else both(stride)
    said = f"k={say_sides(k)}"
    if stride[0] > k[0] or stride[1] > k[1]:
        raise OptionError(
            f"occlusion.graph: stride={say_sides(stride)} is larger than {said}: pixels between windows stay uncovered"
        )
    size = _picture("occlusion.graph", stage)
    if k[0] > size[0] or k[1] > size[1]:
        most = min(size) if k[0] == k[1] else f"{size[0]},{size[1]}"
        raise OptionError(
            f"occlusion.graph: {said}: the window is larger than the image, {size[0]} x {size[1]}; give k up to {most}"
        )
    # A byte for a pixel of every line, and two places of eight bytes.
    _vet_bytes(
        "occlusion.graph",
        sum(windows(n, k[i], stride[i]) * (n + 16) for i, n in enumerate(size)),
        f"{said}, stride={say_sides(stride)} and an image of {size[0]} x {size[1]}; give larger k and stride",
    )
    border = stage.options["border"]
    rows, columns = (_lines(n, spans(n, k[i], stride[i], border)) for i, n in enumerate(size))
    return rows, columns


def randomised(options: Options) -> Sampling:
    """1 / (p n) Σ f(x M_i + x⁰ (1 - M_i)) M_i over random soft masks M_i; see `draw` and `enlarging`.

    The cells and offsets of the masks stand in the file: n (grid² + 16) bytes. Raises OptionError for an input that is
    no picture of a known size, a grid larger than it, and p = 1.
    """
    n, grid, p = options["n"], options["grid"], options["p"]
    if p == 1:
        raise OptionError("rise.graph: p=1.0 keeps everything; give a number below 1")

    def open_(stage: Stage, x: Value) -> Opened:
        g, size = stage.g, _picture("rise.graph", stage)
        if grid > min(size):
            raise OptionError(f"rise.graph: grid={grid} is larger than the image, {size[0]} x {size[1]}")
        # The cells and offsets; for a pixel of each side, the weights of a line of cells and a place of eight bytes.
        _vet_bytes(
            "rise.graph",
            n * (grid**2 + 16) + sum(length * (8 * grid + 8) for length in size),
            f"n={n}, grid={grid} and an image of {size[0]} x {size[1]}; give smaller n and grid",
        )
        cells, offsets = draw(np.arange(n), size, grid, p, options["seed"])
        high, wide = (enlarging(grid, length).astype(x.dtype) for length in size)
        steps = [np.arange(length) for length in size]
        kept = (cells, offsets[:, :1], offsets[:, 1:], *steps, high, wide)
        return (reference(stage, x), g.ints(-1, *_shape(stage, x)), *map(g.constant, kept))

    def mask(g: Emit, x: Value, opened: Opened, k: Value) -> Value:
        _, shape, cells, rows, columns, down, across, high, wide = opened
        left = g.Gather(high, g.Add(g.Gather(rows, k), down))
        right = g.Gather(wide, g.Add(g.Gather(columns, k), across))
        on = g.MatMul(left, g.cast(g.Gather(cells, k), x))
        return g.Reshape(g.MatMul(on, g.Transpose(right, perm=[0, 2, 1])), shape)

    def point(g: Emit, x: Value, opened: Opened, k: Value) -> Value:
        return g.Add(opened[0], g.Mul(mask(g, x, opened, k), g.Sub(x, opened[0])))

    return Sampling(
        lambda stage: stage.g.ints(n),
        open_,
        point,
        finish=lambda g, x, opened, means: g.Mul(means[0], 1 / p),
        lanes=lanes_of(options),
        scale=lambda g, x, opened, m, k: g.Mul(m, mask(g, x, opened, k)),
    )


def _picture(name: str, stage: Stage) -> tuple[int, int]:
    """(height, width). OptionError where the explained input is not one picture of a known size."""
    if len(stage.wrt) != 1:
        raise OptionError(f"{name}: one input is explained at a time; name it with inputs=")
    (x,) = stage.wrt
    axes = stage.spatial_axes(x)
    sizes = [x.shape[axis] for axis in axes]
    if len(sizes) != 2:
        raise OptionError(f"{name}: a picture is needed, not an input of shape {list(x.shape)}")
    if not all(isinstance(size, int) for size in sizes):
        raise OptionError(
            f"{name}: input {x.name!r} has the shape {list(x.shape)}; fix height and width with shapes="
        )
    return sizes[0], sizes[1]


def _vet_bytes(name: str, count: int, of: str) -> None:
    if count > MOST_BYTES:
        raise OptionError(
            f"{name}: masks of {count} bytes, over the limit of {MOST_BYTES}, for {of}, or a smaller image"
        )


def _shape(stage: Stage, x: Value) -> tuple[int, ...]:
    """Of one mask for all rows and channels of x."""
    axes = stage.spatial_axes(x)
    return tuple(x.shape[axis] if axis in axes else 1 for axis in range(len(x.shape)))


def _lines(length: int, of: Places) -> Bits:
    """(P, length): the pixels of each span."""
    at = np.arange(length)
    return np.asarray((of[:, :1] <= at) & (at < of[:, 1:]))


__all__ = ["MASKS", "WINDOWS", "draw", "enlarging", "occluded", "randomised", "score", "spans"]
