"""Elementwise operators of one input: the map is a product with f'(x)."""

from __future__ import annotations

import math

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.linear import Keep, Local, Scale
from ...rewriter.site import Refuse, Site
from .base import GRADIENT, step

SELU_ALPHA, SELU_GAMMA = 1.6732632423543772, 1.0507009873554805


def bounds(site: Site) -> tuple[Value | None, Value | None]:
    """Lower and upper bound of a Clip, as values, None where open."""
    return site.input(1), site.input(2)


@GRADIENT.on("Relu")
def relu(site: Site, g: Emit) -> Local:
    """y = max(x, 0); f' = [x > 0], 0 at 0. Read from y, so that the forward Conv and Relu stay fused."""
    return Local(Scale(step(g, site.y, 0.0)))


@GRADIENT.on("Clip")
def clip(site: Site, g: Emit) -> Local:
    """y = min(max(x, low), high); f' = [low < y < high], strictly, as ReLU6 in PyTorch. Read from y, as Relu."""
    if any(site.active[1:]):
        raise Refuse("its bounds depend on the explained input")
    low, high = bounds(site)
    return Local(Keep() if low is None and high is None else Scale(step(g, site.y, low, high)))


@GRADIENT.on("LeakyRelu")
def leaky_relu(site: Site, g: Emit) -> Local:
    """f' = 1 for x > 0, alpha for x <= 0."""
    return Local(Scale(slopes(g, site.data, float(site.attr("alpha", 0.01)))))


@GRADIENT.on("PRelu")
def prelu(site: Site, g: Emit) -> Local:
    """f' = 1 for x > 0, else the slope, which broadcasts to x and must be a parameter."""
    return Local(Scale(slopes(g, site.data, site.fixed(1, "the slope"))))


def slopes(g: Emit, x: Value, below: Value | float) -> Value:
    """1 where x > 0, else `below`."""
    return g.Where(g.Greater(x, 0.0), g.number(1.0, x), g.number(below, x))


@GRADIENT.on("ThresholdedRelu")
def thresholded_relu(site: Site, g: Emit) -> Local:
    """y = x for x > alpha, else 0; f' = [x > alpha]."""
    return Local(Scale(step(g, site.data, float(site.attr("alpha", 1.0)))))


@GRADIENT.on("Shrink")
def shrink(site: Site, g: Emit) -> Local:
    """f' = 1 outside [-lambd, lambd], 0 inside."""
    lambd = float(site.attr("lambd", 0.5))
    return Local(Scale(g.Add(step(g, site.data, lambd), step(g, site.data, None, -lambd))))


@GRADIENT.on("Sigmoid")
def sigmoid(site: Site, g: Emit) -> Local:
    """f' = y (1 - y)."""
    return Local(Scale(g.Mul(site.y, g.Sub(1.0, site.y))))


@GRADIENT.on("Tanh")
def tanh(site: Site, g: Emit) -> Local:
    """f' = 1 - y^2."""
    return Local(Scale(g.Sub(1.0, g.Mul(site.y, site.y))))


@GRADIENT.on("Softplus")
def softplus(site: Site, g: Emit) -> Local:
    """y = log(1 + e^x); f' = sigmoid(x)."""
    return Local(Scale(g.Sigmoid(site.data)))


@GRADIENT.on("Softsign")
def softsign(site: Site, g: Emit) -> Local:
    """y = x / (1 + |x|); f' = 1 / (1 + |x|)^2."""
    root = g.Reciprocal(g.Add(g.Abs(site.data), 1.0))
    return Local(Scale(g.Mul(root, root)))


@GRADIENT.on("Elu")
def elu(site: Site, g: Emit) -> Local:
    """y = alpha (e^x - 1) for x < 0; there f' = y + alpha, 1 for x > 0."""
    alpha = float(site.attr("alpha", 1.0))
    return Local(Scale(slopes(g, site.data, g.Add(site.y, alpha))))


