"""Pixel discussions and votes: which class every pixel argues for. Navarrete et al. Eq. 17-18.

See docs/methods/linearscope.md, "Discussions and votes".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np

from ...rewriter.emit import Emit, tail_of
from ...rewriter.errors import ExplainWarning, OptionError, TargetError
from ...rewriter.graph import Value, variable
from ...rewriter.method import Option
from ...rewriter.results import Result
from ...rewriter.scene import Scene, Stage
from ...rewriter.tape import pull
from ...rewriter.target import Target, vet_leading
from .flow import bias_images, constants
from .results import frozen

CLASSES, DISCUSSION, VOTES = "classes", "discussion", "votes"
SMALLEST = 1e-3
"""Of Σ|PD|: a sum below it is no measure of the map."""

CLASSWISE = "classwise"
VARIANT = Option(
    CLASSWISE,
    (CLASSWISE, "paper", "eq18"),
    "the biases by their weight in the score of the class (classwise), or alike for every class: with x0 F_c as the "
    "share of the input (paper, the text) or F_c (eq18, Eq. 18)",
)
SWAMPED = (
    "the biases say the same for every class, and their map may be far larger than what the input says of a "
    "class; scaled to the scores it then gives all pixels to the most or to the least likely class. "
    "variant='classwise' weighs every bias by what it does for the class"
)
"""What is wrong with the variants as printed: on EfficientNet-Lite0 the shared map sums to 4e6, the score is 9."""
SCALE = Option(
    "score",
    ("score", "shift", "none"),
    "the sum over all pixels: made the score by a factor, by adding a constant, or left as it is",
)
OPTIONS = MappingProxyType({"variant": VARIANT, "scale": SCALE})


def discussion(scene: Scene) -> Value:
    """PD_c (N, ...) of the input's shape, scaled as the option `scale` says."""
    known = scene.stage.extras.setdefault("discussions", {})
    if scene.seed.name not in known:
        known[scene.seed.name] = discussions(scene.stage, scene.seed, one_hot=bool(scene.seed.inputs))
    value: Value = known[scene.seed.name][scene.x.name]
    return value


def discussions(stage: Stage, seed: Value, *, one_hot: bool) -> dict[str, Value]:
    """Input name -> PD. seed (K, *y): the class of each row, or (not one_hot) any weights of the outputs.

    PD_c = T_c + b_c F_c + Σ_i F_i' b̂_i over all gates i (`flow.bias_images`), with T_c = x0 F_c, or F_c by itself
    (eq18), and b_c the bias of the score. classwise: T_c + Σ_t F_t' (q_t κ_t) over all nodes t with a constant κ_t, F_t
    the part of the network up to t and q_t the sensitivity of the score to it. One backward pass gives F_c and all
    q_t. The second one, which starts at all gates at once, is shared by all classes unless they weigh the biases.
    Scores that are no element of y take one more for b_c F_c.
    """
    g, tape, head = stage.g, frozen(stage), stage.head
    q = pull(tape, {head.name: seed}, g)
    names = [x.name for x in stage.wrt]
    _tell(stage)
    vet_leading(stage.graph, stage.head, "a pixel discussion")
    if not any(name in q for name in names):
        raise TargetError(
            f"{head.name!r} does not depend on {names[0]!r} once softmax and gates are taken as constant"
        )
    variant, bias = str(stage.options["variant"]), None
    if variant == CLASSWISE:
        backs = [
            pull(tape, {name: g.Mul(q[name], constant) for name, constant in constants(stage).items()}, g)
        ]
    else:
        images = dict(_images(stage))
        bias = images.pop(head.name, None)
        backs = [_shared(stage, images)]
        if bias is not None and not one_hot:
            backs.append(pull(tape, {head.name: g.Mul(seed, bias)}, g))
    found: dict[str, Value] = {}
    for x in stage.wrt:
        if x.name not in q:
            raise TargetError(f"{head.name!r} does not depend on {x.name!r}; explain the other inputs")
        row = q[x.name]
        terms = [row if variant == "eq18" else g.Mul(row, x)]
        if bias is not None and one_hot:
            terms.append(g.Mul(row, _ranked(g, _sum(g, [g.Mul(seed, bias)]), x)))
        terms += [back[x.name] for back in backs if x.name in back]
        found[x.name] = g.total(terms)
    return _scaled(stage, found, _sum(g, [g.Mul(seed, head)]))


def _tell(stage: Stage) -> None:
    """A variant as printed is made as asked for, and what it cannot say is told: in the card, and once as a warning."""
    variant = stage.options["variant"]
    if variant == CLASSWISE or stage.extras.setdefault("swamped", False):
        return
    stage.extras["swamped"] = True
    stage.g.note(f"variant={variant!r}: {SWAMPED}")
    warnings.warn(f"variant={variant!r}: {SWAMPED}", ExplainWarning, stacklevel=2)


def _images(stage: Stage) -> Mapping[str, Value]:
    if "bias_images" not in stage.extras:
        stage.extras["bias_images"] = bias_images(stage)
    found: Mapping[str, Value] = stage.extras["bias_images"]
    return found


