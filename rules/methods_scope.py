"""LinearScope as methods: data over the frozen network."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType

from ..rewriter.method import Method, Option
from .checks import whole
from .readouts import keep
from .scope import freeze
from .scope.discussion import OPTIONS as DISCUSSED
from .scope.discussion import discussion, votes
from .scope.dual import assemble_dual, dual
from .scope.power import OPTIONS as POWERED
from .scope.power import assemble_svd, svd
from .scope.results import columns, contributions, residual

PAPER = "Navarrete et al., LinearScope"
OPTIONS = MappingProxyType(
    {
        "freeze": Option(
            "offset",
            ("offset", "mask", "taylor"),
            "smooth activations: the line from h(0), y = (h(x)/x) x, or the tangent",
        ),
        "norm": Option(
            "stats", ("stats", "std"), "normalisations: mean and deviation taken at x0, or the deviation"
        ),
    }
)
PROBES = Option(
    0,
    None,
    "a fixed number of probes a run, each with a branch of its own: fastest on the CPU; 0: any number, in one batch",
    whole(0, 64),
)

_scope = partial(Method, family="linearscope", rules=freeze, read=keep)
"""What all of them share; `read` is not looked at where `outputs` is given."""

LINEARSCOPE_ROWS = _scope(
    name="linearscope.rows",
    title="LinearScope: rows of F (receptive filters), F'y",
    cost="1 forward + 1 backward a row",
    source=f"{PAPER} section 3, Eq. 6",
    display="sum,sym",
    options={**OPTIONS, "probes": PROBES},
)
LINEARSCOPE_COLUMNS = _scope(
    name="linearscope.columns",
    title="LinearScope: columns of F (projective filters), F x",
    outputs=columns,
    aimed=False,
    cost="1 forward + 1 forward a column",
    source=f"{PAPER} section 3",
    options={**OPTIONS, "probes": PROBES},
)
LINEARSCOPE_RESIDUAL = _scope(
    name="linearscope.residual",
    title="LinearScope: the residual r",
    outputs=residual,
    aimed=False,
    cost="2 forward",
    source=f"{PAPER} section 3",
    options=OPTIONS,
)
LINEARSCOPE_CONTRIBUTIONS = _scope(
    name="linearscope.contributions",
    title="LinearScope: contributions of input and biases to a score",
    outputs=contributions,
    cost="1 forward + 1 backward",
    source=f"{PAPER} Theorem 1, Fig. 4, Tables 3-4",
    options=OPTIONS,
)
LINEARSCOPE_DISCUSSION = _scope(
    name="linearscope.pixel-discussion",
    title="LinearScope: pixel discussion",
    read=discussion,
    cost="1 forward + 1 backward a class + 1 backward for all (classwise: 2 backward a class)",
    source=f"{PAPER} section 5, Eq. 17-18",
    display="sum,sym",
    options={**OPTIONS, **DISCUSSED},
)
LINEARSCOPE_VOTES = _scope(
    name="linearscope.votes",
    title="LinearScope: pixel votes over classes",
    outputs=votes,
    aimed=False,
    cost="1 forward + 1 backward a class + 1 backward for all (classwise: 2 backward a class)",
    source=f"{PAPER} section 5, Fig. 3",
    options={**OPTIONS, **DISCUSSED},
)
LINEARSCOPE_DUAL = _scope(
    name="linearscope.dual",
    title="LinearScope: the network over [x0; x1]",
    outputs=dual,
    aimed=False,
    assembly=assemble_dual,
    cost="2 forward",
    source=f"{PAPER} section 3, Fig. 2",
    options=OPTIONS,
)
LINEARSCOPE_SVD = _scope(
    name="linearscope.svd",
    title="LinearScope: singular values, eigen-inputs and eigen-outputs of F",
    outputs=svd,
    aimed=False,
    assembly=assemble_svd,
    cost="1 forward + (1 forward + 1 backward) a vector and step",
    source=f"{PAPER} section 4, Algorithm 1",
    options={**OPTIONS, **POWERED},
)
