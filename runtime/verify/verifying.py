"""Run the checks on a file."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from ...rewriter.apart import apart, file_apart
from ...rewriter.compile import recorded
from ...rewriter.draft import Dim
from ...rewriter.errors import ExplainWarning, OptionError, StaleError, nearest
from ...rewriter.load import Source, load
from ..compiling import Model, description, package_version
from ..entering import entered
from ..explainer import Explainer
from ..explainer import load as load_explainer
from ..loading import load_onnxruntime
from ..providers import Provider, short_name
from ..settings import resolved
from .cases import Array, Given, Maker
from .certificate import Certificate, fingerprint
from .general import ANYWHERE
from .outcome import Check, Outcome, skipped
from .slots import slots_of
from .sound import drawn, groundless, undefined
from .subject import SAMPLES, Subject
from .table import CHECKS, checks_of

Progress = Callable[[str, int], None]
"""(what is done now, how many steps there are)."""


def verify(
    file: str | os.PathLike[str] | bytes | Explainer,
    inputs: Sequence[Given] = (),
    *,
    model: Model | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[Dim]] | None = None,
    providers: str | Sequence[Provider] | None = None,
    threads: int | None = None,
    external_data: bool = False,
    table: Mapping[str, tuple[Check, ...]] = CHECKS,
    progress: Progress | None = None,
) -> Certificate:
    """Check what the method of an emitted file promises, on inputs of yours, or on three drawn from a seed; and on
    zeros, a constant and an extreme input.

    inputs: photos, .npy files, arrays of the model's input (samples along the first axis), 8-bit (H, W, 3) pictures, or
        dicts of arrays for models of several inputs.
    model: the one that the file was made from; then its outputs are compared, and rules are checked node by node.
    options: what the card has only the hash of (`baseline` or `patterns`, also as files).
    shapes: sizes for the axes that the file leaves free. external_data: the model keeps weights in other files.

    Raises ModelError (no emitted file), StaleError (another model), ImageError and OptionError (inputs).
    """
    if not isinstance(inputs, tuple) and not len(inputs):
        raise OptionError("inputs is empty; give one at least, or leave it out to have three drawn")
    tell = progress or (lambda text, total: None)
    explainer = (
        file if isinstance(file, Explainer) else load_explainer(file, providers=providers, threads=threads)
    )
    source = None if model is None else _source(explainer, model, external_data)
    explainer, source, inputs = _afloat(explainer, source, inputs, providers, threads)
    subject = _subject(explainer, source, options or {}, seed, providers, threads)
    checks = checks_of(explainer.card, table)
    steps = len(inputs) + len(checks)
    _fill(subject, inputs, shapes or {}, lambda text: tell(text, steps))
    outcomes = []
    nowhere = groundless(subject)
    before, explainer.tells = explainer.tells, False  # a check of its own tells
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExplainWarning)
            for check in checks:
                tell(check.title, steps)
                held = not nowhere or check in ANYWHERE
                outcomes.append(check(subject) if held else skipped(check, nowhere))
    finally:
        explainer.tells = before
    return _certificate(subject, tuple(outcomes))


def _afloat(
    explainer: Explainer,
    source: Source | None,
    inputs: Sequence[Given],
    providers: str | Sequence[Provider] | None,
    threads: int | None,
) -> tuple[Explainer, Source | None, Sequence[Given]]:
    """File, model and inputs from the explained tensor on, where the model's input holds integers: no slope can be
    measured along them."""
    parts = file_apart(explainer.model, explainer.card)
    if parts is None:
        return explainer, source, inputs
    front, rest = parts
    names = [value.name for value in rest.graph.input]
    given = [
        entered(front, item, names)
        if isinstance(item, Mapping) or (isinstance(item, np.ndarray) and item.dtype.kind in "iu")
        else item
        for item in inputs
    ]
    whole = None if source is None else apart(source, list(explainer.card.target["at"]))
    inner = Explainer(rest, explainer.card, providers=providers, threads=threads)
    return inner, source if whole is None else whole.rest, given


def subject_of(
    explainer: Explainer, *, shapes: Mapping[str, Sequence[Dim]] | None = None, seed: int = 0
) -> Subject:
    """A file with drawn inputs, and whatever else it takes, for those who look at its results themselves."""
    subject = _subject(explainer, None, {}, seed, None, None)
    _fill(subject, (), shapes or {}, lambda text: None)
    return subject


def _fill(
    subject: Subject,
    inputs: Sequence[Given],
    shapes: Mapping[str, Sequence[Dim]],
    tell: Callable[[str], None],
) -> None:
    """The inputs to check on."""
    maker, cases = _maker(subject, shapes), []
    for item in inputs:
        tell(f"reading {os.fspath(item)}" if isinstance(item, (str, os.PathLike)) else "reading")
        cases += maker.given(item)
    sound = [case for case in cases if not undefined(subject, case)]
    apart = [case for case in cases if all(case is not other for other in sound)] if sound else []
    subject.corners = (*apart, *maker.corners())
    subject.probes = tuple(sound or cases) or drawn(subject, maker)
    subject.more = _more(subject)


def _source(explainer: Explainer, model: Model, external_data: bool) -> Source:
    source = load(model, external_data=external_data)
    if explainer.card.source.get("sha256") != source.sha256:
        raise StaleError(
            f"the file explains a model with sha256 {str(explainer.card.source.get('sha256'))[:12]}..., not "
            f"{source.sha256[:12]}...; give the model that it was made from, or compile it again"
        )
    return source


def _subject(
    explainer: Explainer,
    source: Source | None,
    options: Mapping[str, Any],
    seed: int,
    providers: str | Sequence[Provider] | None,
    threads: int | None,
) -> Subject:
    mine = explainer.card.options
    for name in options:
        if name not in mine:
            raise OptionError(f"the file's method has no option {name!r}{nearest(name, mine)}")
    known = resolved(options, source) if source is not None else _without_source(options)
    for name, value in known.items():
        if json.loads(json.dumps(recorded(value), default=str)) != mine[name]:
            raise OptionError(f"{name}= is not what the file was compiled with; see `onnxplain show`")
    return Subject(
        explainer,
        slots_of(explainer),
        {**mine, **known},
        source=source,
        seed=seed,
        providers=providers,
        threads=threads,
    )


def _without_source(options: Mapping[str, Any]) -> dict[str, Any]:
    if "patterns" in options:
        raise OptionError("patterns= is of use only with model=, the model that the file was made from")
    return resolved(options, Source(onnx.ModelProto(), "", 0, None))


def _maker(subject: Subject, shapes: Mapping[str, Sequence[Dim]]) -> Maker:
    names = [slot.name for slot in subject.slots]
    for name in shapes:
        if name not in names:
            raise OptionError(
                f"the model has no input {name!r}{nearest(name, names)}; it has {', '.join(names)}"
            )
    explainer = subject.explainer
    about = description(explainer.model, explainer.model)
    low, high = subject.options.get("low"), subject.options.get("high")
    picture = about if about is not None and not about.guessed else None
    return Maker(
        subject.slots,
        subject.seed,
        None if picture is None else picture.preprocessing,
        low,
        high,
        dict(shapes),
        2 if subject.paired else 1,
    )


def _more(subject: Subject) -> dict[str, Array]:
    """Noise of few samples, and a baseline, for methods that take them; one row for all samples."""
    rng, found = subject.rng(), {}
    declared = {value.name for value in subject.model.graph.input}
    for slot in (slot for slot in subject.slots if slot.explained):
        shape = subject.probes[0].feeds[slot.name].shape[1:]
        for kind, rows in (("noise", SAMPLES), ("baseline", 1)):
            for name in (kind, f"{kind}/{slot.name}"):
                if name in declared and name not in {s.name for s in subject.slots}:
                    found[name] = rng.standard_normal((rows, *shape)).astype(slot.dtype)
    return found


def _certificate(subject: Subject, outcomes: tuple[Outcome, ...]) -> Certificate:
    providers = subject.explainer.session.get_providers()
    settings = {
        "seed": subject.seed,
        "onnxplain": package_version(),
        "onnxruntime": str(load_onnxruntime().__version__),
        "provider": ", ".join(short_name(name) for name in providers),
        "model": subject.source is not None,
        "method": subject.card.method,
    }
    records = tuple(case.record() for case in subject.cases)
    return Certificate(outcomes, fingerprint(subject.model), records, settings)
