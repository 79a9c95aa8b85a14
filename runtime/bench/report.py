"""What was measured: as records, as markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...rewriter.cost import Floor
from ..escaping import markdown
from .machine import Machine
from .timing import Spread

FORWARD = "forward"

Say = Callable[[str], str]


@dataclass(frozen=True)
class Row:
    """One method, or the forward pass.

    samples: passes that one call averages. seconds: of a call. ratio: over the forward pass of the same round. rounds:
    how many there were. memory: MiB on the host, None where the system does not tell. bytes: of the file. session:
    seconds to open one. flops: of convolutions and matrix products. traffic: bytes that the kernels move at least.
    floor: both over those of the forward pass. least: seconds that the machine needs at least
    (`rewriter.cost.roofline`). uncounted: nodes that the floors leave out.
    """

    method: str
    samples: int
    seconds: Spread
    ratio: Spread
    rounds: int
    memory: float | None
    bytes: int
    session: float
    nodes: int
    flops: int
    traffic: int
    floor: Floor
    least: float
    uncounted: tuple[str, ...] = ()

    @property
    def over_least(self) -> float:
        """Time over what the machine needs at least; 0 where nothing was counted."""
        return self.seconds.median / self.least if self.least else 0.0


@dataclass(frozen=True)
class Report:
    """rows: the methods, in the order asked for. refused: method -> why there is none. load: processes that wanted the
    processor in the minute before, None where the system does not tell."""

    title: str
    machine: Machine
    forward: Row
    rows: tuple[Row, ...]
    refused: Mapping[str, str]
    shapes: Mapping[str, Sequence[int]]
    source: str
    repeats: int
    lowering: str
    load: float | None
    versions: Mapping[str, str]

    def row(self, method: str) -> Row:
        return next(row for row in (self.forward, *self.rows) if row.method == method)

    @property
    def context(self) -> str:
        return self._context(str)

    def _context(self, say: Say) -> str:
        shapes = ", ".join(f"{say(name)} {list(shape)}" for name, shape in self.shapes.items())
        load = "" if self.load is None else f"; load of the machine before the start: {self.load:.1f}"
        return (
            f"{shapes} ({say(self.source)}), lowered for {self.lowering}, up to {self.repeats} rounds{load}"
        )

    def gaps(self, say: Say = str) -> list[str]:
        """A line for each graph whose floors leave out nodes. say: how a name is written."""
        return [
            f"The floors of `{row.method}` leave out {len(row.uncounted)} nodes, the first: "
            f"{say(row.uncounted[0])}."
            for row in (self.forward, *self.rows)
            if row.uncounted
        ]

    def record(self) -> dict[str, Any]:
        """Everything, for JSON. An infinite floor becomes null."""
        rows = [{**asdict(row), "over_least": row.over_least} for row in (self.forward, *self.rows)]
        known: dict[str, Any] = {
            "model": self.title,
            "machine": self.machine.record(),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "source": self.source,
            "repeats": self.repeats,
            "lowering": self.lowering,
            "load": self.load,
            "versions": dict(self.versions),
            "rows": rows,
            "refused": dict(self.refused),
        }
        return {key: _finite(value) for key, value in known.items()}

    def json(self) -> str:
        return json.dumps(self.record(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def markdown(self) -> str:
        """The page: machine, table, what its columns are, what was refused."""
        cells = [[_code(row.method), *cells_of(row, self.forward)] for row in (self.forward, *self.rows)]
        head, rule = ["", *COLUMNS], ["---", *["---:"] * len(COLUMNS)]
        table = "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *cells))
        refused = "\n".join(f"- {_code(name)}: {markdown(why)}" for name, why in self.refused.items())
        tail = f"\n## Left out\n\n{refused}\n" if refused else ""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        missing = "".join(f"\n{line}\n" for line in self.gaps(markdown))
        return (
            f"# What explanations of {markdown(self.title)} cost\n\n{self.machine}\n{versions}.\n\n"
            f"{self._context(markdown)}.\n\n{table}\n\n{LEGEND}\n{missing}{tail}"
        )


COLUMNS: tuple[str, ...] = (
    "time",
    "× forward",
    "per sample",
    "floor",
    "× floor",
    "FLOPs ×",
    "bytes ×",
    "memory",
    "file",
    "session",
)

LEGEND = """\
time: median of a call. × forward: over the forward pass of the same round, median (tenth to ninetieth percentile); per
sample: the same over the samples that a call averages. floor: what this machine needs at least, every kernel limited by
its arithmetic or by its memory (`onnxplain.rewriter.cost.roofline`, at the speeds above); × floor: time over that.
FLOPs ×, bytes ×: of convolutions and matrix products, and of the traffic of ideally fused kernels, over the forward
pass's. memory: of the host, weights and working memory, in a process of its own. file, session: size, and time to open,
over the model's."""


def cells_of(row: Row, forward: Row) -> list[str]:
    """One row's figures, in the order of COLUMNS."""
    ratio = row.ratio
    own = row.method == forward.method
    spread = "1" if own else f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
    return [
        _time(row.seconds.median),
        spread,
        f"{ratio.median / row.samples:.2f}" if row.samples > 1 else "",
        _time(row.least) if row.least else "-",
        f"{row.over_least:.2f}" if row.least else "-",
        f"{row.floor.arithmetic:.2f}",
        f"{row.floor.traffic:.2f}",
        "-" if row.memory is None else f"{row.memory:.0f} MiB",
        f"{row.bytes / 1e6:.2f} MB" if own else f"{row.bytes / forward.bytes:.3f}",
        _time(row.session) if own else f"{row.session / forward.session:.2f}",
    ]


def _code(name: str) -> str:
    """A method's name as code. Code has no escapes: a name with a backtick or a bar is text."""
    return markdown(name) if set(name) & set("`|\\") or not name.isprintable() else f"`{name}`"


def _time(seconds: float) -> str:
    milli = seconds * 1e3
    return (
        f"{milli / 1e3:.2f} s" if milli >= 10_000 else f"{milli:.3g} ms" if milli < 100 else f"{milli:.0f} ms"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
