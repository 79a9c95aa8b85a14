"""What compiling costs: every shipped and built model against reading and writing the same file with onnx.

python benchmarks/compile.py [--method saliency] [--models NAME ...] [--repeats 5] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: let `benchmarks` be found
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import table
from benchmarks.files import FileCost, file_cost, lowerings
from benchmarks.networks import NETWORKS, write
from benchmarks.timing import fresh

LIMITS = {"ResNet-50": 4.0}
"""Compile time over load+save that is promised."""
SIZE = 1.03
"""File size over the source's that is promised."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", default="saliency")
    parser.add_argument("--lowering", choices=lowerings(), default=lowerings()[0])
    parser.add_argument("--models", nargs="+", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes a figure")
    parser.add_argument("--threads", type=int, default=2, help="of the sessions that are opened")
    parser.add_argument("--quick", action="store_true", help="small networks, once: a test of the script")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args(arguments)
    args.repeats = 1 if args.quick else args.repeats
    default = "compile-quick.md" if args.quick else "compile.md"
    out: Path = args.out or Path(__file__).parent / "results" / default
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [(NETWORKS[name].title, _cost(name, args)) for name in args.models]
    out.write_text(_report(rows, args), encoding="utf-8")
    print(out.read_text(encoding="utf-8"))


def _cost(name: str, args: argparse.Namespace) -> FileCost:
    print(f"{name} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model, emitted = Path(folder) / "model.onnx", Path(folder) / "explained.onnx"
        fresh(write, name, model, args.quick)
        return file_cost(model, emitted, args.method, args.threads, args.repeats, args.lowering)


def _report(rows: Sequence[tuple[str, FileCost]], args: argparse.Namespace) -> str:
    over = [f"{title}: file {c.opening.size_ratio:.3f}" for title, c in rows if c.opening.size_ratio > SIZE]
    over += [
        f"{title}: compile {c.compile_ratio:.1f}"
        for title, c in rows
        if c.compile_ratio > LIMITS.get(title, 1e9)
    ]
    promise = f"At most {SIZE} times the file" + "".join(f", {k}: {v:g} times" for k, v in LIMITS.items())
    return f"""# What compiling costs ({args.method}, lowered for {args.lowering})

{table.machine(args.threads, ("onnxplain", "onnx", "onnxruntime", "onnx-graphsurgeon"))}
Reading, compiling and writing the file, against reading and writing it with onnx; medians over
{args.repeats} fresh processes, without imports. Session creation: the emitted file's time over the source's.

{table.costs(rows)}
Promised: {promise}. {"Exceeded: " + "; ".join(over) if over else "Kept by all of the above"}.
"""


if __name__ == "__main__":
    main()
