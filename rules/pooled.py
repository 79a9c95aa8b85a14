"""Whether a head is mean-pooled and linear, as the original CAM needs it. Each node from the layer to the logits is
looked at."""

from __future__ import annotations

from collections.abc import Sequence

from ..rewriter.errors import Obstacle
from ..rewriter.graph import Value
from ..rewriter.site import Site
from ..rewriter.tape import Step

REASON = "CAM needs a mean-pooled linear head"
PASSING = frozenset({"Identity", "Dropout", "Cast"})
SUMS = frozenset({"Add", "Sub"})
LINEAR = (
    PASSING
    | SUMS
    | frozenset(
        "Flatten Reshape Squeeze Unsqueeze Transpose Gemm MatMul Conv Mul Div BatchNormalization Concat Slice "
        "ReduceMean ReduceSum GlobalAveragePool AveragePool".split()
    )
)
"""What may follow the pool, with one activation among its inputs unless it adds or joins."""


def unpooled(steps: Sequence[Step], layer: Value, channels: int, head: Value) -> list[Obstacle]:
    """The nodes between the layer and the head that do not let z_c = mean over cells Σ_k w_ck A_k + b_c.

    Before the mean over all cells: operators that treat every cell alike (a 1x1 convolution, a scale and shift of
    each channel, a mean over tiles). After it: linear operators.
    """
    spread = {layer.name: channels}  # tensors that still have cells -> their axis of channels
    odd: list[Obstacle] = []
    for step in steps:
        site = step.site
        axes = {spread[x.name] for x in _active(site) if x.name in spread}
        if not axes:
            fine = site.op in LINEAR and (len(_active(site)) == 1 or site.op in SUMS | {"Concat"})
            fine = fine and (site.op != "Div" or site.active[0])
        else:
            pools = _pools(site, spread)
            axis = _kept(site, axes.pop()) if len(axes) == 1 and not pools else None
            fine = pools or axis is not None
            if axis is not None:
                spread[site.y.name] = axis
        if not fine:
            odd.append(Obstacle(site.op, site.name, REASON))
    if not odd and head.name in spread:
        odd.append(Obstacle(steps[-1].site.op, steps[-1].site.name, f"{REASON}; nothing pools the cells") if steps
                   else Obstacle("input", layer.name, f"{REASON}; the layer is the target itself"))  # fmt: skip
    return odd


def _active(site: Site) -> list[Value]:
    return [x for x, on in zip(site.node.inputs, site.active, strict=True) if on]


def _pools(site: Site, spread: dict[str, int]) -> bool:
    """Whether a node takes the mean over all cells."""
    x = site.data
    channels = spread.get(x.name)
    if channels is None or len(_active(site)) != 1:
        return False
    if site.op == "ReduceMean":
        axes = site.constant(1)
        return axes is not None and {int(a) % site.rank for a in axes.ravel()} == {
            axis for axis in range(1, site.rank) if axis != channels
        }
    if channels != 1:
        return False
    whole = site.y.shape is not None and all(dim == 1 for dim in site.y.shape[2:])
    return site.op == "GlobalAveragePool" or (
        site.op == "AveragePool" and whole and not any(site.attr("pads", ())) and _covers(site)
    )


def _tiles(site: Site) -> bool:
    """Whether each cell is in one window of a pool, and all windows are alike: a mean of means is the mean."""
    window, sizes = list(site.attr("kernel_shape", ())), site.data.shape[2:]
    fits = all(isinstance(size, int) and size % k == 0 for size, k in zip(sizes, window, strict=True))
    dense = set(site.attr("dilations", (1,))) == {1} and not any(site.attr("pads", ()))
    return fits and dense and list(site.attr("strides", ())) == window


def _covers(site: Site) -> bool:
    """Whether the window of a pool is the whole input."""
    return list(site.attr("kernel_shape", ())) == list(site.data.shape[2:])


def _kept(site: Site, axis: int) -> int | None:
    """The axis of channels behind a node that treats all cells alike, or None for another node."""
    active = _active(site)
    if site.op in PASSING or (site.op == "BatchNormalization" and axis == 1):
        return axis
    if site.op == "AveragePool":
        return 1 if axis == 1 and _tiles(site) else None
    if site.op == "Transpose":
        return [int(i) for i in site.attr("perm", range(site.rank)[::-1])].index(axis)
    if site.op == "Conv":
        point = {*site.attr("kernel_shape", (0,)), *site.attr("strides", (1,))} == {1}
        return 1 if axis == 1 and len(active) == 1 and point and not any(site.attr("pads", ())) else None
    if site.op == "MatMul":
        weight = site.input(1)
        flat = weight is not None and weight.shape is not None and len(weight.shape) == 2
        return axis if flat and active == [site.data] and axis == site.rank - 1 else None
    if site.op in SUMS and len(active) > 1:
        return axis if len({tuple(x.shape) for x in active}) == 1 else None
    if site.op in SUMS | {"Mul", "Div"} and len(active) == 1:
        if site.op == "Div" and active != [site.data]:
            return None
        rank = len(active[0].shape)
        return axis if all(_by_channel(x, rank, axis) for x in site.x if x not in active) else None
    return None


def _by_channel(x: Value | None, rank: int, axis: int) -> bool:
    """Whether an operand is the same at every cell."""
    if x is None or x.shape is None or len(x.shape) > rank:
        return False
    lead = rank - len(x.shape)
    return all(dim == 1 or lead + i in (0, axis) for i, dim in enumerate(x.shape))
