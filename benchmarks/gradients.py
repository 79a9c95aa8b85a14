"""Gradient methods side by side: onnxplain on onnxruntime, torch.autograd and captum, on the CPU.

python benchmarks/gradients.py [--networks resnet50 unet] [--threads 2] [--repeats 15] [--batch 1] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: let `benchmarks` be found
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import table
from benchmarks.files import compile_file, file_cost
from benchmarks.networks import DEFAULT, NETWORKS, QUICK, pictures, write
from benchmarks.table import Measured
from benchmarks.timing import fresh, interleave, peak_memory
from benchmarks.variants import FORWARD, METHODS, VARIANTS, WEIGHED, Floats, make, missing, reference

LOGITS = 1e-4
"""Largest difference of an output to onnxruntime's, over the largest output."""
GRADIENT = 0.05
"""Relative L2 distance of an attribution to onnxplain's. Not rounding: an activation that lies within rounding
of a kink falls on either side of it, which opens or shuts a path of the network. Between float32 and float64 in
torch alone this makes up to a few hundredths in deep networks; a wrong rule makes about 1."""

BUSY = 0.5
"""Load before the start above which a warning is printed."""

PACKAGES = ("onnxplain", "onnx", "onnxruntime", "torch", "captum", "numpy")


class DisagreementError(RuntimeError):
    """Two variants that should compute the same do not: their times cannot be compared."""


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    out: Path = args.out
    out.parent.mkdir(parents=True, exist_ok=True)
    load = table.load()
    if load is not None and load > BUSY:
        print(f"the machine is busy (load {load:.1f}): the figures will not be good", file=sys.stderr)
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            print(f"{name} ...", file=sys.stderr, flush=True)
            measured.append(_network(name, Path(folder), args))
            for file in Path(folder).iterdir():
                file.unlink()
    out.write_text(report(measured, args, load), encoding="utf-8")
    from benchmarks.plot import bars

    bars(measured, out.with_suffix(".png"), f"batch {args.batch}, {args.threads} threads")
    print(out.read_text(encoding="utf-8"))


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=None)
    parser.add_argument("--threads", type=int, default=2, help="inside one operator, for all")
    parser.add_argument("--repeats", type=int, default=15, help="rounds")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--quick", action="store_true", help="small networks, three rounds: a test of the script"
    )
    parser.add_argument("--out", type=Path, default=None, help="the table; the plot goes beside it")
    args = parser.parse_args(given)
    args.networks = args.networks or (QUICK if args.quick else DEFAULT)
    if args.quick:
        args.repeats = min(args.repeats, 3)
    if min(args.threads, args.repeats, args.batch) < 1:
        parser.error("--threads, --repeats and --batch must be at least 1")
    if args.out is None:
        name = "gradients-quick.md" if args.quick else "gradients-cpu.md"
        args.out = Path(__file__).parent / "results" / name
    return args


def _network(name: str, folder: Path, args: argparse.Namespace) -> Measured:
    """Every part in a process of its own: nothing is warm, or fills the memory, because of what ran before."""
    model = fresh(write, name, folder / f"{name}.onnx", args.quick)
    files = {"forward": model} | {method: folder / f"{name}.{method}.onnx" for method in METHODS}
    x = fresh(pictures, model, args.batch)
    cost = file_cost(model, files["saliency"], "saliency", args.threads, 1 if args.quick else 3)
    for method in METHODS[1:]:
        fresh(compile_file, model, files[method], method)
    gaps = {variant: why for variant in VARIANTS if (why := missing(variant, model)) is not None}
    wanted = [variant for variant in VARIANTS if variant not in gaps]
    sample = 0.0 if args.quick else 0.1
    times, distances = fresh(_time, wanted, files, x, args.threads, args.repeats, sample)
    memory = {
        variant: fresh(_memory, variant, files, x, args.threads) for variant in WEIGHED if variant in wanted
    }
    return Measured(NETWORKS[name].title, times, gaps, distances, memory, cost)


def _time(
    variants: Sequence[str], files: Mapping[str, Path], x: Floats, threads: int, repeats: int, sample: float
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    runs = {variant: make(variant, files, x, threads) for variant in variants}
    distances = check({variant: run() for variant, run in runs.items()})
    return interleave(runs, repeats, sample), distances


def check(results: Mapping[str, Floats]) -> dict[str, float]:
    """Distance of every result to that of its counterpart on onnxruntime. Raises DisagreementError."""
    distances: dict[str, float] = {}
    for variant, result in results.items():
        partner = reference(variant)
        if partner is None:
            continue
        distance, limit = _distance(result, results[partner], partner == FORWARD)
        if not distance <= limit:
            raise DisagreementError(f"{variant} and {partner} differ by {distance:.2e}, more than {limit}")
        distances[variant] = distance
    return distances


def _distance(a: Floats, b: Floats, outputs: bool) -> tuple[float, float]:
    if a.shape != b.shape:
        raise DisagreementError(f"results of the shapes {a.shape} and {b.shape}")
    if outputs:
        return float(np.abs(a - b).max() / np.abs(b).max()), LOGITS
    return float(np.linalg.norm((a - b).astype(np.float64)) / np.linalg.norm(b.astype(np.float64))), GRADIENT


def _memory(variant: str, files: Mapping[str, Path], x: Floats, threads: int) -> float | None:
    who = variant.split(" ")[0]
    if who in ("torch", "captum"):  # libraries are no part of what a call needs
        import captum.attr  # noqa: F401

        import benchmarks.twin  # noqa: F401
    return peak_memory(partial(make, variant, files, x, threads))


def report(measured: Sequence[Measured], args: argparse.Namespace, load: float | None) -> str:
    """The whole page."""
    quick = "A test of the script on small networks, not a result.\n\n" if args.quick else ""
    return f"""# Gradient methods on the CPU: onnxplain, torch and captum

{quick}{table.machine(args.threads, PACKAGES, load)}
Batch {args.batch}, float32. All variants of a network run in one process, {args.repeats} rounds, in a new random
order each round, one untimed call before each sample; a figure is the median over the rounds (tenth to ninetieth
percentile) of the time over that of another variant in the same round. Same weights, same photos, same number of
threads; the top output element is explained (captum is told which one it is, the others find it). Parameters need
no gradient in torch. Untrained networks are seeded; their files have no BatchNormalization left to fold.

## Time as a multiple of the forward pass

{table.ratios(measured)}
{table.reasons(measured)}
## Speed-up: time of the others over onnxplain's

{table.speedups(measured)}
## Agreement

Of torch forward: largest difference over the largest output (limit {LOGITS}). Of the rest: relative L2 distance
to onnxplain's map (limit {GRADIENT}; what remains is activations within rounding of a kink).

{table.agreement(measured)}
## The emitted file (saliency)

Compiling is reading, compiling and writing the file, against reading and writing it with onnx; medians over fresh
processes, without imports.

{table.costs([(m.title, m.cost) for m in measured])}
## Memory

MiB beyond the imports, in a process of its own: weights, and the largest moment of a call.

{table.memory(measured)}"""


if __name__ == "__main__":
    main()
