"""Integers fed: the floating-point tensors that a model makes of them first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from ..rewriter.errors import OptionError
from .opening import open_session
from .session import Arrays, run


def entered(
    front: onnx.ModelProto, x: npt.ArrayLike | Mapping[str, npt.ArrayLike], names: Sequence[str]
) -> Arrays:
    """Feeds of the rest of a model (`rewriter.apart`), whose inputs are `names`, from those of the whole. Raises
    OptionError for an array where the model has several inputs, and as `session.run`."""
    own = [value.name for value in front.graph.input]
    if not isinstance(x, Mapping):
        others = [name for name in names if name not in {y.name for y in front.graph.output} | set(own)]
        if len(own) != 1 or others:
            raise OptionError(
                f"the model has several inputs ({', '.join([*own, *others])}); give a dict of arrays"
            )
        x = {own[0]: x}
    missing = [name for name in own if name not in x]
    if missing:
        raise OptionError(f"no array was given for the input {', '.join(map(repr, missing))}")
    feeds = {name: np.asarray(value) for name, value in x.items()}
    made = run(open_session(front, None, "cpu"), {name: feeds[name] for name in own})
    return {name: array for name, array in (feeds | made).items() if name in names}


__all__ = ["entered"]
