"""Where the samples are behind each operator, from where they are before it: one rule a kind.

A rule sees a node with at least one input whose samples are counted along an axis, and none whose samples are mixed. It
gives `Along`, None (the output depends on no sample: sizes) or `Mixed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..rows import Along, Mixed, Place
from .batch_trial import Trial, mixed, on

if TYPE_CHECKING:
    from ..graph import Node, Value

END = 2**31 - 1


def aligned(trial: Trial, node: Node, inputs: Sequence[Value], y: Value) -> Place:
    """Broadcasting: axes are counted from the last one. All that depend on samples must count them alike."""
    rank, found = trial.rank(y), set[Along]()
    for x in inputs:
        place, mine = trial.place(x), trial.rank(x) if x.name else None
        if isinstance(place, Along):
            if rank is None or mine is None:
                return trial.grown(node, place, y)
            found.add(place.at(place.axis + rank - mine))
    if len(found) > 1:
        return mixed(node, "meets samples along one axis with samples along another")
    return next(iter(found))


@on(
    *"Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike "
    "Ceil Celu Clip Cos Cosh DequantizeLinear Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual "
    "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or "
    "PRelu Pow QuantizeLinear Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum "
    "Swish Tan Tanh ThresholdedRelu Where Xor".split()
)
def pointwise(trial: Trial, node: Node) -> Place:
    return aligned(trial, node, node.inputs, node.outputs[0])


@on("Expand")
def expand(trial: Trial, node: Node) -> Place:
    return aligned(trial, node, node.inputs[:1], node.outputs[0])


@on("Shape", "Size", "ConstantOfShape", "Range", "RandomNormalLike", "RandomUniformLike", "EyeLike")
def sizes(trial: Trial, node: Node) -> Place:
    return None


def only(trial: Trial, node: Node) -> Along | Mixed:
    """The place of the data; what an operator reads besides must not depend on a sample."""
    first, *rest = (trial.place(x) for x in node.inputs)
    if any(rest) or not isinstance(first, Along):
        return mixed(node, "takes its weights, axes or indices from the samples")
    return first


def kept(trial: Trial, node: Node, free: Callable[[int, int], bool], *, window: bool = False) -> Place:
    """The axis stays, if the operator works on none but other ones: free(axis, rank)."""
    place, rank = only(trial, node), trial.rank(node.inputs[0])
    if isinstance(place, Mixed):
        return place
    if rank is None:
        return trial.grown(node, place, node.outputs[0])
    if not free(place.axis, rank):
        return mixed(node, f"works along axis {place.axis}", window=window)
    return place


@on(*"Conv ConvTranspose ConvInteger QLinearConv DeformConv LRN Col2Im".split())
def convolution(trial: Trial, node: Node) -> Place:
    """Sums over axis 1, slides over the later ones."""
    return kept(trial, node, lambda axis, rank: axis == 0, window=True)


@on(
    *"MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool BatchNormalization "
    "InstanceNormalization DepthToSpace SpaceToDepth".split()
)
def by_channel(trial: Trial, node: Node) -> Place:
    """Each channel by itself; pixels change places with channels."""
    free = 1 if node.op in ("DepthToSpace", "SpaceToDepth") else 2
    data = trial.place(node.inputs[0])
    if node.op == "BatchNormalization" and isinstance(data, Along) and not node.attrs.get("training_mode"):
        return data
    return kept(trial, node, lambda axis, rank: axis < free, window=True)


@on("GroupNormalization", "GridSample")
def by_sample(trial: Trial, node: Node) -> Place:
    found = {trial.place(x) for x in node.inputs} - {None}
    return Along(0) if found == {Along(0)} else mixed(node, "has its samples along axis 0")


@on("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(trial: Trial, node: Node) -> Place:
    first = int(node.attrs.get("axis", -1))
    return kept(trial, node, lambda axis, rank: axis < first % rank)


@on(*"Softmax LogSoftmax Hardmax LpNormalization".split())
def along_one(trial: Trial, node: Node) -> Place:
    own = int(node.attrs.get("axis", -1))
    return kept(trial, node, lambda axis, rank: axis != own % rank)


@on("MeanVarianceNormalization")
def standardised(trial: Trial, node: Node) -> Place:
    own = [int(axis) for axis in node.attrs.get("axes", (0, 2, 3))]
    return kept(trial, node, lambda axis, rank: axis not in [a % rank for a in own])


@on("TopK")
def ranked(trial: Trial, node: Node) -> Place:
    own = int(node.attrs.get("axis", -1))
    return kept(trial, node, lambda axis, rank: axis != own % rank)


@on("CumSum")
def running(trial: Trial, node: Node) -> Place:
    own = ints(trial, node, 1)
    return kept(trial, node, lambda axis, rank: own is not None and axis != own[0] % rank)


@on("Trilu")
def triangle(trial: Trial, node: Node) -> Place:
    return kept(trial, node, lambda axis, rank: axis < rank - 2)


@on("ArgMax", "ArgMin")
def extreme(trial: Trial, node: Node) -> Place:
    return dropped(trial, node, [int(node.attrs.get("axis", 0))])


@on(*(f"Reduce{kind}" for kind in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()))
def reduced(trial: Trial, node: Node) -> Place:
    """Of `axes`, all of them where none is named."""
    given = ints(trial, node, 1)
    if given is None and len(node.inputs) > 1 and node.inputs[1].name:
        return grown(trial, node)
    own = given or [int(axis) for axis in node.attrs.get("axes") or ()]
    if not own and not node.attrs.get("noop_with_empty_axes"):
        own = list(range(trial.rank(node.inputs[0]) or 1))
    return dropped(trial, node, own)


def dropped(trial: Trial, node: Node, axes: Sequence[int]) -> Place:
    place = kept(trial, node, lambda axis, rank: axis not in [a % rank for a in axes])
    rank = trial.rank(node.inputs[0])
    if not isinstance(place, Along) or rank is None or int(node.attrs.get("keepdims", 1)):
        return place
    return place.at(place.axis - sum(a % rank < place.axis for a in set(axes)))


@on("Transpose")
def transposed(trial: Trial, node: Node) -> Place:
    place, rank = only(trial, node), trial.rank(node.inputs[0])
    if isinstance(place, Mixed) or (rank is None and "perm" not in node.attrs):
        return place if isinstance(place, Mixed) else grown(trial, node)
    perm = [int(axis) for axis in node.attrs.get("perm") or range(rank or 0)[::-1]]
    return place.at(perm.index(place.axis))


@on("Reshape", "Flatten")
def reshaped(trial: Trial, node: Node) -> Place:
    place = only(trial, node)
    return place if isinstance(place, Mixed) else trial.moved(node, node.inputs[0], place, node.outputs[0])


@on("Unsqueeze", "Squeeze")
def squeezed(trial: Trial, node: Node) -> Place:
    place, given, rank = only(trial, node), ints(trial, node, 1), trial.rank(node.inputs[0])
    if isinstance(place, Mixed):
        return place
    if given is None or rank is None:
        return trial.moved(node, node.inputs[0], place, node.outputs[0])
    if node.op == "Squeeze":
        gone = {axis % rank for axis in given}
        if place.axis in gone:
            return mixed(node, f"drops axis {place.axis}: it takes one sample alone", single=True)
        return place.at(place.axis - sum(axis < place.axis for axis in gone))
    new = {axis % (rank + len(given)) for axis in given}
    return place.at([axis for axis in range(rank + len(given)) if axis not in new][place.axis])


@on("Tile")
def tiled(trial: Trial, node: Node) -> Place:
    place, times = only(trial, node), ints(trial, node, 1)
    if isinstance(place, Mixed) or times is None:
        return place if isinstance(place, Mixed) else grown(trial, node)
    return Along(place.axis, place.before * times[place.axis], place.after)


@on("Concat")
def joined(trial: Trial, node: Node) -> Place:
    """Along another axis than theirs the samples stay. k tensors of N samples along theirs are k · N."""
    rank = trial.rank(node.outputs[0])
    found = {trial.place(x) for x in node.inputs} - {None}
    if rank is None or len(found) != 1:
        return mixed(node, "joins tensors whose samples are counted along different axes")
    (place,) = found
    if not isinstance(place, Along) or place.axis != int(node.attrs["axis"]) % rank:
        return place
    if any(trial.place(x) is None for x in node.inputs):
        return mixed(node, f"joins the samples along axis {place.axis} with a tensor that has none")
    return Along(place.axis, place.before * len(node.inputs), place.after)


@on("Split")
def parted(trial: Trial, node: Node) -> Sequence[Place] | Place:
    place, rank, count = only(trial, node), trial.rank(node.inputs[0]), len(node.outputs)
    if isinstance(place, Mixed) or rank is None or place.axis != int(node.attrs.get("axis", 0)) % rank:
        return place
    given = ints(trial, node, 1)
    if place.before % count or (given is not None and len(set(given)) > 1):
        return mixed(node, f"cuts along axis {place.axis}")
    return Along(place.axis, place.before // count, place.after)


@on("Slice", "Pad")
def cut(trial: Trial, node: Node) -> Place:
    """Along other axes, or nothing cut off and nothing added; backwards would be another order."""
    place, at = only(trial, node), 3
    if isinstance(place, Mixed):
        return place
    rank, axes = trial.rank(node.inputs[0]), ints(trial, node, at)
    first = ints(trial, node, 1)
    if axes is None and node.op == "Slice" and first is not None:
        axes = list(range(len(first)))
    if rank is not None and axes is not None and place.axis not in [axis % rank for axis in axes]:
        return place
    old, new = trial.sizes(node.inputs[0]), trial.sizes(node.outputs[0])
    same = (
        old is not None
        and new is not None
        and all(a[place.axis] == b[place.axis] for a, b in zip(old, new, strict=True))
    )
    steps = ints(trial, node, 4) if node.op == "Slice" else None
    if (same or _whole(trial, node, axes, place, rank)) and not (steps and min(steps) < 0):
        return place
    return mixed(node, f"cuts or lengthens axis {place.axis}")


def _whole(trial: Trial, node: Node, axes: Sequence[int] | None, place: Along, rank: int | None) -> bool:
    """Whether a Slice is from 0 to the end, or a Pad adds nothing, as far as constants tell."""
    starts = ints(trial, node, 1)
    if starts is None:
        return False
    if node.op == "Pad":
        own = list(range(len(starts) // 2)) if axes is None else [axis % (rank or 1) for axis in axes]
        i = own.index(place.axis) if place.axis in own else None
        return i is None or (starts[i] == 0 and starts[i + len(own)] == 0)
    ends = ints(trial, node, 2)
    if ends is None or axes is None or rank is None:
        return False
    i = [axis % rank for axis in axes].index(place.axis)
    return starts[i] == 0 and ends[i] >= END


@on("Resize", "Upsample")
def resized(trial: Trial, node: Node) -> Place:
    place = only(trial, node)
    if isinstance(place, Mixed):
        return place
    old, new = trial.sizes(node.inputs[0]), trial.sizes(node.outputs[0])
    if old is None or new is None:
        return kept(trial, node, lambda axis, rank: axis == 0, window=True)
    ends = [(a[place.axis], b[place.axis]) for a, b in zip(old, new, strict=True)]
    if all(a == b for a, b in ends):
        return place
    single = place == Along(place.axis) and all(b == 1 for _, b in ends)
    return mixed(node, f"resizes axis {place.axis}", window=not single, single=single)


def grown(trial: Trial, node: Node) -> Place:
    """As of an operator that nobody knows."""
    (place, *_) = (found for found in map(trial.place, node.inputs) if isinstance(found, Along))
    return trial.grown(node, place, node.outputs[0])


def ints(trial: Trial, node: Node, i: int) -> list[int] | None:
    """Input i as constant integers."""
    if i >= len(node.inputs) or not node.inputs[i].name:
        return None
    array = trial.graph.constant(node.inputs[i])
    return None if array is None else [int(value) for value in array.ravel()]


__all__ = ["grown", "ints", "only"]
