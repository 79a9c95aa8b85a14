"""Class activation maps: of a layer's activation A (N, C, spatial...), weighted by channel."""

from __future__ import annotations

from types import MappingProxyType

from ..rewriter.errors import Obstacle, UnsupportedError
from ..rewriter.graph import Value
from ..rewriter.method import Option
from ..rewriter.scene import Scene
from .gates import guided
from .gradient import GRADIENT

LAYER = Option(None, None, "tensor or node to make the map of; by default the last spatial activation")
UPSAMPLE = Option(
    True, (True, False), "bring the map to the size of the input (bilinear), or leave it as it is"
)
LAYERED = MappingProxyType({"layer": LAYER, "upsample": UPSAMPLE})

POOLED_HEAD = frozenset(
    "GlobalAveragePool ReduceMean AveragePool Flatten Reshape Squeeze Unsqueeze Gemm MatMul Conv Add Identity Dropout "
    "Cast Transpose BatchNormalization Mul".split()
)
"""What may stand between the activation and the logits for the original CAM."""


def spatial(a: Value) -> list[int]:
    """Axes behind the channels."""
    return list(range(2, len(a.shape)))


def weighted(scene: Scene, reduce: str) -> Value:
    """Σ_k α_k A_k, (N, 1, spatial...); α_k = ReduceMean or ReduceSum of ∂z_c/∂A_k over its cells."""
    g, a = scene.g, scene.stage.layer
    alpha = g.op(reduce, scene.pull(GRADIENT, to=a), g.ints(*spatial(a)), keepdims=1)
    return g.ReduceSum(g.Mul(alpha, a), g.ints(1), keepdims=1)


def shown(scene: Scene, m: Value) -> Value:
    """The map at the size that `upsample` asks for."""
    if scene.options["upsample"]:
        return scene.resized(m)
    m.shape = [scene.x.shape[0], 1, *scene.stage.layer.shape[2:]]
    return m


def grad_cam(scene: Scene) -> Value:
    """L = max(Σ_k α_k A_k, 0), α_k the mean of ∂z_c/∂A_k (Ayyar 2021 Eq. 9-10). variant "epda": the map times the
    input's gradient (Gu Eq. 7-8)."""
    raw = weighted(scene, "ReduceMean")
    m = shown(scene, scene.g.Relu(raw) if scene.options["relu"] else raw)
    return scene.g.Mul(m, scene.pull(GRADIENT)) if scene.options["variant"] == "epda" else m


def cam(scene: Scene) -> Value:
    """M_c = Σ_k w_ck A_k; over a mean-pooled linear head w_ck = Σ_cells ∂z_c/∂A_k, and mean M_c + b_c = z_c."""
    stage = scene.stage
    steps = stage.tape(GRADIENT, (stage.layer,)).steps
    odd = [
        Obstacle(s.site.op, s.site.name, "CAM needs a mean-pooled linear head")
        for s in steps
        if s.site.op not in POOLED_HEAD
    ]
    if odd:
        raise UnsupportedError(odd, "use grad-cam, which takes any head")
    return shown(scene, weighted(scene, "ReduceSum"))


def guided_grad_cam(scene: Scene) -> Value:
    """The Grad-CAM map, brought to the input's size, times Guided Backprop (Ayyar 2021 section 4.6.1)."""
    up = scene.resized(scene.g.Relu(weighted(scene, "ReduceMean")))
    return scene.g.Mul(up, scene.cotangent)


def fem(scene: Scene) -> Value:
    """R = Σ_k μ_k [A_k >= μ_k + K σ_k]; μ, σ (population) of each channel's cells (Ayyar 2021 Eq. 26; the readout
    "max" divides by its maximum). strict: > for >=. The class does not matter; a dead channel adds nothing."""
    g, a, options = scene.g, scene.stage.layer, scene.options
    axes = g.ints(*spatial(a))
    mean = g.ReduceMean(a, axes, keepdims=1)
    off = g.Sub(a, mean)
    deviation = g.Sqrt(g.ReduceMean(g.Mul(off, off), axes, keepdims=1))
    level = g.Add(mean, g.Mul(deviation, float(options["k"])))
    above = g.cast((g.Greater if options["strict"] else g.GreaterOrEqual)(a, level), a)
    return shown(scene, g.ReduceSum(g.Mul(above, mean), g.ints(1), keepdims=1))


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
        "k": Option(1.0, None, "standard deviations above a channel's mean"),
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
