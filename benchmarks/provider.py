"""What explanations cost on the provider that is here, beside the floor of the machine: on CUDA if it works, else on
the CPU.

python benchmarks/provider.py [--networks vgg16 resnet50] [--methods saliency lrp.epsilon-plus] [--quick]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: let `benchmarks` be found
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import onnxplain
from benchmarks.networks import DEFAULT, NETWORKS, write
from benchmarks.table import table
from onnxplain.rewriter.errors import ProviderError
from onnxplain.runtime.bench import Machine, Report, Row, bench, probe
from onnxplain.runtime.bench.measure import Setup
from onnxplain.runtime.opening import serialize
from onnxplain.runtime.providers import create_session

METHODS = (
    "saliency",
    "guided-backprop",
    "grad-cam",
    "integrated-gradients",
    "smoothgrad",
    "lrp.epsilon",
    "lrp.epsilon-plus",
    "lrp.epsilon-gamma-box",
    "deeplift.rescale",
    "pattern-attribution",
)
MAPS = [name for name, method in onnxplain.methods().items() if method.maps]
OPTIONS: Mapping[str, Any] = {
    "steps": 16,
    "samples": 16,
    "low": -3.0,
    "high": 3.0,
    "estimator": "weights",
}
"""Methods that average take 16 samples; no patterns are fitted, which costs the same."""


@dataclass(frozen=True)
class Measured:
    network: str
    batch: int
    report: Report


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=list(DEFAULT))
    parser.add_argument("--methods", nargs="+", choices=["all", *MAPS], default=list(METHODS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--provider", help="cpu, cuda, ...; by default CUDA if it works, else the CPU")
    parser.add_argument("--threads", type=int, help="of one operator on the CPU")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--quick", action="store_true", help="small networks, one round: a test of the script"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="the folder")
    args = parser.parse_args(arguments)
    provider = args.provider or working()
    machine = probe(provider, args.threads, quick=args.quick)
    names = MAPS if "all" in args.methods else args.methods
    measured = []
    for network in args.networks:
        for batch in args.batches:
            print(f"{network}, batch {batch} on {provider} ...", file=sys.stderr, flush=True)
            measured.append(Measured(network, batch, _run(network, batch, names, provider, machine, args)))
    args.out.mkdir(parents=True, exist_ok=True)
    path: Path = args.out / f"{machine.slug()}{'-quick' if args.quick else ''}.md"
    path.write_text(page(machine, measured, args.quick), encoding="utf-8")
    print(path)
    return path


def working() -> str:
    """cuda if a session opens on it and runs, else cpu."""
    model = serialize(NETWORKS["mnist_lenet"].quick())
    try:
        create_session(model, "cuda")
    except ProviderError as error:
        print(f"no CUDA, so the CPU: {error}", file=sys.stderr, flush=True)
        return "cpu"
    return "cuda"


def _run(
    network: str,
    batch: int,
    names: Sequence[str],
    provider: str,
    machine: Machine,
    args: argparse.Namespace,
) -> Report:
    setup = Setup(
        batch=batch,
        threads=args.threads,
        providers=provider,
        repeats=1 if args.quick else args.repeats,
        options=_fitting(names),
        quick=args.quick,
    )
    with tempfile.TemporaryDirectory() as folder:
        model = write(network, Path(folder) / f"{network}.onnx", args.quick)
        return bench(model, names, setup, machine=machine)


def _fitting(names: Sequence[str]) -> dict[str, Any]:
    """Those of OPTIONS that one of the methods has."""
    known = {option for name in names for option in onnxplain.methods()[name].options}
    return {option: value for option, value in OPTIONS.items() if option in known}


def page(machine: Machine, measured: Sequence[Measured], quick: bool) -> str:
    """The whole page: a table for each network and batch."""
    note = "A test of the script on small networks, not a result.\n\n" if quick else ""
    return f"""# What explanations cost on {machine.processor}, {machine.provider}

{note}{machine}

floor: the least time that this machine needs (`onnxplain.rewriter.cost.roofline`), every kernel limited by its
arithmetic or by its memory, at the speeds above. measured: median of a call. measured / floor. × forward: over the
forward pass of the same round, median (tenth to ninetieth percentile). FLOPs ×: convolutions and matrix products, over
the forward pass's. Methods that average take {OPTIONS["steps"]} samples; a figure per sample stands beside.

{"".join(_section(one) for one in measured)}"""


def _section(one: Measured) -> str:
    report, forward = one.report, one.report.forward
    head = ["", "floor", "measured", "measured / floor", "× forward", "per sample", "FLOPs ×"]
    rows = [_cells(row, forward) for row in (forward, *report.rows)]
    missing = "".join(f"- `{name}`: {why}\n" for name, why in report.refused.items())
    gaps = "".join(f"{line}\n" for line in report.gaps())
    return (
        f"## {NETWORKS[one.network].title}, batch {one.batch}\n\n{report.context}.\n\n{table(head, rows)}\n"
        + (f"{gaps}\n" if gaps else "")
        + (f"Left out:\n\n{missing}\n" if missing else "")
    )


def _cells(row: Row, forward: Row) -> list[str]:
    ratio = row.ratio
    return [
        row.method,
        f"{row.least * 1e3:.3g} ms",
        f"{row.seconds.median * 1e3:.3g} ms",
        f"**{row.over_least:.2f}**",
        "1" if row is forward else f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})",
        f"{ratio.median / row.samples:.2f}" if row.samples > 1 else "",
        f"{row.floor.arithmetic:.2f}",
    ]


if __name__ == "__main__":
    main()