def _shared(stage: Stage, images: Mapping[str, Value]) -> dict[str, Value]:
    """Σ_i F_i' b̂_i: as many rows as the input has, whatever the number of classes."""
    if "bias_back" not in stage.extras:
        rows, stage.g.lead = stage.g.lead, stage.wrt[0].shape[0]
        stage.extras["bias_back"] = pull(frozen(stage), images, stage.g)
        stage.g.lead = rows
    found: dict[str, Value] = stage.extras["bias_back"]
    return found


def _scaled(stage: Stage, found: dict[str, Value], score: Value) -> dict[str, Value]:
    """The maps with their sum over all pixels and inputs brought to the score y_c (rows, 1).

    score: PD y_c / ΣPD. A ΣPD below 1e-3 Σ|PD| is replaced by that number, with the sign of ΣPD: the map stays
    finite, and its sum is then less than y_c. shift: PD + (y_c - ΣPD) / pixels.
    """
    g, scale = stage.g, stage.options["scale"]
    if scale == "none":
        return found
    total = _sum(g, found.values())
    if scale == "shift":
        step = g.Div(g.Sub(score, total), _count(g, stage.wrt))
        return {x.name: g.Add(found[x.name], _ranked(g, step, x)) for x in stage.wrt}
    least = g.Mul(_sum(g, [g.Abs(v) for v in found.values()]), SMALLEST)
    size = g.Max(g.Abs(total), least)
    nothing = g.Equal(size, 0.0)
    size = g.Where(nothing, g.number(1.0, size), size)
    factor = g.Div(score, g.Where(g.Less(total, 0.0), g.Neg(size), size))
    return {x.name: g.Mul(found[x.name], _ranked(g, factor, x)) for x in stage.wrt}


def _sum(g: Emit, values: Iterable[Value]) -> Value:
    """Of each row over everything: (rows, 1)."""
    return g.total([g.ReduceSum(g.Reshape(v, g.ints(0, -1)), g.ints(1), keepdims=1) for v in values])


def _ranked(g: Emit, v: Value, x: Value) -> Value:
    """(rows, 1) -> (rows, 1, ..., 1), to broadcast over rows of x."""
    value: Value = v if len(x.shape) == 2 else g.Reshape(v, g.ints(0, *[1] * (len(x.shape) - 1)))
    return value


def _count(g: Emit, inputs: Iterable[Value]) -> Value:
    """Elements of one sample of all inputs."""
    counts: list[Value] = []
    for x in inputs:
        tail = tail_of(x)
        known = tail is not None
        counts.append(
            g.number(float(math.prod(tail or ())), x)
            if known
            else g.cast(g.ReduceProd(g.rest(x), keepdims=0), x)
        )
    return g.total(counts)


def votes(stage: Stage, target: Target) -> list[Result]:
    """Input `classes` int64 (K, 1), negative ones meaning the top class -> `discussion` (K, *spatial), PD_c summed over
    channels, and `votes` int64 (1, *spatial): of `classes` the one with the largest discussion, the first of equals.

    One picture a run. Classes may come in portions: of two runs the larger discussion wins a pixel. TargetError for
    an input without spatial axes; OptionError where several inputs are explained.
    """
    g, head, x = stage.g, stage.head, stage.wrt[0]
    if len(stage.wrt) > 1:
        raise OptionError(f"votes are cast by the pixels of one input; choose one with inputs=({x.name!r},)")
    if len(x.shape) < 3:
        raise TargetError(
            f"input {x.name!r} of shape {list(x.shape)} has no pixels that could vote; use linearscope.pixel-discussion"
        )
    classes = stage.add_input(CLASSES, variable("", np.dtype(np.int64)), ["K", 1])
    with g.at("classes"):
        flat = g.Reshape(head, g.ints(0, -1)) if len(head.shape) != 2 else head
        top = g.Squeeze(g.ArgMax(flat, axis=1, keepdims=1), g.ints(0, 1))  # fails for more than one picture
        chosen = g.Squeeze(g.Where(g.Less(classes, g.scalar(0)), top, classes), g.ints(1))
        hot = g.OneHot(
            chosen, g.Shape(flat, start=1, end=2), g.constant(np.asarray([0.0, 1.0], np.float32)), axis=-1
        )
        hot = hot if np.dtype(head.dtype) == np.float32 else g.cast(hot, head)
        seed = hot if len(head.shape) == 2 else g.shaped(hot, head)
    g.seeds += (seed,)
    g.lead = "K"
    found = discussions(stage, seed, one_hot=True)[x.name]
    talk = g.ReduceSum(found, g.ints(stage.channel_axis(x)), keepdims=0)
    winner = g.Gather(chosen, g.ArgMax(talk, axis=0, keepdims=1), axis=0)
    spatial = [x.shape[axis] for axis in stage.spatial_axes(x)]
    return [(DISCUSSION, talk, ["K", *spatial]), (VOTES, winner, [1, *spatial])]


__all__ = ["OPTIONS", "discussion", "votes"]
