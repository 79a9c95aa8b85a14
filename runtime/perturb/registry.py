"""Perturbation techniques by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ...rewriter.errors import OptionError, nearest
from ...rules.registry import methods
from .difference import PDA_MEAN, PDA_SAMPLING
from .kernel_shap import KERNEL_SHAP
from .lime import LIME
from .meaningful import MEANINGFUL
from .occlusion import OCCLUSION
from .rise import RISE
from .technique import Technique

BUILT_IN = (OCCLUSION, PDA_SAMPLING, PDA_MEAN, RISE, LIME, KERNEL_SHAP, MEANINGFUL)

TECHNIQUES: Mapping[str, Technique] = MappingProxyType({one.name: one for one in BUILT_IN})


def find_technique(name: str | Technique) -> Technique:
    """A technique by its name; a Technique passes. OptionError with the nearest name."""
    if isinstance(name, Technique):
        return name
    if name in TECHNIQUES:
        return TECHNIQUES[name]
    if name in methods():
        raise OptionError(f"{name} changes no copies of the image; run it with `onnxplain explain -m {name}`")
    raise OptionError(
        f"no perturbation method {name!r}{nearest(name, TECHNIQUES)}; known: {', '.join(TECHNIQUES)}"
    )


def refuse_techniques(names: object) -> None:
    """Raises OptionError, saying where they are run, for techniques among names of methods."""
    for name in names if isinstance(names, (list, tuple)) else [names]:
        if isinstance(name, str) and name in TECHNIQUES:
            raise OptionError(
                f"{name} draws its map from changed copies of the image; run `onnxplain perturb MODEL IMAGE "
                f"-m {name}`, or onnxplain.perturb(model, image, {name!r})"
            )


__all__ = ["TECHNIQUES", "find_technique", "refuse_techniques"]
