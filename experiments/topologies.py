"""Every method on the nine topologies that ship with the onnx package, compiled and verified.

python experiments/topologies.py [--networks squeezenet resnet50] [--methods lrp.epsilon]

The files hold no trained weights: theirs are drawn from a seed. Writes experiments/results/topologies.md, a line a
method, a column a network, and keeps what it has found in topologies.json beside it: a second run goes on where the
first one stopped (--again starts anew). The checks node by node, which recompile the model, take minutes on the large
networks; they are made on the small ones.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.progress import Progress

import onnxplain
from onnxplain.models.randomize import randomize_constants
from onnxplain.rewriter.errors import ExplainError
from onnxplain.runtime.verify import Status, verify

LIGHT = Path(str(onnx.__file__)).parent / "backend" / "test" / "data" / "light"
NETWORKS = (
    *("squeezenet", "shufflenet", "inception_v1", "inception_v2", "resnet50", "bvlc_alexnet", "zfnet512"),
    *("densenet121", "vgg19"),
)
MAPS = [
    name for name, method in onnxplain.methods().items() if method.maps and method.family != "linearscope"
]
"""LinearScope's have tests of their own, against F itself."""
SMALL = frozenset({"squeezenet", "shufflenet"})
OPTIONS: Mapping[str, Any] = {"steps": 8, "samples": 8, "low": -3.0, "high": 3.0, "estimator": "weights"}
FEW = {"steps": 2, "samples": 2}
"""Of the largest network, whose averages take minutes else."""
LARGEST = "vgg19"
OUT = Path(__file__).parent / "results" / "topologies.md"


def cell(model: bytes, method: str, x: np.ndarray, name: str) -> str:
    """The outcome of one pair: passed checks of those that apply, or why the method is not defined there."""
    known, heavy = onnxplain.methods()[method].options, name not in SMALL
    given = {**OPTIONS, **FEW} if name == LARGEST else OPTIONS
    options = {key: value for key, value in given.items() if key in known}
    try:
        explainer = onnxplain.compile(model, method, **options)
        certificate = verify(explainer, [x], model=None if heavy else model)
    except ExplainError as error:
        return f"- ({str(error)[:80]})"
    count = Counter(outcome.status for outcome in certificate.outcomes)
    failed = [outcome.check for outcome in certificate.outcomes if outcome.status is Status.FAILED]
    if failed:
        return f"**{'; '.join(failed)}**"
    return f"{count[Status.PASSED]} passed" + (
        f", {count[Status.REPORTED]} reported" if count[Status.REPORTED] else ""
    )


def page(found: Mapping[str, Mapping[str, str]]) -> str:
    lines = [["", *found], ["---"] * (len(found) + 1)]
    lines += [[f"`{name}`", *(column.get(name, "") for column in found.values())] for name in MAPS]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        "# Every method on nine topologies\n\nMade by `python experiments/topologies.py`: seeded weights, one random "
        f"picture, `onnxplain verify`; with the source model, so node by node too, for {' and '.join(sorted(SMALL))}. "
        "Checks that passed; reported ones have a figure but no bound; bold is a check that failed; - is a method that "
        f"is not defined there.\n\n{table}\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Verify, and write the table after every cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--methods", nargs="+", default=MAPS)
    parser.add_argument("--again", action="store_true", help="forget what earlier runs have found")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(arguments)
    args.out.parent.mkdir(exist_ok=True)
    notes = args.out.with_suffix(".json")
    found: dict[str, dict[str, str]] = {}
    if notes.exists() and not args.again:
        found = json.loads(notes.read_text(encoding="utf-8"))
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    with Progress() as progress:
        task = progress.add_task("", total=len(args.networks) * len(args.methods))
        for name in args.networks:
            model = randomize_constants(onnx.load(LIGHT / f"light_{name}.onnx")).SerializeToString()
            for method in args.methods:
                progress.update(task, description=f"{name} {method}", advance=1)
                column = found.setdefault(name, {})
                if method not in column:
                    column[method] = cell(model, method, x, name)
                    notes.write_text(json.dumps(found, indent=1), encoding="utf-8")
                    args.out.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