@GRADIENT.on("Celu")
def celu(site: Site, g: Emit) -> Local:
    """y = alpha (e^(x/alpha) - 1) for x < 0; there f' = e^(x/alpha) = y / alpha + 1."""
    alpha = float(site.attr("alpha", 1.0))
    return Local(Scale(slopes(g, site.data, g.Add(g.Div(site.y, alpha), 1.0))))


@GRADIENT.on("Selu")
def selu(site: Site, g: Emit) -> Local:
    """y = gamma x for x > 0, gamma alpha (e^x - 1) below; f' = gamma, or y + gamma alpha."""
    alpha, gamma = float(site.attr("alpha", SELU_ALPHA)), float(site.attr("gamma", SELU_GAMMA))
    above = g.Mul(step(g, site.data, 0.0), gamma)
    below = g.Mul(g.Sub(1.0, step(g, site.data, 0.0)), g.Add(site.y, gamma * alpha))
    return Local(Scale(g.Add(above, below)))


@GRADIENT.on("HardSigmoid")
def hard_sigmoid(site: Site, g: Emit) -> Local:
    """y = clip(alpha x + beta, 0, 1); f' = alpha where 0 < y < 1."""
    alpha = float(site.attr("alpha", 0.2))
    return Local(Scale(g.Mul(step(g, site.y, 0.0, 1.0), alpha)))


@GRADIENT.on("HardSwish")
def hard_swish(site: Site, g: Emit) -> Local:
    """y = x clip(x/6 + 1/2, 0, 1); f' = 0 for x <= -3, 1 for x >= 3, else (2x + 3) / 6."""
    inside = g.Mul(step(g, site.data, -3.0, 3.0), g.Div(g.Add(g.Mul(site.data, 2.0), 3.0), 6.0))
    above = g.Sub(1.0, step(g, site.data, None, 3.0))
    return Local(Scale(g.Add(inside, above)))


@GRADIENT.on("Mish")
def mish(site: Site, g: Emit) -> Local:
    """y = x tanh(softplus(x)); with w the tanh: f' = w + x sigmoid(x) (1 - w^2)."""
    x = site.data
    w = g.Tanh(g.Softplus(x))
    return Local(Scale(g.Add(w, g.Mul(g.Mul(x, g.Sigmoid(x)), g.Sub(1.0, g.Mul(w, w))))))


@GRADIENT.on("Swish")
def swish(site: Site, g: Emit) -> Local:
    """y = x s, s = sigmoid(alpha x); f' = s (1 + alpha x (1 - s))."""
    ax = g.Mul(site.data, float(site.attr("alpha", 1.0)))
    s = g.Sigmoid(ax)
    return Local(Scale(g.Mul(s, g.Add(g.Mul(ax, g.Sub(1.0, s)), 1.0))))


