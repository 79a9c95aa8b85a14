"""Prediction differences in first order: what each window adds to a probability, estimated by the gradient.

Gu and Tresp 2017, Algorithm 3; docs/methods/perturbed.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from ..rewriter.emit import Emit
from ..rewriter.errors import OptionError
from ..rewriter.graph import Value
from ..rewriter.method import Option
from ..rewriter.scene import Scene, Stage
from .baselines import BASELINE, reference
from .checks import both, say_sides, sides, whole
from .probability import ending, of_probability

Doubles: TypeAlias = npt.NDArray[np.float64]
Reals: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Patches:
    """A normal distribution of side × side patches: mu (groups, D), sigma (groups, D, D). One group a channel, D =
    side², or one group of all channels, pixels in the order channel, row, column."""

    mu: Doubles
    sigma: Doubles
    side: int

    @property
    def channels(self) -> int:
        return self.mu.size // self.side**2

    def to_record(self) -> dict[str, Any]:
        whole = hashlib.sha256(self.mu.tobytes() + self.sigma.tobytes()).hexdigest()
        return {"patch": self.side, "mu": list(self.mu.shape), "sha256": whole}


def patches(name: str, value: Any) -> Patches | None:
    """The option `gaussian`: None, or an object with `mu` and `cov` (or `covariance`, which counts where both are
    there) and the side of its patches, `patch` or `l`. OptionError for anything else."""
    if value is None or isinstance(value, Patches):
        return value
    side = getattr(value, "patch", getattr(value, "l", None))
    sigma = getattr(value, "covariance", getattr(value, "cov", None))
    mu = getattr(value, "mu", None)
    if side is None or sigma is None or mu is None:
        raise OptionError(f"{name}: a Gaussian of patches is needed, not {type(value).__name__}")
    mu, sigma = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
    if isinstance(side, bool) or not isinstance(side, int) or side < 1:
        raise OptionError(f"{name}: its patches have side {side!r}; a whole number from 1 is needed")
    pixels = side * side
    sound = mu.ndim == 2 and mu.size > 0 and mu.shape[1] % pixels == 0
    if not sound or sigma.shape != (*mu.shape, mu.shape[1]) or (len(mu) > 1 and mu.shape[1] != pixels):
        raise OptionError(
            f"{name}: means {list(mu.shape)} and covariances {list(sigma.shape)} are not those of {side} x {side} "
            f"patches; (channels, {pixels}) and (channels, {pixels}, {pixels}) are expected"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise OptionError(f"{name}: it holds NaN or infinity")
    return Patches(mu, sigma, side)


OPTIONS = MappingProxyType(
    {
        "k": Option(10, None, "side of the windows; or rows,columns", sides(1, 512)),
        "l": Option(
            None,
            None,
            "side of the patch around a window that predicts it; that of the Gaussian",
            lambda name, value: value if value is None else whole(1, 512)(name, value),
        ),
        "gaussian": Option(
            None, None, "model of patches (`onnxplain fit gaussian`) that fills a window", patches
        ),
        "baseline": replace(BASELINE, help="what fills a window where there is no Gaussian"),
        "score": Option("probability", ("probability", "logit"), "what is differentiated"),
    }
)


def difference(scene: Scene) -> Value:
    """WE = Σ over windows that hold a pixel of Σ_w ∂p_c/∂x (x - x'_w), by their number, split up by channel: the sum
    over channels is the map of Algorithm 3. x'_w: the conditional mean of a k × k window in the l × l patch around it,
    which is shifted inside at the borders; with no Gaussian the baseline. All stride 1.

    Works in float32. With a Gaussian the file grows by 4 (l-k+1)² C k² l² bytes, of joint channels C times that (31 MB
    for k = 10, l = 18, C = 3), and a run keeps some three tensors of N C k² (H-k+1)(W-k+1) numbers (55 MB each for a
    photo of 224 × 224). Raises OptionError for an input that is no picture of a known size, and for windows, patches
    or channels that do not fit it.
    """
    g, stage = scene.g, scene.stage
    plan = planned(stage, scene.x)
    grad = _gradient(scene)
    with g.at("difference"):
        x, grad = _plain(stage, scene.x, scene.x), _plain(stage, scene.x, grad)
        if plan.patches is None:
            base = _plain(stage, scene.x, reference(stage, scene.x))
            windows = _box(g, g.Mul(grad, g.Sub(x, base)), plan)
        else:
            sizes = zip((plan.height, plan.width), plan.window, strict=True)
            rows, columns = (_bands(n, k, plan.patches.side) for n, k in sizes)
            lines = [_joined(g, [_region(g, x, grad, plan, r, c) for c in columns], 3) for r in rows]
            windows = _joined(g, lines, 2)
        spread = _box(g, windows, plan, full=True)
        mean = g.Div(spread, g.constant(plan.counts[None, None].astype(np.float32)))
        if stage.channel_axis(scene.x) != 1:
            mean = g.Transpose(mean, perm=[0, 2, 3, 1])
        return mean if np.dtype(scene.x.dtype) == np.float32 else g.cast(mean, scene.x)


def _gradient(scene: Scene) -> Value:
    """∂p_c/∂x, or that of the head's own element."""
    stage = scene.stage
    if scene.options["score"] == "logit":
        return scene.cotangent
    with scene.g.at("probability"):
        seed = of_probability(scene.g, ending(stage.graph, stage.head), stage.head, scene.seed)
    return Scene(stage, seed, scene.x).cotangent


def _plain(stage: Stage, x: Value, value: Value) -> Value:
    """(rows, C, H, W), float32: onnxruntime convolves no doubles."""
    g = stage.g
    if np.dtype(x.dtype) != np.float32:
        value = g.Cast(value, to=TensorProto.FLOAT)
    return value if stage.channel_axis(x) == 1 else g.Transpose(value, perm=[0, 3, 1, 2])


@dataclass(frozen=True)
class Plan:
    """Sizes of a picture and its windows."""

    channels: int
    height: int
    width: int
    k: int | tuple[int, int]
    patches: Patches | None

    @property
    def window(self) -> tuple[int, int]:
        return both(self.k)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Windows that hold each pixel, (H, W)."""
        rows, columns = (
            np.convolve(np.ones(n - k + 1, np.int64), np.ones(k, np.int64))
            for n, k in zip((self.height, self.width), self.window, strict=True)
        )
        return np.outer(rows, columns)


def planned(stage: Stage, x: Value) -> Plan:
    """The sizes, vetted. Raises OptionError."""
    name, options = "pda.gradient", stage.options
    if len(x.shape) != 4:
        raise OptionError(f"{name}: windows need a picture, not an input of shape {list(x.shape)}")
    axes = (stage.channel_axis(x), *stage.spatial_axes(x))
    sizes = [x.shape[axis] for axis in axes]
    if not all(isinstance(size, int) for size in sizes):
        raise OptionError(
            f"{name}: input {x.name!r} has the shape {list(x.shape)}; fix channels, height and width with shapes="
        )
    channels, height, width = sizes
    k, side, found = options["k"], options["l"], options["gaussian"]
    if both(k)[0] > height or both(k)[1] > width:
        raise OptionError(
            f"{name}: a window of k={say_sides(k)} does not fit the picture, {height} x {width}; give a smaller k"
        )
    if found is None:
        if side is not None:
            raise OptionError(f"{name}: l={side} is the side of a Gaussian's patches; give gaussian= too")
        return Plan(channels, height, width, k, None)
    if side is not None and side != found.side:
        raise OptionError(f"{name}: l={side}, but the Gaussian has patches of side {found.side}; leave l out")
    if found.side < max(both(k)) or found.side > min(height, width):
        reason = (
            f"is less than k={say_sides(k)}; give a smaller k"
            if found.side < max(both(k))
            else f"does not fit the picture, {height} x {width}"
        )
        raise OptionError(f"{name}: the side of the Gaussian's patches, {found.side}, {reason}")
    if found.channels != channels:
        raise OptionError(
            f"{name}: the Gaussian has {found.channels} channels, the picture {channels}; fit one on its like"
        )
    return Plan(channels, height, width, k, found)


@dataclass(frozen=True)
class Band:
    """Windows along one axis whose patches move with them or stay at one border. places: of a window in its patch.
    start, stop: the pixels that their patches cover. first, last: the pixels that the windows cover. moving: patches
    of one place, at every position; else one patch with a window at each place."""

    places: tuple[int, ...]
    start: int
    stop: int
    first: int
    last: int
    steps: int


def _bands(n: int, k: int, side: int) -> list[Band]:
    """The patch of window i starts at clip(i - ⌊(l-k)/2⌋, 0, n - l)."""
    before, free = (side - k) // 2, side - k
    left = Band(tuple(range(before)), 0, side, 0, before - 1 + k, 1)
    middle = Band((before,), 0, n, before, before + n - side + k, n - side + 1)
    right = Band(tuple(range(before + 1, free + 1)), n - side, n, n - side + before + 1, n, 1)
    return [band for band in (left, middle, right) if band.places]


def _region(g: Emit, x: Value, grad: Value, plan: Plan, rows: Band, columns: Band) -> Value:
    """Σ_w ∂p/∂x (x - x'_w) of the windows of two bands, (rows, C, h, w)."""
    assert plan.patches is not None
    (down, across), c = plan.window, plan.channels
    cells = down * across
    places = [(r, s) for r in rows.places for s in columns.places]
    weight, bias = deviations(plan.patches, plan.k, places)
    off = _conv(g, _cut(g, x, (rows.start, columns.start), (rows.stop, columns.stop), plan), weight, bias)
    many = (len(rows.places), len(columns.places))
    # Windows lie in two axes each: their place in a patch, and where the patch is. One of the two has one entry.
    if many[1] > 1 and rows.steps > 1:
        off = g.Reshape(off, g.ints(0, c * cells, many[1], rows.steps))
        off = g.Transpose(off, perm=[0, 1, 3, 2])
    high, wide = many[0] * rows.steps, many[1] * columns.steps
    off = g.Reshape(off, g.ints(0, c, cells, high, wide))
    eye = np.tile(np.eye(cells, dtype=np.float32).reshape(cells, 1, down, across), (c, 1, 1, 1))
    mine = _cut(g, grad, (rows.first, columns.first), (rows.last, columns.last), plan)
    mine = g.Reshape(_conv(g, mine, eye), g.ints(0, c, cells, high, wide))
    return g.ReduceSum(g.Mul(mine, off), g.ints(2), keepdims=0)


def deviations(
    of: Patches, k: int | tuple[int, int], places: Sequence[tuple[int, int]]
) -> tuple[Reals, Reals]:
    """The filter x_w - x'_w = (x_a - μ_a) - K (x_b - μ_b), K = Σ_ab Σ_bb⁻¹, for windows at (row, column) of their
    patches: weight (C k² places, channels of a group, l, l), bias (C k² places,), in the order channel, pixel, place;
    k² are the pixels of a window, k × k or (rows, columns).

    K is that of Σ as it is given. Raises OptionError for a singular Σ_bb.
    """
    (down, across), (groups, size) = both(k), of.mu.shape
    each = of.channels // groups
    made = np.zeros((groups, each, down * across, len(places), size))
    for i, (row, column) in enumerate(places):
        inside = np.zeros((each, of.side, of.side), bool)
        inside[:, row : row + down, column : column + across] = True
        a, b = np.flatnonzero(inside), np.flatnonzero(~inside)
        slope = _slope(of.sigma, a, b)
        block = np.zeros((groups, a.size, size))
        block[:, np.arange(a.size), a] = 1.0
        block[:, :, b] = -slope
        made[:, :, :, i] = block.reshape(groups, each, down * across, size)
    bias = -np.einsum("gcpis,gs->gcpi", made, of.mu)
    weight = made.reshape(-1, each, of.side, of.side)
    return weight.astype(np.float32), bias.reshape(-1).astype(np.float32)


def _slope(sigma: Doubles, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> Doubles:
    try:
        turned = np.linalg.solve(sigma[:, b[:, None], b], sigma[:, b[:, None], a])
    except np.linalg.LinAlgError as error:
        raise OptionError("pda.gradient: the Gaussian's covariance is singular; add a ridge to it") from error
    return np.asarray(turned.transpose(0, 2, 1), np.float64)


def _conv(g: Emit, x: Value, weight: Reals, bias: Reals | None = None, pads: Sequence[int] = (0, 0)) -> Value:
    """Every group of channels by itself: there are as many as the weight leaves."""
    channels = x.shape[1]
    return g.Conv(
        x,
        g.constant(weight),
        None if bias is None else g.constant(bias),
        kernel_shape=list(weight.shape[2:]),
        strides=[1, 1],
        pads=[*pads, *pads],
        dilations=[1, 1],
        group=channels // weight.shape[1],
    )


def _cut(g: Emit, x: Value, start: tuple[int, int], stop: tuple[int, int], plan: Plan) -> Value:
    whole = start == (0, 0) and stop == (plan.height, plan.width)
    cut = x if whole else g.Slice(x, g.ints(*start), g.ints(*stop), g.ints(2, 3))
    cut.shape = cut.shape or [None, plan.channels, *(b - a for a, b in zip(start, stop, strict=True))]
    return cut


def _box(g: Emit, value: Value, plan: Plan, *, full: bool = False) -> Value:
    """Sums over k × k cells, one axis after the other. full: of every window that reaches in."""
    down, across = plan.window
    for shape in ((down, 1), (1, across)):
        value.shape = value.shape or [None, plan.channels, None, None]
        ones = np.ones((plan.channels, 1, *shape), np.float32)
        value = _conv(g, value, ones, pads=[side - 1 if full else 0 for side in shape])
    return value


def _joined(g: Emit, parts: Sequence[Value], axis: int) -> Value:
    return parts[0] if len(parts) == 1 else g.Concat(*parts, axis=axis)


__all__ = ["OPTIONS", "Patches", "Plan", "deviations", "difference", "patches", "planned"]
