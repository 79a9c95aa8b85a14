"""What every method costs, as a multiple of the forward pass: onnxplain on onnxruntime, on the CPU.

python benchmarks/methods.py [--networks efficientnet_lite0 resnet50] [--threads 2] [--repeats 9] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:  # run as a file: let `benchmarks` be found
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import onnxplain
from benchmarks.files import lowerings
from benchmarks.networks import NETWORKS, Floats, pictures, write
from benchmarks.table import machine, spread, table
from benchmarks.timing import Spread, fresh, interleave
from onnxplain.rewriter.errors import UnsupportedError
from onnxplain.runtime.providers import create_session

FORWARD = "forward"
SAMPLES = 8
"""Samples of the methods that average: a figure is then given per sample."""
OPTIONS: Mapping[str, Any] = {
    "steps": SAMPLES,
    "samples": SAMPLES,
    "low": -3.0,
    "high": 3.0,
    "estimator": "weights",
}
MAPS = [name for name, method in onnxplain.methods().items() if method.maps]
PACKAGES = ("onnxplain", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Costs:
    """One network: seconds of the forward pass, the ratio of each method to it, file sizes over the model's."""

    title: str
    forward: Spread
    ratios: Mapping[str, Spread]
    sizes: Mapping[str, float]
    missing: Mapping[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--networks", nargs="+", choices=sorted(NETWORKS), default=["efficientnet_lite0", "resnet50"]
    )
    parser.add_argument("--lowering", choices=lowerings(), default=lowerings()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--quick", action="store_true", help="small networks, two rounds: a test of the script"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "methods-cpu.md")
    args = parser.parse_args(arguments)
    repeats = min(2, args.repeats) if args.quick else args.repeats
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            print(f"{name} ...", file=sys.stderr, flush=True)
            model = fresh(write, name, Path(folder) / f"{name}.onnx", args.quick)
            x = fresh(pictures, model, 1)
            costs = fresh(_network, NETWORKS[name].title, model, x, args.threads, repeats, args.lowering)
            measured.append(costs)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(report(measured, args, repeats), encoding="utf-8")
    print(args.out.read_text(encoding="utf-8"))


def _network(title: str, model: Path, x: Floats, threads: int, repeats: int, lowering: str) -> Costs:
    """In groups, each beside the forward pass: all methods at once would fill the memory of a small machine."""
    plain = create_session(model, "cpu", threads=threads)
    name = plain.get_inputs()[0].name
    forward = partial(plain.run, None, {name: x})
    ratios: dict[str, Spread] = {}
    sizes: dict[str, float] = {}
    missing: dict[str, str] = {}
    seconds: list[np.ndarray] = []
    names = MAPS
    for start in range(0, len(names), 4):
        runs: dict[str, Callable[[], object]] = {FORWARD: forward}
        for method in names[start : start + 4]:
            try:
                runs[method], sizes[method] = _prepared(model, method, x, threads, lowering)
            except UnsupportedError as error:
                missing[method] = error.sites[0].reason
        times = interleave(runs, repeats)
        seconds.append(times.pop(FORWARD))
        ratios |= {
            method: Spread.of(values / seconds[-1] / _samples(method)) for method, values in times.items()
        }
    return Costs(title, Spread.of(np.concatenate(seconds)), ratios, sizes, missing)


def _prepared(
    model: Path, method: str, x: Floats, threads: int, lowering: str
) -> tuple[Callable[[], object], float]:
    known = onnxplain.methods()[method].options
    options = {key: value for key, value in OPTIONS.items() if key in known}
    explainer = onnxplain.compile(model, method, target="top", threads=threads, lowering=lowering, **options)
    size = explainer.model.ByteSize() / model.stat().st_size
    return partial(explainer, x), size


def _samples(method: str) -> int:
    options = onnxplain.methods()[method].options
    return SAMPLES if "steps" in options or "samples" in options else 1


def report(measured: Sequence[Costs], args: argparse.Namespace, repeats: int) -> str:
    """The whole page."""
    quick = "A test of the script on small networks, not a result.\n\n" if args.quick else ""
    rows = [["forward (= 1)", *(f"{m.forward.median * 1e3:.1f} ms" for m in measured)]]
    for method in MAPS:
        mark = ", per sample" if _samples(method) > 1 else ""
        cells = [spread(m.ratios[method]) if method in m.ratios else "-" for m in measured]
        rows.append([f"{method}{mark}", *cells])
    sizes = [
        [m.title, f"{max(m.sizes.values()):.3f} ({max(m.sizes, key=lambda k: m.sizes[k])})"] for m in measured
    ]
    gaps = [
        f"{m.title}: `{method}` is not defined ({why})."
        for m in measured
        for method, why in m.missing.items()
    ]
    return f"""# What every method costs on the CPU

{quick}{machine(args.threads, PACKAGES, None)}
Batch 1, float32, lowered for `{args.lowering}`, {repeats} rounds; time over that of the forward pass in the same
round, median (tenth to ninetieth percentile). Methods that average run {SAMPLES} samples, and the figure is the time of
one of them.

{table(["", *(m.title for m in measured)], rows)}
{" ".join(gaps)}

## File size over the model's, the largest of all methods

{table(["", "ratio"], sizes)}"""


if __name__ == "__main__":
    main()