@GRADIENT.on("Gelu")
def gelu(site: Site, g: Emit) -> Local:
    """Exact: f' = Phi(x) + x phi(x). approximate = "tanh": the derivative of that formula."""
    x, mode = site.data, site.attr("approximate", "none")
    if mode == "none":
        cdf = g.Mul(g.Add(g.Erf(g.Mul(x, math.sqrt(0.5))), 1.0), 0.5)
        density = g.Mul(g.Exp(g.Mul(g.Mul(x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
        return Local(Scale(g.Add(cdf, g.Mul(x, density))))
    square = g.Mul(x, x)
    root = math.sqrt(2 / math.pi)
    t = g.Tanh(g.Mul(g.Mul(x, root), g.Add(g.Mul(square, 0.044715), 1.0)))
    slope = g.Mul(g.Add(g.Mul(square, 3 * 0.044715), 1.0), root)
    bend = g.Mul(g.Mul(x, 0.5), g.Mul(g.Sub(1.0, g.Mul(t, t)), slope))
    return Local(Scale(g.Add(g.Mul(g.Add(t, 1.0), 0.5), bend)))


@GRADIENT.on("Erf")
def erf(site: Site, g: Emit) -> Local:
    """f' = 2 / sqrt(pi) e^(-x^2)."""
    return Local(Scale(g.Mul(g.Exp(g.Neg(g.Mul(site.data, site.data))), 2 / math.sqrt(math.pi))))


@GRADIENT.on("Exp")
def exp(site: Site, g: Emit) -> Local:
    """f' = y."""
    return Local(Scale(site.y))


@GRADIENT.on("Log")
def log(site: Site, g: Emit) -> Local:
    """f' = 1 / x."""
    return Local(Scale(g.Reciprocal(site.data)))


@GRADIENT.on("Sqrt")
def sqrt(site: Site, g: Emit) -> Local:
    """f' = 1 / (2 y); infinite at 0, as the derivative is."""
    return Local(Scale(g.Div(0.5, site.y)))


@GRADIENT.on("Reciprocal")
def reciprocal(site: Site, g: Emit) -> Local:
    """f' = -y^2."""
    return Local(Scale(g.Neg(g.Mul(site.y, site.y))))


@GRADIENT.on("Abs")
def absolute(site: Site, g: Emit) -> Local:
    """f' = sign(x), 0 at 0."""
    return Local(Scale(g.Sign(site.data)))


@GRADIENT.on("Neg")
def neg(site: Site, g: Emit) -> Local:
    """f' = -1."""
    return Local(Scale(-1.0))


@GRADIENT.on("Sin")
def sin(site: Site, g: Emit) -> Local:
    """f' = cos x."""
    return Local(Scale(g.Cos(site.data)))


@GRADIENT.on("Cos")
def cos(site: Site, g: Emit) -> Local:
    """f' = -sin x."""
    return Local(Scale(g.Neg(g.Sin(site.data))))


@GRADIENT.on("Tan")
def tan(site: Site, g: Emit) -> Local:
    """f' = 1 + y^2."""
    return Local(Scale(g.Add(g.Mul(site.y, site.y), 1.0)))


@GRADIENT.on("Sinh")
def sinh(site: Site, g: Emit) -> Local:
    """f' = cosh x."""
    return Local(Scale(g.Cosh(site.data)))


@GRADIENT.on("Cosh")
def cosh(site: Site, g: Emit) -> Local:
    """f' = sinh x."""
    return Local(Scale(g.Sinh(site.data)))


@GRADIENT.on("Atan", "Asin", "Acos", "Asinh", "Acosh", "Atanh")
def inverse(site: Site, g: Emit) -> Local:
    """Inverse functions: 1/(1+x²), ±1/√(1-x²), 1/√(x²+1), 1/√(x²-1), 1/(1-x²)."""
    square = g.Mul(site.data, site.data)
    under = {
        "Atan": lambda: g.Add(square, 1.0),
        "Atanh": lambda: g.Sub(1.0, square),
        "Asin": lambda: g.Sqrt(g.Sub(1.0, square)),
        "Acos": lambda: g.Neg(g.Sqrt(g.Sub(1.0, square))),
        "Asinh": lambda: g.Sqrt(g.Add(square, 1.0)),
        "Acosh": lambda: g.Sqrt(g.Sub(square, 1.0)),
    }[site.op]()
    return Local(Scale(g.Reciprocal(under)))


@GRADIENT.on("Identity", "Dropout")
def identity(site: Site, g: Emit) -> Local:
    """y = x; Dropout as inference sees it."""
    mode = site.constant(2) if site.op == "Dropout" else None
    if site.op == "Dropout" and site.input(2) is not None and (mode is None or bool(mode)):
        raise Refuse("Dropout in training mode is random; export the model for inference")
    return Local(Keep())


@GRADIENT.on("Cast", "CastLike")
def cast(site: Site, g: Emit) -> Local:
    """Between floating-point types: the cotangent comes back in the type of x."""
    return Local(Retyped(site.data, site.y))


class Retyped:
    """A change of floating-point type."""

    def __init__(self, x: Value, y: Value) -> None:
        self.x, self.y = x, y

    def push(self, g: Emit, t: Value) -> Value:
        return g.cast(t, self.y)

    def pull(self, g: Emit, ct: Value) -> Value:
        return g.cast(ct, self.x)
