"""The reference input x⁰ that a method compares the input x with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from ..rewriter.emit import Emit
from ..rewriter.errors import OptionError, nearest
from ..rewriter.graph import Value
from ..rewriter.method import Option
from ..rewriter.scene import Stage

INPUT = "baseline"
"""Name of the graph input that holds the reference with baseline="input"."""

NAMES = ("zeros", "black", "blur", "input")
SHARE, REACH = 20, 3.0
"""σ of a blur is the longest side over SHARE, at least one pixel (11 pixels at 224); its window ends at REACH σ."""


def check(name: str, value: Any) -> Any:
    """The option `baseline`: a name, "blur:SIGMA", a finite number, or an array (a nested list becomes one)."""
    if isinstance(value, str):
        if value in NAMES or _sigma(name, value) is not None:
            return value
        raise OptionError(
            f"{name}={value!r} is no baseline{nearest(value, NAMES)}; it is one of {', '.join(NAMES)}, "
            "blur:SIGMA, a number or an array"
        )
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or value is None:
        raise OptionError(f"{name}={value!r} is neither a name, a number nor an array")
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise OptionError(f"{name}={value!r} is not finite")
        return value
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise OptionError(f"{name}: a nested list of numbers of equal lengths makes an array") from None
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise OptionError(f"{name}: an array of finite numbers is expected, not {array.dtype} {array.shape}")
    return array


def _sigma(name: str, text: str) -> float | None:
    """σ of "blur:σ", or None for another text."""
    head, colon, tail = text.partition(":")
    if head != "blur" or not colon:
        return None
    try:
        sigma = float(tail)
    except ValueError:
        sigma = math.nan
    if not (math.isfinite(sigma) and sigma > 0):
        raise OptionError(f"{name}={text!r}: behind blur: stands the standard deviation in pixels, above 0")
    return sigma


BASELINE = Option(
    "zeros",
    None,
    "what the input is compared with: zeros, black, blur or blur:SIGMA, a number, an array, or input "
    "(fed at run time)",
    check,
)


def reference(stage: Stage, x: Value) -> Value:
    """x⁰ as the option `baseline` says, in the model's input space: 1 row, or as many as x.

    zeros, a number, black (the pixel 0, after (0 - mean) / std of each channel) and an array (C, H, W) or
    (1, C, H, W) are constants of one row. blur: the input itself behind a Gaussian filter, borders repeated, σ in
    pixels; by default a twentieth of the longest side. input: another input of the file, (1 or N, ...), named
    `baseline`, or `baseline/NAME` where several inputs are explained.

    Raises OptionError where the kind of reference does not fit the input.
    """
    kind = stage.options["baseline"]
    with stage.g.at("reference"):
        if isinstance(kind, str) and kind.startswith("blur"):
            return _blurred(stage, x, _sigma("baseline", kind))
        if isinstance(kind, np.ndarray) or kind == "input":
            stage.vet_batch("a baseline")
        if isinstance(kind, np.ndarray):
            return _constant(stage.g, _fitted(kind, x), x)
        if kind == "input":
            name = INPUT if len(stage.wrt) == 1 else f"{INPUT}/{x.name}"
            return stage.add_input(name, x, ["M", *x.shape[1:]])
        if kind == "black":
            return _constant(stage.g, _black(stage, x), x)
        return _constant(stage.g, np.asarray(0.0 if kind == "zeros" else kind), x)


def _constant(g: Emit, array: npt.NDArray[Any], x: Value) -> Value:
    """The array broadcast to one row of x. Only the array is stored; onnxruntime expands it when it loads."""
    value = g.spread(g.constant(np.ascontiguousarray(array, x.dtype or np.float32)), x)
    return _typed(value, x, 1)


def _typed(value: Value, x: Value, rows: int | str | None) -> Value:
    value.dtype, value.shape = x.dtype, [rows, *x.shape[1:]]
    return value


def _fitted(array: npt.NDArray[Any], x: Value) -> npt.NDArray[Any]:
    """The array with a batch axis. OptionError unless it is one input of the model."""
    rank = len(x.shape)
    if array.ndim == rank - 1:
        array = array[None]
    fits = array.ndim == rank and array.shape[0] == 1
    fits = fits and all(
        not isinstance(dim, int) or dim == size
        for dim, size in zip(x.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise OptionError(
            f"baseline: an array of shape {array.shape} is not one input {x.name!r} of shape "
            f'{[1, *x.shape[1:]]}; references of several rows are fed with baseline="input"'
        )
    return array


def _black(stage: Stage, x: Value) -> npt.NDArray[np.float64]:
    """(0 - mean) / std along the channel axis."""
    about, axis = stage.preprocessing, stage.channel_axis(x)
    if "mean" not in about or "std" not in about or len(x.shape) != 4:
        raise OptionError(
            "baseline='black' needs the mean and standard deviation that pictures are prepared with; give "
            "preprocessing=, or the number that black has in the model's input"
        )
    black = -np.asarray(about["mean"], np.float64) / np.asarray(about["std"], np.float64)
    if isinstance(x.shape[axis], int) and black.size not in (1, x.shape[axis]):
        raise OptionError(
            f"baseline='black': {black.size} channels are described, the input has {x.shape[axis]}"
        )
    return black.reshape([-1 if i == axis else 1 for i in range(4)])


def _blurred(stage: Stage, x: Value, sigma: float | None) -> Value:
    """One 1-D filter after the other along the spatial axes, the same for every channel."""
    g, axes = stage.g, stage.spatial_axes(x)
    if not axes or len(axes) > 3:
        raise OptionError(f"baseline='blur': the input {x.name!r} has no spatial axes to blur along")
    if sigma is None:
        sizes = [x.shape[axis] for axis in axes]
        if not all(isinstance(size, int) for size in sizes):
            raise OptionError(
                "baseline='blur': the size of the input is not static; name σ in pixels, blur:10"
            )
        sigma = max(1.0, max(sizes) / SHARE)
    channel = stage.channel_axis(x)
    first = [0, channel, *axes]
    # onnxruntime filters no double; as a reference the picture may be rounded to float32.
    source = x if x.dtype != np.float64 else g.Cast(x, to=TensorProto.FLOAT)
    turned = source if channel == 1 else g.Transpose(source, perm=first)
    lengths = [g.size(x, axis) for axis in axes]
    # Every channel becomes a sample of one channel: a depthwise filter for any number of channels.
    v = g.Reshape(turned, g.join(g.ints(-1, 1), *lengths))
    for i in range(len(axes)):
        v = _filtered(g, v, i, len(axes), gaussian(sigma).astype(source.dtype or np.float32))
    v = g.Reshape(v, g.join(g.ints(-1), g.size(x, channel), *lengths))
    if channel != 1:
        v = g.Transpose(v, perm=[first.index(axis) for axis in range(len(first))])
    if source is not x:
        v = g.cast(v, x)
    return _typed(v, x, x.shape[0])


def _filtered(g: Emit, v: Value, i: int, rank: int, window: npt.NDArray[Any]) -> Value:
    """v (n, 1, spatial...) filtered along spatial axis i, its border repeated."""
    reach = window.size // 2
    ends = [0, 0, *(reach if k == i else 0 for k in range(rank))]
    padded = g.Pad(v, g.ints(*ends, *ends), mode="edge")
    shape = [window.size if k == i else 1 for k in range(rank)]
    value: Value = g.Conv(
        padded,
        g.constant(window.reshape(1, 1, *shape)),
        kernel_shape=shape,
        strides=[1] * rank,
        pads=[0] * 2 * rank,
        dilations=[1] * rank,
        group=1,
    )
    return value


def gaussian(sigma: float) -> npt.NDArray[np.float64]:
    """exp(-i² / 2σ²) for |i| <= REACH σ, of sum 1."""
    reach = max(1, math.ceil(REACH * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())
