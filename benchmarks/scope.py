"""What a probe of the linear interpreter costs: rows and columns of F beside the dual batch and the forward pass.

python benchmarks/scope.py [--networks mobilenet-v2 resnet50 esrgan_slim_x4] [--probes 32] [--threads 2] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: let `benchmarks` be found
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import onnxplain
from benchmarks.networks import NETWORKS, Floats, pictures, write
from benchmarks.table import load, machine, spread, table
from benchmarks.timing import Spread, fresh, interleave
from onnxplain.runtime.providers import create_session

FORWARD, DUAL, DUAL_ONE, COLUMNS, ROWS = "forward", "dual batch", "dual batch, one probe", "columns", "rows"
BATCHED = " in one batch"
BRANCHES = 16
"""Probes of one run, each with a branch of its own."""
PACKAGES = ("onnxplain", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Costs:
    """Seconds a probe: of the forward pass, and of each way over it."""

    title: str
    forward: Spread
    ratios: Mapping[str, Spread]
    per_second: Mapping[str, float]
    error: float
    """Between the dual batch and the columns, over the largest value."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=sorted(NETWORKS),
        default=["mobilenet-v2", "resnet50", "esrgan_slim_x4"],
    )
    parser.add_argument("--probes", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small networks: a test of the script")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scope-cpu.md")
    args = parser.parse_args(arguments)
    busy = load()
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            print(f"{name} ...", file=sys.stderr, flush=True)
            model = fresh(write, name, Path(folder) / f"{name}.onnx", args.quick)
            x = fresh(pictures, model, 1)
            repeats = 1 if args.quick else args.repeats
            title = NETWORKS[name].title
            measured.append(fresh(_network, title, model, x, args.probes, args.threads, repeats))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(report(measured, args, busy), encoding="utf-8")
    print(args.out.read_text(encoding="utf-8"))


def _network(title: str, model: Path, x: Floats, probes: int, threads: int, repeats: int) -> Costs:
    plain = create_session(model, "cpu", threads=threads)
    name = plain.get_inputs()[0].name
    y = plain.run(None, {name: x})[0]
    rng = np.random.default_rng(0)
    tangents = rng.standard_normal((probes, *x.shape[1:]), dtype=np.float32)
    cotangents = rng.standard_normal((probes, *y.shape[1:]), dtype=np.float32)
    push, push_batch = (
        onnxplain.compile(model, "linearscope.columns", probes=n, threads=threads) for n in (BRANCHES, 0)
    )
    pull, pull_batch = (
        onnxplain.compile(model, "linearscope.rows", target="cotangent", probes=n, threads=threads)
        for n in (BRANCHES, 0)
    )
    both = onnxplain.compile(model, "linearscope.dual", threads=threads)
    starts = range(0, probes, BRANCHES)
    runs: dict[str, Callable[[], object]] = {
        FORWARD: lambda: plain.run(None, {name: x}),
        DUAL: lambda: [
            both(np.concatenate([np.repeat(x, BRANCHES, 0), tangents[i : i + BRANCHES]])) for i in starts
        ],
        DUAL_ONE: lambda: both(np.concatenate([x, tangents[:1]])),
        COLUMNS: lambda: [push(x, tangent=tangents[i : i + BRANCHES]) for i in starts],
        ROWS: lambda: [pull(x, cotangent=cotangents[i : i + BRANCHES]) for i in starts],
        COLUMNS + BATCHED: lambda: [push_batch(x, tangent=tangents[i : i + BRANCHES]) for i in starts],
        ROWS + BATCHED: lambda: [pull_batch(x, cotangent=cotangents[i : i + BRANCHES]) for i in starts],
    }
    times = interleave(runs, repeats)
    times = {key: value / (1 if key in (FORWARD, DUAL_ONE) else probes) for key, value in times.items()}
    forward = times.pop(FORWARD)
    error = _agreement(both, push, x, tangents[:BRANCHES])
    return Costs(
        title,
        Spread.of(forward),
        {key: Spread.of(value / forward) for key, value in times.items()},
        {key: 1.0 / float(np.median(value)) for key, value in times.items()},
        error,
    )


def _agreement(both: onnxplain.Explainer, push: onnxplain.Explainer, x: Floats, tangents: Floats) -> float:
    """The dual batch says F t + r, the columns F t: their difference is the same for every probe, relative
    to the largest value."""
    linear = next(iter(both(np.concatenate([np.repeat(x, BRANCHES, 0), tangents])).outputs.values()))[
        BRANCHES:
    ]
    rest = linear - push(x, tangent=tangents).results["response"]
    return float(np.abs(rest - rest[:1]).max() / np.abs(linear).max())


def report(measured: Sequence[Costs], args: argparse.Namespace, busy: float | None) -> str:
    """The whole page."""
    quick = "A test of the script on small networks, not a result.\n\n" if args.quick else ""
    titles = [m.title for m in measured]
    rows = [["forward (= 1)", *(f"{m.forward.median * 1e3:.1f} ms" for m in measured)]]
    rows += [[key, *(spread(m.ratios[key]) for m in measured)] for key in measured[0].ratios]
    for key in (COLUMNS, ROWS):
        gain = [
            min(m.ratios[DUAL].median, m.ratios[DUAL_ONE].median)
            / min(m.ratios[key].median, m.ratios[key + BATCHED].median)
            for m in measured
        ]
        rows.append([f"better dual batch / better {key}", *(f"{value:.2f}" for value in gain)])
    speed = [
        [key, *(f"{max(m.per_second[key], m.per_second[key + BATCHED]):.1f}" for m in measured)]
        for key in (COLUMNS, ROWS)
    ]
    apart = [["dual batch and columns", *(f"{m.error:.1e}" for m in measured)]]
    return f"""# What a probe of the linear interpreter costs

{quick}{machine(args.threads, PACKAGES, busy)}
{args.probes} probes of one picture, float32; seconds of a probe over those of the forward pass in the same round,
median (tenth to ninetieth percentile) of {args.repeats} rounds. Columns (F t) and rows (F' c): {BRANCHES}
probes a run, each with a branch of its own over shared masks, winners and weights; "in one batch": as many through the
file that takes any number. Dual batch, the paper's form: {BRANCHES} probes and as many copies of the picture a run, or
one of each.

{table(["time of a probe / forward", *titles], rows)}

{table(["a second", *titles], speed)}

{table(["largest difference over the largest value", *titles], apart)}"""


if __name__ == "__main__":
    main()
