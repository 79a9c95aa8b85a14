"""The page of results, as markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.acceptance import acceptance, missed
from benchmarks.measure import Measured, Settings, faults
from benchmarks.table import machine, number, openings, reasons, spread, table
from benchmarks.timing import LEAST
from benchmarks.variants import FORWARD, GRADIENT, GROUPS, LANES, OUTPUTS, PEERS, RELEVANCE, STEPS

PACKAGES = ("onnxplain", "onnx", "onnxruntime", "torch", "captum", "zennit", "shap", "numpy")
WEIGHED = tuple(name for group in GROUPS for name in group.weighed)


def page(measured: Sequence[Measured], settings: Settings, load: float | None) -> str:
    quick = "A test of the script on small networks, not a result.\n\n" if settings.quick else ""
    wrong = "".join(f"**Not measured: {fault}.**\n\n" for fault in faults(measured))
    return f"""# onnxplain and its peers on the CPU

{quick}{wrong}{machine(settings.threads, PACKAGES, load)}
{_method(settings)}

## Targets

{acceptance(measured)}
Figures that miss their target: {missed(measured)}. The floor by bytes: what a forward and a backward pass have to move,
over what a forward pass moves (`benchmarks/floor.py`); where the time is arithmetic, the floor is 2.

{"".join(_batch(measured, size) for size in settings.batches)}## Agreement

Of torch forward: largest difference over the largest output (limit {OUTPUTS:g}). Of the rest: relative L2 distance to
onnxplain's map, limit {GRADIENT:g} (what remains is activations within rounding of a kink), {RELEVANCE:g} for
EpsilonPlus. In brackets: not the same definition, so no limit. The largest of all batches.

{_agreement(measured)}
{reasons([(m.title, m.unchecked) for m in measured])}
## Memory

MiB beyond the imports at batch {settings.batches[0]}, each in a process of its own: weights, and the largest moment
of a call.

{_per(measured, WEIGHED, lambda m, name: number(m.memory.get(name), "{:.0f}"))}
## The emitted file (saliency)

Over the model's. Sessions are created in fresh processes, median of three.

{openings([(m.title, m.opening) for m in measured])}
## Not run

{reasons([(m.title, m.missing) for m in measured])}- DIANNA's RISE: onnxplain has no counterpart yet.
"""


def _method(settings: Settings) -> str:
    return f"""\
float32, lowered for `{settings.lowering}`. The variants of a network that are compared run in one process, in a new
random order each round, calls shorter than a quarter of a second with an untimed call before each sample; a figure is
the median over the rounds (tenth to ninetieth percentile) of the time over that of another variant in the same round.
At most {settings.rounds.repeats} rounds, fewer of slow variants, at least {LEAST}. Same weights, same photos, same
number of threads; the top output element is explained, and everybody is told which one it is. Parameters need no
gradient in torch; it has modules of its own for GELU, attention and linear layers where the file has several nodes.
Untrained networks are seeded; their files have no BatchNormalization left to fold. Integrated gradients: {STEPS} steps
from zeros, captum with {LANES} of them at once for every sample (`internal_batch_size`). DeepLIFT, DeepExplainer: one
reference, zeros. LRP: ε = 1e-6, captum's 1e-9."""


def _batch(measured: Sequence[Measured], size: int) -> str:
    return f"""## Batch {size}: time as a multiple of the forward pass

{_ratios(measured, size)}
## Batch {size}: time of the others over onnxplain's

{_speedups(measured, size)}
"""


def _ratios(measured: Sequence[Measured], size: int) -> str:
    forward = [f"{m.batches[size].forward().median * 1e3:.1f} ms" for m in measured]
    names = [name for group in GROUPS for name in (*group.ours, *group.peers)]
    rows = [[f"{FORWARD} (= 1)", *forward]]
    for name in names:
        cells = [spread(m.batches[size].ratio(name)) for m in measured]
        if set(cells) != {"-"}:
            rows.append([name, *cells])
    return table(["", *(m.title for m in measured)], rows)


def _speedups(measured: Sequence[Measured], size: int) -> str:
    rows = []
    for name, peer in PEERS.items():
        cells = [spread(m.batches[size].ratio(name, peer.against)) for m in measured]
        if set(cells) != {"-"}:
            rows.append([f"{name} / {peer.against}", *cells])
    return table(["", *(m.title for m in measured)], rows)


def _agreement(measured: Sequence[Measured]) -> str:
    def cell(m: Measured, name: str) -> str:
        found = [gap for batch in m.batches.values() if (gap := batch.distance(name)) is not None]
        shown = number(max(found, default=None), "{:.1e}")
        return f"({shown})" if name in m.unchecked and found else shown

    return _per(measured, tuple(PEERS), cell)


def _per(measured: Sequence[Measured], names: Sequence[str], cell: Callable[[Measured, str], str]) -> str:
    rows = [[name, *(cell(m, name) for m in measured)] for name in names]
    return table(["", *(m.title for m in measured)], [row for row in rows if set(row[1:]) != {"-"}])
