"""What a window costs: incremental recomputation beside batches of whole copies, and prediction differences end to end.

python benchmarks/perturb.py [--networks vgg16 resnet50 ...] [--threads 2] [--runs 6] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

if not __package__:  # run as a file: let `benchmarks` be found
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.networks import NETWORKS, Floats, pictures, write
from benchmarks.table import load, machine, spread, table
from benchmarks.timing import Spread, fresh, interleave
from onnxplain.runtime.perturb.difference import corners
from onnxplain.runtime.perturb.gaussian import Gaussian, Surroundings
from onnxplain.runtime.perturb.probing import Asked, Places, Prober

DEFAULT = ("vgg16", "resnet50", "mobilenet-v2", "efficientnet_lite0", "small-cnn", "mnist_lenet")
WINDOW = {"mnist_lenet": 4}
BATCH = {"mnist_lenet": 128, "small-cnn": 128}
PACKAGES = ("onnxplain", "onnx", "onnxruntime", "numpy")
SAMPLES, PATCH = 10, 18
ROUNDS = 3
"""Of the end to end table."""
PAIRS = (("small-cnn", True), ("vgg16", False))
"""Networks of the end to end table; True: ours is run to its end."""


@dataclass(frozen=True)
class Cost:
    """Of one network. places: windows of an image; full, ratio: milliseconds of a whole copy, and that over those of a
    window; bound: multiplications saved; error: largest difference over the largest change of a score."""

    title: str
    k: int
    places: int
    full: float
    ratio: Spread
    bound: float
    error: float


@dataclass(frozen=True)
class Ends:
    """Seconds of prediction differences over a whole image; forwards: of Algorithm 1. measured: windows that each was
    timed on."""

    title: str
    places: int
    seconds: tuple[float, float, float]
    measured: tuple[int, int, int]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=list(DEFAULT))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=6, help="batches of windows that a time is taken over")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small networks: a test of the script")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "perturb-cpu.md")
    args = parser.parse_args(arguments)
    busy, costs, ends = load(), [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.networks:
            print(f"{name} ...", file=sys.stderr, flush=True)
            model = fresh(write, name, Path(folder) / f"{name}.onnx", args.quick)
            image = fresh(_image, model)
            repeats = 1 if args.quick else args.repeats
            costs.append(fresh(_cost, name, model, image, args.threads, args.runs, repeats))
            for pair, whole in PAIRS:
                if name == pair:
                    ends.append(fresh(_ends, name, model, image, args.threads, whole))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(report(costs, ends, args, busy), encoding="utf-8")
    print(args.out.read_text(encoding="utf-8"))


def _image(model: Path) -> Floats:
    if model.stem == "mnist_lenet":
        return np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    return pictures(model, 1)


def _cost(name: str, model: Path, image: Floats, threads: int, runs: int, repeats: int) -> Cost:
    k, batch = WINDOW.get(name, 10), BATCH.get(name, 32)
    full, cone = (
        Prober(model, image, Asked("logit", batch=batch, threads=threads, engine=e))
        for e in ("full", "incremental")
    )
    places = corners(full.size, k)
    engine = cone.incremental((k, k), len(places))
    assert engine is not None, "asked for"
    rng = np.random.default_rng(0)
    full_runs = [run for run in engine.runs(places) if len(run) == batch]
    chosen = [full_runs[i] for i in rng.choice(len(full_runs), min(runs, len(full_runs)), replace=False)]
    fill = rng.standard_normal((batch, full.channels, k, k)).astype(np.float32)
    copies = np.repeat(image, batch, axis=0)
    calls: dict[str, Callable[[], object]] = {
        "full": lambda: full.scores(copies),
        "cone": lambda: [cone.windows(places[run], (k, k), fill.__getitem__, cone=engine) for run in chosen],
    }
    times = interleave(calls, repeats)
    whole, window = times["full"] / batch, times["cone"] / (batch * len(chosen))
    return Cost(
        NETWORKS[name].title,
        k,
        len(places),
        float(np.median(whole)) * 1e3,
        Spread.of(whole / window),
        engine.cone.plan.gain,
        _error(full, cone, places, k),
    )


def _error(full: Prober, cone: Prober, places: Places, k: int) -> float:
    """Over 64 windows of noise, the four corners among them, of the largest change of a logit."""
    rng = np.random.default_rng(1)
    some = places[np.concatenate([[0, len(places) - 1], rng.choice(len(places), 62, replace=False)])]
    fill = 2 * rng.standard_normal((64, full.channels, k, k)).astype(np.float32)
    wanted, found = (p.windows(some, (k, k), fill.__getitem__) for p in (full, cone))
    return float(np.abs(wanted - found).max() / np.abs(wanted - full.base).max())


def _ends(name: str, model: Path, image: Floats, threads: int, whole: bool) -> Ends:
    """Algorithm 1 over whole copies, as published; Algorithm 1 and 2 over the incremental engine. Fills of one model of
    patches, made by the same code."""
    k, batch = WINDOW.get(name, 10), BATCH.get(name, 32)
    full, cone = (
        Prober(model, image, Asked(batch=batch, threads=threads, engine=e)) for e in ("full", "incremental")
    )
    places = corners(full.size, k)
    around = Surroundings(_smooth(full.channels), full.planes, (k, k))
    engine = cone.incremental((k, k), len(places))
    assert engine is not None, "asked for"
    order = np.concatenate(list(engine.runs(places)))
    rng = np.random.default_rng(0)
    few = order[rng.choice(len(order) // batch, 4, replace=False)[:, None] * batch + np.arange(batch)].ravel()
    sets = {"original": few[:16], "sampling": few[: 2 * batch], "mean": order if whole else few}
    seconds = {kind: np.zeros(ROUNDS) for kind in sets}
    for i in range(ROUNDS):  # in turn, so that a slow moment of the machine hits none of them alone
        for kind, chosen in sets.items():
            prober, given = (full, None) if kind == "original" else (cone, engine)
            times = 1 if kind == "mean" else SAMPLES
            repeated = np.repeat(places[chosen], times, axis=0)

            def fills(
                at: npt.NDArray[np.int64], chosen: Places = chosen, once: bool = kind == "mean"
            ) -> Floats:
                if once:
                    return np.asarray(around.means(places[chosen[at]]), np.float32)
                return _drawn(around, places[chosen], at)

            prober.windows(repeated[:batch], (k, k), fills, cone=given)
            start = time.perf_counter()
            prober.windows(repeated, (k, k), fills, cone=given)
            seconds[kind][i] = (time.perf_counter() - start) / len(chosen) * len(places)
    counts = tuple(len(chosen) for chosen in sets.values())
    medians = tuple(float(np.median(values)) for values in seconds.values())
    return Ends(NETWORKS[name].title, len(places), medians, counts)  # type: ignore[arg-type]


def _drawn(around: Surroundings, places: Places, at: npt.NDArray[np.int64]) -> Floats:
    """One sample an index: windows come SAMPLES times, one after the other."""
    where, of = np.unique(at // SAMPLES, return_inverse=True)
    found = around.samples(places[where], SAMPLES, lambda r, c: np.random.default_rng((r, c)))
    return np.asarray(found[of, at % SAMPLES], np.float32)


def _smooth(channels: int) -> Gaussian:
    """Patches whose correlation falls with distance, as those of photos do."""
    cells = np.stack(np.meshgrid(np.arange(PATCH), np.arange(PATCH), indexing="ij"), -1).reshape(-1, 2)
    apart = np.linalg.norm(cells[:, None] - cells[None], axis=-1)
    cov = np.repeat(0.3 * np.exp(-apart / 4.0)[None], channels, axis=0)
    return Gaussian(np.zeros((channels, PATCH * PATCH)), cov, PATCH)


def report(costs: Sequence[Cost], ends: Sequence[Ends], args: argparse.Namespace, busy: float | None) -> str:
    quick = "A test of the script on small networks, not a result.\n\n" if args.quick else ""
    rows = [
        [
            c.title,
            f"{c.k}",
            f"{c.places}",
            f"{c.full:.2f} ms",
            spread(c.ratio),
            f"{c.bound:.1f}",
            f"{c.error:.0e}",
            f"{c.full * c.places / 6e4:.1f} -> {c.full / c.ratio.median * c.places / 6e4:.2f} min",
        ]
        for c in costs
    ]
    head = ["", "window", "places", "whole copy", "whole / incremental", "bound", "error", "an image"]
    more = [
        [
            e.title,
            f"{e.places}",
            *(f"{s:,.0f} s ({n} windows)" for s, n in zip(e.seconds, e.measured, strict=True)),
            f"**{e.seconds[1] / e.seconds[2]:.1f}**",
            f"**{e.seconds[0] / e.seconds[2]:.0f}**",
        ]
        for e in ends
    ]
    ends_head = ["", "places", "Algorithm 1, whole", "Algorithm 1", "Algorithm 2", "1 / 2", "original / ours"]
    return f"""# What a window costs

{quick}{machine(args.threads, PACKAGES, busy)}
One picture, float32, batches of 32 windows (128 on the small networks), stride 1. Time of a whole copy of the image
over that of a window through the incremental engine, both in batches of the same size and visited in turn: median
(tenth to ninetieth percentile) of {args.repeats} rounds over {args.runs} batches of windows drawn from all of the
image. Bound: multiplications of a forward pass over those of a window. Error: largest difference of a logit between the
engines over the largest change that a window makes, 64 windows of noise.

{table(head, rows)}
Prediction differences end to end, with the fills, over all places of one image: {SAMPLES} samples a window (window 10,
surroundings {PATCH}). Forwards: places x {SAMPLES} for Algorithm 1, places for Algorithm 2. "Original": Algorithm 1
over whole copies. Seconds are medians of {ROUNDS} rounds, extrapolated from so many windows, drawn from all of the
image, where they are fewer than the places.

{table(ends_head, more)}"""


if __name__ == "__main__":
    main()
