"""Class activation maps: of a layer's activation A (N, C, spatial...), weighted by channel."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..rewriter.errors import OptionError, UnsupportedError
from ..rewriter.graph import Value
from ..rewriter.layers import channel_axis
from ..rewriter.method import Option
from ..rewriter.scene import Scene
from .checks import number
from .gates import guided
from .gradient import GRADIENT
from .pooled import unpooled


def _layer(name: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise OptionError(f"{name}={value!r} is not the name of a tensor or node")


LAYER = Option(
    None, None, "tensor or node to make the map of; by default the last spatial activation", _layer
)
UPSAMPLE = Option(
    True, (True, False), "bring the map to the size of the input (bilinear), or leave it as it is"
)
LAYERED = MappingProxyType({"layer": LAYER, "upsample": UPSAMPLE})


@dataclass(frozen=True)
class Layer:
    """The activation A of a map: its axis of channels, and those of its cells."""

    a: Value
    channels: int
    cells: tuple[int, ...]


def layer_of(scene: Scene) -> Layer:
    scene.stage.vet_batch("a class activation map")
    stage, a = scene.stage, scene.stage.layer
    channels = channel_axis(stage.graph, stage.wrt, stage.head, a) or 1
    return Layer(a, channels, tuple(axis for axis in range(1, len(a.shape)) if axis != channels))


def weighted(scene: Scene, reduce: str) -> Value:
    """Σ_k α_k A_k, (N, 1, spatial...); α_k = ReduceMean or ReduceSum of ∂z_c/∂A_k over its cells."""
    g, layer = scene.g, layer_of(scene)
    alpha = g.op(reduce, scene.pull(GRADIENT, to=layer.a), g.ints(*layer.cells), keepdims=1)
    return summed(scene, layer, g.Mul(alpha, layer.a))


def summed(scene: Scene, layer: Layer, v: Value) -> Value:
    """Σ over channels of v, (N, 1, spatial...)."""
    m = scene.g.ReduceSum(v, scene.g.ints(layer.channels), keepdims=1)
    return m if layer.channels == 1 else scene.g.Transpose(m, perm=[0, layer.channels, *layer.cells])


def shown(scene: Scene, m: Value) -> Value:
    """The map at the size that `upsample` asks for, in the layout of the input."""
    stage, x = scene.stage, scene.x
    cells = [stage.layer.shape[axis] for axis in layer_of(scene).cells]
    if scene.options.get("upsample", True):
        if len(stage.spatial_axes(x)) != len(cells):
            raise OptionError(
                f"the map of {stage.layer.name!r} has {len(cells)} spatial axes, the input {x.name!r} of shape "
                f"{list(x.shape)} has {len(stage.spatial_axes(x))}; give upsample=False, or another layer="
            )
        return scene.resized(m)
    shape = [x.shape[0], 1, *cells]
    if stage.channel_axis(x) != 1:
        m, shape = scene.g.Transpose(m, perm=[0, *range(2, len(shape)), 1]), [x.shape[0], *cells, 1]
    m.shape = shape
    return m


def grad_cam(scene: Scene) -> Value:
    """L = max(Σ_k α_k A_k, 0), α_k the mean of ∂z_c/∂A_k (Ayyar 2021 Eq. 9-10). variant "epda": the map, brought to
    the input's size, times the input's gradient (Gu Eq. 7-8)."""
    epda = scene.options["variant"] == "epda"
    if epda and not scene.options["upsample"]:
        raise OptionError(
            "grad-cam: variant='epda' multiplies by the input's gradient; it needs upsample=True"
        )
    raw = weighted(scene, "ReduceMean")
    m = shown(scene, scene.g.Relu(raw) if scene.options["relu"] else raw)
    return scene.g.Mul(m, scene.pull(GRADIENT)) if epda else m


def cam(scene: Scene) -> Value:
    """M_c = Σ_k w_ck A_k; over a mean-pooled linear head w_ck = Σ_cells ∂z_c/∂A_k, and mean M_c + b_c = z_c."""
    stage, layer = scene.stage, layer_of(scene)
    odd = unpooled(stage.tape(GRADIENT, (layer.a,)).steps, layer.a, layer.channels, stage.head)
    if odd:
        raise UnsupportedError(odd, "use grad-cam, which takes any head")
    return shown(scene, weighted(scene, "ReduceSum"))


def guided_grad_cam(scene: Scene) -> Value:
    """The Grad-CAM map, brought to the input's size, times Guided Backprop (Ayyar 2021 section 4.6.1)."""
    up = shown(scene, scene.g.Relu(weighted(scene, "ReduceMean")))
    return scene.g.Mul(up, scene.cotangent)


def fem(scene: Scene) -> Value:
    """R = Σ_k μ_k [A_k >= μ_k + K σ_k]; μ, σ (population) of each channel's cells (Ayyar 2021 Eq. 26; the readout
    "max" divides by its maximum). strict: > for >=. The class does not matter; a dead channel adds nothing."""
    g, layer, options = scene.g, layer_of(scene), scene.options
    a, axes = layer.a, g.ints(*layer.cells)
    # Counted from the largest cell, a constant channel has its own value as its mean, whatever the rounding.
    top = g.ReduceMax(a, axes, keepdims=1)
    mean = g.Add(top, g.ReduceMean(g.Sub(a, top), axes, keepdims=1))
    off = g.Sub(a, mean)
    deviation = g.Sqrt(g.ReduceMean(g.Mul(off, off), axes, keepdims=1))
    level = g.Add(mean, g.Mul(deviation, float(options["k"])))
    above = g.cast((g.Greater if options["strict"] else g.GreaterOrEqual)(a, level), a)
    m = summed(scene, layer, g.Mul(above, mean))
    if not scene.seed.inputs:  # cotangents that are fed: a row each, though the class does not matter
        ones = g.ints(*[1] * (len(layer.cells) + 1))
        m = g.Expand(m, g.Concat(g.rows(scene.seed), ones, axis=0))
    return shown(scene, m)


GRAD_CAM_OPTIONS = MappingProxyType(
    {
        **LAYERED,
        "relu": Option(True, (True, False), "keep positive evidence only"),
        "variant": Option("paper", ("paper", "epda"), "the map, or the map times the input's gradient"),
    }
)
FEM_OPTIONS = MappingProxyType(
    {
        **LAYERED,
        "k": Option(1.0, None, "standard deviations above a channel's mean", number()),
        "strict": Option(False, (True, False), "> instead of >="),
    }
)

__all__ = [
    "FEM_OPTIONS",
    "GRAD_CAM_OPTIONS",
    "LAYER",
    "LAYERED",
    "cam",
    "fem",
    "grad_cam",
    "guided",
    "guided_grad_cam",
]
