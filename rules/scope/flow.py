"""The steps of the frozen network that reach the head, and the constants that its biases become at the gates.

Navarrete et al. Eq. 17 writes F_i for the part of the network from the input to the output of gate i, and b̂_i for the
bias of layer i behind that gate. docs/methods/linearscope.md, "Discussions and votes", says what that is where other
nodes lie between a bias and its gate, or where there is no gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...rewriter.emit import Emit
from ...rewriter.graph import Value
from ...rewriter.scene import Stage
from ...rewriter.tape import Step, Tape
from .freeze import FROZEN, LINEAR, TERMS
from .norms import NORMS
from .results import frozen

WEIGHTS = frozenset("Conv ConvTranspose Gemm MatMul Einsum".split())
POOLS = frozenset(
    "AveragePool GlobalAveragePool MaxPool GlobalMaxPool LpPool GlobalLpPool TopK CumSum ReduceMean ReduceSum "
    "ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp Mean Resize "
    "Upsample".split()
)
"""They mix or select elements: a bias image does not go through them."""
PRODUCTS = frozenset({"Mul", "Div"})


def reaching(tape: Tape, head: Value) -> list[Step]:
    """The steps with a path of maps to the head, in forward order."""
    wanted, found = {head.name}, list[Step]()
    for step in reversed(tape.steps):
        if step.site.y.name in wanted:
            wanted |= {x.name for x in mapped(step)}
            found.append(step)
    return found[::-1]


def mapped(step: Step) -> list[Value]:
    """The inputs that the step has a map for."""
    return [x for x, part in zip(step.site.node.inputs, step.local.maps, strict=False) if part is not None]


def bias_images(stage: Stage) -> Mapping[str, Value]:
    """Tensor name -> b̂ (N, ...), the constants that arrive there, each of them at one tensor only.

    A constant (a bias, β - γμ/√v of a normalisation, a gate's own c) starts at its node and goes through what is
    elementwise or moves elements (batch norm, Add, Concat, Reshape) up to the next gate, whose mask or slope it
    takes; it stays there. It stops before a weighted node, a pooling, and where its tensor is read more than once:
    there A = I, as at the last layer. The constants of all images, sent on to the head, add up to r.
    """
    g, steps = stage.g, reaching(frozen(stage), stage.head)
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for x in mapped(step):
            readers.setdefault(x.name, []).append(step)
    carried, landed = dict[str, Value](), dict[str, Value]()
    for step in steps:
        y = step.site.y
        image = _image(g, step, carried)
        if image is None:
            continue
        following = readers.get(y.name, [])
        goes_on = not is_gate(step) and len(following) == 1 and _passes(following[0])
        (carried if goes_on else landed)[y.name] = image
    return landed


def constants(stage: Stage) -> Mapping[str, Value]:
    """Tensor name -> κ of the node that makes it, small enough to broadcast: biases, and what gates and
    normalisations add. None of them goes anywhere."""
    return {
        step.site.y.name: step.local.offset
        for step in reaching(frozen(stage), stage.head)
        if step.local.offset is not None
    }


def _image(g: Emit, step: Step, carried: Mapping[str, Value]) -> Value | None:
    """What the step makes of the images at its inputs, with its own constant; None without any."""
    with g.at(step.site.name), g.guarding(step.pushed):
        parts = [
            part.push(g, carried[x.name])
            for x, part in zip(step.site.node.inputs, step.local.maps, strict=False)
            if part is not None and x.name in carried
        ]
        if step.local.offset is not None:
            parts.append(step.local.offset)
        # A bias alone is small; maps and cotangents need the size of the tensor.
        return g.Expand(g.total(parts), g.Shape(step.site.y)) if parts else None


def is_gate(step: Step) -> bool:
    """Whether the step is an elementwise non-linearity, or a product with a gate."""
    op = step.site.op
    if op in PRODUCTS:
        return not _by_constant(step)
    return op not in LINEAR | TERMS | WEIGHTS | POOLS | FROZEN | frozenset(NORMS)


def _passes(step: Step) -> bool:
    """Whether an image goes through the step."""
    op = step.site.op
    return op not in WEIGHTS | POOLS and (op not in PRODUCTS or len(mapped(step)) == 1)


def _by_constant(step: Step) -> bool:
    """A product with a parameter, as an unfolded batch norm has it."""
    live = {x.name for x in mapped(step)}
    others: Sequence[Value] = [x for x in step.site.node.inputs if x.name and x.name not in live]
    return all(step.site.graph.constant(x) is not None for x in others) and len(live) == 1


__all__ = ["bias_images", "constants", "is_gate", "mapped", "reaching"]
