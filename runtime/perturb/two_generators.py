"""Explain a classifier by two generators of pictures, in one file (Charachon et al. 2020; Ayyar et al. 2021 Eq. 27)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...rewriter.graft import opset_of, raised
from ...rewriter.load import PROTOBUF_LIMIT, Source, load
from ...rewriter.target import Target
from ..compiling import Model, compile, description
from ..explainer import Explainer

if TYPE_CHECKING:
    from ..providers import Provider


def explain_by_generators(
    model: Model,
    similar: Model,
    adversarial: Model,
    *,
    target: Target = "input",
    output: str | None = None,
    head: str = "logits",
    preprocessing: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    external_data: bool = False,
    max_bytes: int = PROTOBUF_LIMIT,
    domains: Sequence[str] = (),
    providers: str | Sequence[Provider] | None = None,
    threads: int | None = None,
) -> Explainer:
    """Compile a classifier f and two generators into one explanation graph, R = |g_s(x) - g_a(x)|.

    similar, adversarial: models from the classifier's input space into itself, of one input and one output; g_s(x) is
    meant to keep the class of x, g_a(x) to change it. The file's outputs are f's own, `attribution` R, `similar`
    g_s(x), `adversarial` g_a(x), all (N, ...), and `kept` and `flipped`, bool (N, 1): whether f says so. In a Result
    they are `attribution` and `results[...]`. With target="input" the class that they are about is fed, -1 being that
    of f(x). Everything else as `compile`; this is its method "adversarial", with models of a lower opset lifted first,
    for a file has one.

    Raises ModelError for models that cannot be read, lifted to one opset, or do not fit each other; and what `compile`
    raises.
    """
    sources = [
        load(given, external_data=external_data, max_bytes=max_bytes, domains=domains)
        for given in (model, similar, adversarial)
    ]
    version = max(opset_of(source.model) for source in sources)
    first, second, third = (_lifted(source, version) for source in sources)
    about = description(model, first.model, preprocessing, labels)
    known = preprocessing if about is None or about.guessed else about.preprocessing.to_record()
    return compile(
        first,
        "adversarial",
        target=target,
        output=output,
        head=head,
        preprocessing=known,
        labels=labels if about is None else about.labels,
        providers=providers,
        threads=threads,
        similar=second,
        adversarial=third,
    )


def _lifted(source: Source, version: int) -> Source:
    """The hash stays that of the file."""
    return replace(source, model=raised(source.model, version))


__all__ = ["explain_by_generators"]
