"""onnxruntime, imported when it is first needed: which wheel it comes from, and its telemetry off."""

from __future__ import annotations

import functools
import os
import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import numpy as np

from ..rewriter.errors import ProviderError

TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""From 1.29 on onnxruntime's own builds tell Microsoft about models (names and hashes of graphs, producers) and keep an
identifier on disk. Here that is off, unless the user has set the variable."""

# These wheels unpack into the same folder `onnxruntime/`, the one installed last overwrites the others.
_WHEELS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
)


@functools.cache
def load_onnxruntime() -> ModuleType:
    """Import onnxruntime, with its telemetry off; warns once when two of its wheels overwrite each other.

    Raises ProviderError naming the two extras when it is missing or broken.
    """
    advice = "install exactly one of onnxplain[cpu] and onnxplain[gpu]"
    # Our sessions make tiny numbers 0 in the calling thread too. numpy before 2.4 warns when it looks at a type for the
    # first time under that setting, and remembers what it has seen.
    for kind in (np.float16, np.float32, np.float64):
        np.finfo(kind)
    os.environ.setdefault(TELEMETRY, "1")  # read once, while it is imported
    try:
        module = import_module("onnxruntime")
    except ImportError as error:
        raise ProviderError(f"onnxruntime cannot be imported ({error}); {advice}") from error
    if not hasattr(module, "InferenceSession"):
        raise ProviderError(f"the installation of onnxruntime is broken (no InferenceSession); {advice}")
    wheels = _installed_wheels()
    if len(wheels) > 1:
        warnings.warn(
            f"{' and '.join(wheels)} are installed together and overwrite each other's files; "
            f"uninstall all of them, then {advice}",
            RuntimeWarning,
            stacklevel=3,
        )
    return module


def _installed_wheels() -> list[str]:
    found = []
    for name in _WHEELS:
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


__all__ = ["TELEMETRY", "load_onnxruntime"]
