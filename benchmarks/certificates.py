"""Is any certificate of an untouched file a false alarm? `python -m benchmarks.certificates`

Every method is compiled for every net (the small nets of the tests, and those of `awkward.py`, on which checks are
easily wrong) and verified, with and without the model, as it lies. A check that fails there is a false alarm, or a
wrong rule: both are defects. Exit status 1 where there is one.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from rich.progress import track

from benchmarks.awkward import NETS, awkward
from benchmarks.silent import GOLDEN, OPTIONS
from benchmarks.table import table
from onnxplain import ExplainError, ExplainWarning, compile, methods, verify

KINDS = ("ok", "failed", "refused")


@dataclass(frozen=True)
class Held:
    """One certificate: "ok", "failed" (checks: which, and why) or "refused" (the method does not fit the net)."""

    net: str
    method: str
    target: str
    verdict: str
    checks: Mapping[str, str]
    skipped: int = 0
    """Checks that are not applicable."""


def hold(name: str, model: onnx.ModelProto, method: str, target: str | None, seed: int = 0) -> Held:
    """Compile, and verify against the model."""
    given: dict[str, Any] = dict(OPTIONS.get(method, {}))
    if target is not None:
        given["target"] = target
    shown = target or ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExplainWarning)
        try:
            explainer = compile(model, method, threads=1, **given)
        except ExplainError as error:
            return Held(name, method, shown, "refused", {"": str(error)})
        found = verify(explainer, model=model, seed=seed, threads=1)
    failed = {
        outcome.check: f"{outcome.measured} > {outcome.bound}: {outcome.note}"
        for outcome in found.outcomes
        if outcome.failed
    }
    skipped = sum(outcome.status == "not applicable" for outcome in found.outcomes)
    return Held(name, method, shown, "failed" if failed else "ok", failed, skipped)


def sweep(
    names: Sequence[str], chosen: Sequence[str], targets: Sequence[str | None], seed: int
) -> Iterator[Held]:
    jobs = [(name, method, target) for name in names for method in chosen for target in targets]
    for name, method, target in track(jobs, "nets x methods", disable=not sys.stderr.isatty()):
        model = awkward(name, seed) if name in NETS else onnx.load(GOLDEN / f"{name}.onnx")
        yield hold(name, model, method, target, seed)


def report(found: Sequence[Held]) -> str:
    """A line a net: how many certificates there are of each kind, and which checks failed for which methods."""
    rows = []
    for name in dict.fromkeys(held.net for held in found):
        mine = [held for held in found if held.net == name]
        counts = Counter(held.verdict for held in mine)
        wrong = sorted(
            {f"{held.method}: {check}" for held in mine for check in held.checks if held.verdict == "failed"}
        )
        skipped = str(sum(held.skipped for held in mine))
        rows.append([name, *(str(counts[kind]) for kind in KINDS), skipped, "; ".join(wrong)])
    total = Counter(held.verdict for held in found)
    skipped = str(sum(held.skipped for held in found))
    return table(
        ["net", *KINDS, "checks not applicable", "failed"],
        [*rows, ["all", *(str(total[kind]) for kind in KINDS), skipped, ""]],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    known = [*sorted(path.stem for path in GOLDEN.glob("*.onnx")), *NETS]
    parser.add_argument("nets", nargs="*", help=f"all by default; {', '.join(known)}")
    parser.add_argument("-m", "--methods", help="separated by commas; all by default")
    parser.add_argument(
        "-t", "--target", action="append", help="the method's own by default; several are possible"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs")
    asked = parser.parse_args()
    found = []
    chosen = asked.methods.split(",") if asked.methods else list(methods())
    for held in sweep(asked.nets or known, chosen, asked.target or [None], asked.seed):
        found.append(held)
        if held.verdict == "failed":
            for check, why in held.checks.items():
                print(f"{held.net}, {held.method} {held.target}: {check}: {why[:300]}", flush=True)
    print(report(found))
    return int(any(held.verdict == "failed" for held in found))


if __name__ == "__main__":
    sys.exit(main())
