"""Explanations side by side on the CPU: onnxplain on onnxruntime, torch, captum, zennit and shap.

python benchmarks/peers.py [--networks resnet50 unet] [--batch 1 8] [--threads 2] [--repeats 9] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: let `benchmarks` be found
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import table
from benchmarks.files import lowerings
from benchmarks.measure import Measured, Settings, cache_in, faults, network
from benchmarks.networks import DEFAULT, NETWORKS
from benchmarks.worker import Rounds

COMPILED = ("resnet50", "vit-tiny")
"""Networks with torch.compile unless others are named: it takes a minute and more for each."""
BUSY = 0.5
"""Load before the start above which a warning is printed."""


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    out: Path = args.out
    out.parent.mkdir(parents=True, exist_ok=True)
    load = table.load()
    if load is not None and load > BUSY:
        print(f"the machine is busy (load {load:.1f}): the figures will not be good", file=sys.stderr)
    settings = Settings(
        tuple(args.batch),
        args.threads,
        Rounds(args.repeats, 0.0 if args.quick else args.seconds, 0.0 if args.quick else 0.1),
        args.lowering,
        tuple(args.compile),
        args.compile_limit,
        args.heavy,
        args.quick,
    )
    measured = _measure(args.networks, settings)
    from benchmarks.page import page
    from benchmarks.plot import bars

    out.write_text(page(measured, settings, load), encoding="utf-8")
    size = settings.batches[0]
    bars(measured, out.with_suffix(".png"), size, f"batch {size}, {args.threads} threads")
    print(out.read_text(encoding="utf-8"))
    if wrong := faults(measured):
        sys.exit("\n".join(wrong))


def _measure(names: Sequence[str], settings: Settings) -> list[Measured]:
    measured = []
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as kernels:
        cache_in(Path(kernels))
        for name in names:
            start = time.perf_counter()
            measured.append(network(name, Path(folder), settings))
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            for file in Path(folder).iterdir():
                file.unlink()
    return measured


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=list(DEFAULT))
    parser.add_argument(
        "--batch", type=int, nargs="+", default=None, help="1 8; above 1 the main methods only"
    )
    parser.add_argument("--threads", type=int, default=2, help="inside one operator, for all")
    parser.add_argument("--repeats", type=int, default=9, help="rounds at most")
    parser.add_argument(
        "--seconds", type=float, default=20, help="for the rounds of one group; 3 rounds at least"
    )
    parser.add_argument("--lowering", choices=lowerings(), default=lowerings()[0])
    parser.add_argument(
        "--compile", nargs="*", choices=sorted(NETWORKS), default=None, help="with torch.compile"
    )
    parser.add_argument(
        "--compile-limit", type=float, default=120, help="seconds for torch.compile, a network"
    )
    parser.add_argument(
        "--heavy", action="store_true", help="integrated gradients of VGG-16 too: some minutes more"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small networks, three rounds: a test of the script"
    )
    parser.add_argument("--out", type=Path, default=None, help="the table; the plot goes beside it")
    args = parser.parse_args(given)
    args.batch = args.batch or ([1, 2] if args.quick else [1, 8])
    if args.compile is None:
        args.compile = [] if args.quick else list(COMPILED)
    if args.out is None:
        name = "peers-quick.md" if args.quick else "peers-cpu.md"
        args.out = Path(__file__).parent / "results" / name
    if min(args.threads, args.repeats, *args.batch) < 1:
        parser.error("--threads, --repeats and --batch must be at least 1")
    return args


if __name__ == "__main__":
    main()
