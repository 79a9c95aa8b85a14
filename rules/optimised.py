"""The network at another input than the file is given, for methods that optimise one; and the loss of a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from ..rewriter.draft import Dim
from ..rewriter.emit import Emit
from ..rewriter.errors import Obstacle, OptionError, TargetError, UnsupportedError
from ..rewriter.graph import Value
from ..rewriter.linear import Along, Chain
from ..rewriter.method import Option, Options
from ..rewriter.mirror import mirror
from ..rewriter.results import Result
from ..rewriter.scene import Stage
from ..rewriter.tape import pull, touched
from ..rewriter.target import Samples, Target, count_of, find_head, interleaved, leading
from .checks import number
from .scope.results import begin

MASK, NULL = "mask", "null"
LOSS, SCORE, GRADIENT, DELETED = "mask_loss", "mask_score", "mask_grad", "mask_deleted"

OPTIONS = MappingProxyType(
    {
        "lambda1": Option(1e-4, None, "weight of Σ|1 - m|, what is deleted", number(0.0)),
        "lambda2": Option(1e-2, None, "weight of Σ|∂m|^β, the roughness of the mask", number(0.0)),
        "beta": Option(3.0, None, "β, the power of the differences of neighbouring cells", number(1.0)),
        "blur": Option(
            5.0, None, "σ in pixels of the blur of the mask brought to the image's size", number(0.0)
        ),
        "score": Option(
            "probability",
            ("probability", "value"),
            "what is to fall: softmax or sigmoid of the logits, or the head",
        ),
    }
)


def elsewhere(stage: Stage, x: Value, at: Value) -> Stage:
    """The stage at another input: `at`, of as many rows as the forward pass is to have, in place of x. Its forward pass
    is emitted once more and its rules see that one; `wrt` and `head` are those of the second pass.

    TargetError where the head does not depend on x, UnsupportedError for nodes with a subgraph: they run once.
    """
    graph, head = stage.graph, stage.head
    nodes = touched(graph, (x,), head)
    if not nodes:
        raise TargetError(f"{head.name!r} does not depend on {x.name!r}; there is nothing to optimise")
    nested = [
        Obstacle(n.op, n.name, "its subgraph would have to run again")
        for n in nodes
        if n.name in graph.hidden
    ]
    if nested:
        raise UnsupportedError(nested)
    again = mirror(graph, stage.g, {x.name: at}, head)
    assert again.twin is not None, "a mirrored graph has twins"
    twins = tuple(again.twin(node) for node in nodes)
    renamed = {
        old.name: new
        for node, twin in zip(nodes, twins, strict=True)
        for old, new in zip((*node.inputs, *node.outputs), (*twin.inputs, *twin.outputs), strict=True)
    }
    places = {new.name: graph.rows.place(old) for old, new in renamed.items()}
    rows = replace(graph.rows, places={**graph.rows.places, **places})
    view = replace(again, nodes=twins, twin=None, rows=rows)
    return replace(stage, graph=view, head=renamed[head.name], wrt=(renamed[x.name],))


def climbed(there: Stage, seed: Value) -> Value:
    """d⟨seed, head⟩ / d input of a stage that `elsewhere` made."""
    (x,) = there.wrt
    found = pull(there.tape(there.rules, there.wrt), {there.head.name: seed}, there.g).get(x.name)
    if found is None:
        raise TargetError(f"nothing flows back from {there.head.name!r}; there is nothing to optimise")
    return found


def only_input(stage: Stage, what: str) -> Value:
    """The explained input. OptionError for several; what: the subject of its message."""
    x, *more = stage.wrt
    if more:
        raise OptionError(f"{what} of one input; choose one with inputs=({x.name!r},)")
    return x


def deletion(stage: Stage, target: Target) -> list[Result]:
    """Inputs `mask` m (N, 1, h, w) in [0, 1], 1 keeps, and `null` x0 of the input's shape ->

        M = blur(upsample(m));  Φ = M x + (1 - M) x0
        loss = p_c(Φ) + λ1 Σ|1 - m| + λ2 Σ(|∂_x m|^β + |∂_y m|^β)

    `mask_loss` and `mask_score` p_c(Φ) (rows, 1), `mask_grad` dloss / dm, `mask_deleted` 1 - M (N, 1, H, W). Upsampling
    is bilinear with half-pixel centres; the blur is a Gaussian whose weights are renormalised at the border, so that
    m = 1 keeps all of x. ∂ are differences of neighbouring cells; |.| has the slope 0 at 0. The class of target -1 is
    the top one of x, not of Φ.

    Fong & Vedaldi 2017 section 4; docs/methods/perturbed.md. TargetError for an input without spatial axes or a head
    that does not depend on it; OptionError for score="probability" of a head that is no logit.
    """
    g, x = stage.g, only_input(stage, "a mask is one")
    axes = _spatial(stage, x)
    cells: list[Dim] = (
        ["mask_height", "mask_width"] if len(axes) == 2 else [f"mask_{i}" for i in range(len(axes))]
    )
    m = stage.add_input(MASK, x, [x.shape[0], 1, *cells])
    null = stage.add_input(NULL, x, list(x.shape))
    found = begin(stage, target)
    with g.at("mask"):
        up = Chain(*(_upsampled(stage, x, m, i, axis) for i, axis in enumerate(axes)))
        whole = up.push(g, m)
        apart = g.Sub(x, null)
        blended = g.Add(null, g.Mul(_placed(stage, x, whole), apart))
        blended.dtype, blended.shape = x.dtype, list(x.shape)
        penalty, slope = _penalty(g, m, len(axes), stage.options)
    there = elsewhere(stage, x, blended)
    rows: dict[str, list[Value]] = {LOSS: [], SCORE: [], GRADIENT: []}
    for hot in found.seeds:
        with g.at("score"):
            score, seed = _score(stage, there.head, hot)
        back = climbed(there, seed)
        with g.at("mask"):
            line = g.ReduceSum(g.Mul(back, apart), g.ints(stage.channel_axis(x)), keepdims=1)
            rows[GRADIENT].append(g.Add(up.pull(g, _lifted(stage, x, line)), slope))
            rows[LOSS].append(g.Add(score, penalty))
            rows[SCORE].append(score)
    lead = leading(target, x.shape[0])
    tails: Mapping[str, list[Dim]] = {LOSS: [1], SCORE: [1], GRADIENT: [1, *cells]}
    sizes = [x.shape[axis] for axis in axes]
    results: list[Result] = [(k, interleaved(g, v, tails[k]), [lead, *tails[k]]) for k, v in rows.items()]
    return [*results, (DELETED, g.Sub(1.0, whole), [x.shape[0], 1, *sizes])]


def _spatial(stage: Stage, x: Value) -> list[int]:
    axes = stage.spatial_axes(x) if len(x.shape or ()) > 2 else []
    if not axes:
        raise TargetError(f"a mask lies over a picture; {x.name!r} of shape {x.shape} has no spatial axes")
    return axes


def _upsampled(stage: Stage, x: Value, m: Value, i: int, axis: int) -> Along:
    """What blur and upsampling do to one axis: a matrix (cells, pixels) whose columns sum to 1."""
    g, sigma = stage.g, float(stage.options["blur"])
    cells, pixels = g.size(m, 2 + i), g.size(x, axis)
    zero = g.constant(np.asarray(0.0, np.float32))
    eye = g.Reshape(g.EyeLike(g.Expand(zero, g.join(cells, cells))), g.join(g.ints(1, 1), cells, cells))
    up = g.Resize(
        eye,
        None,
        None,
        g.join(g.ints(1, 1), cells, pixels),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    matrix = g.Reshape(up, g.join(cells, g.ints(-1)))
    if sigma:
        matrix = g.MatMul(matrix, _gaussian(g, pixels, sigma))
    return Along(
        matrix if x.dtype == np.float32 else g.cast(matrix, x), 2 + i, 2 + len(stage.spatial_axes(x))
    )


def _gaussian(g: Emit, pixels: Value, sigma: float) -> Value:
    """(pixels, pixels): what each pixel, a row, gives to each of the blurred ones, a column, all of which sum to 1."""
    places = g.cast(
        g.Range(g.scalar(0), g.Squeeze(pixels, g.ints(0)), g.scalar(1)), g.constant(np.zeros(1, np.float32))
    )
    apart = g.Sub(g.Unsqueeze(places, g.ints(1)), g.Unsqueeze(places, g.ints(0)))
    weights = g.Exp(g.Mul(g.Mul(apart, apart), -0.5 / sigma**2))
    value: Value = g.Div(weights, g.ReduceSum(weights, g.ints(0), keepdims=1))
    return value


def _order(stage: Stage, x: Value) -> list[int]:
    """Where the axes of (N, 1, spatial...) lie in the layout of x."""
    order = [0, *range(2, len(x.shape))]
    order.insert(stage.channel_axis(x), 1)
    return order


def _placed(stage: Stage, x: Value, whole: Value) -> Value:
    """(N, 1, spatial...) in the layout of x."""
    if stage.channel_axis(x) == 1:
        return whole
    return stage.g.Transpose(whole, perm=_order(stage, x))


def _lifted(stage: Stage, x: Value, line: Value) -> Value:
    """The transpose of `_placed`."""
    if stage.channel_axis(x) == 1:
        return line
    order = _order(stage, x)
    return stage.g.Transpose(line, perm=sorted(range(len(order)), key=order.__getitem__))


def _penalty(g: Emit, m: Value, count: int, options: Options) -> tuple[Value, Value]:
    """λ1 Σ|1 - m| + λ2 Σ|∂m|^β of each sample, (N, 1), and its slope."""
    lambda1, lambda2, beta = (float(options[key]) for key in ("lambda1", "lambda2", "beta"))
    missing = g.Sub(m, 1.0)
    cost = g.Mul(g.Abs(missing), lambda1)
    total = g.ReduceSum(g.Reshape(cost, g.ints(0, -1)), g.ints(1), keepdims=1)
    slope = g.Mul(g.Sign(missing), lambda1)
    for axis in range(2, 2 + count):
        end = g.ints(np.iinfo(np.int64).max)
        ahead = g.Slice(m, g.ints(1), end, g.ints(axis))
        step = g.Sub(ahead, g.Slice(m, g.ints(0), g.ints(-1), g.ints(axis)))
        size = g.Abs(step)
        rough = g.Reshape(g.Mul(g.Pow(size, beta), lambda2), g.join(g.rows(m), g.ints(-1)))
        total = g.Add(total, g.ReduceSum(rough, g.ints(1), keepdims=1))
        pushed = g.Mul(g.Mul(g.Pow(size, beta - 1.0), g.Sign(step)), beta * lambda2)
        edge, none = [int(k == axis) for k in range(2 + count)], [0] * (2 + count)
        slope = g.Add(slope, g.Sub(g.Pad(pushed, g.ints(*edge, *none)), g.Pad(pushed, g.ints(*none, *edge))))
    return total, slope


def _score(stage: Stage, z: Value, hot: Value) -> tuple[Value, Value]:
    """⟨hot, f(z)⟩ of each row, (rows, 1), and its derivative by z."""
    g = stage.g
    f, seed = z, hot
    if stage.options["score"] == "probability":
        squash, axis = _squash(stage)
        if squash == "Sigmoid":
            f = g.Sigmoid(z)
            seed = g.Mul(hot, g.Mul(f, g.Sub(1.0, f)))
        elif squash:
            f = g.Softmax(z, axis=axis)
            part = g.Mul(hot, f)
            seed = g.Sub(part, g.Mul(f, g.ReduceSum(part, g.ints(axis), keepdims=1)))
    product = g.Mul(hot, f)
    flat = Samples(stage.graph, stage.head, g, product, count_of(stage.graph, stage.head, product, g)).flat
    return g.ReduceSum(flat, g.ints(1), keepdims=1), seed


def _squash(stage: Stage) -> tuple[str, int]:
    """What makes probabilities of the head, and along which axis; "" of a single number, which speaks for itself."""
    head, rows = stage.head, stage.graph.rows
    for output in stage.graph.outputs:
        z, squash = find_head(stage.graph, output, "logits")
        if z.name != head.name:
            continue
        node = next((node for node in head.outputs if node.op == squash), None)
        axis = -1 if node is None else int(node.attrs.get("axis", -1))
        if squash is None and rows.elements(head.name, head.shape) == 1:
            return "", axis
        if squash is None and rows.axis(head.name) == len(head.shape) - 1:
            raise OptionError(
                f"score='probability' of {head.name!r}: nothing tells where its classes lie; take score='value'"
            )
        return squash or "Softmax", axis
    raise OptionError(
        f"score='probability' is that of the logits, and {head.name!r} is none; take score='value', or head='logits'"
    )


__all__ = [
    "DELETED",
    "GRADIENT",
    "LOSS",
    "MASK",
    "NULL",
    "OPTIONS",
    "SCORE",
    "climbed",
    "deletion",
    "elsewhere",
    "only_input",
]
