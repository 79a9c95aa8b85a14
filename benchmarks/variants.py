"""What is timed: a call that explains, or only runs, a network, by the name of who does it and what."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxplain.runtime.providers import create_session

Floats = NDArray[np.float32]
Run = Callable[[], Floats]

METHODS = ("saliency", "input-x-gradient", "guided-backprop", "deconvnet")
FORWARD = "onnxruntime forward"
VARIANTS = (
    FORWARD,
    *(f"onnxplain {method}" for method in METHODS),
    "torch forward",
    "torch gradient",
    "torch gradient, channels last",
    *(f"captum {method}" for method in METHODS),
)

WEIGHED = (
    FORWARD,
    "onnxplain saliency",
    "onnxplain guided-backprop",
    "torch forward",
    "torch gradient",
    "captum saliency",
    "captum guided-backprop",
)
"""Those whose memory is measured."""

_CAPTUM = {
    "saliency": "Saliency",
    "input-x-gradient": "InputXGradient",
    "guided-backprop": "GuidedBackprop",
    "deconvnet": "Deconvolution",
}
_GATED = ("guided-backprop", "deconvnet")


def reference(variant: str) -> str | None:
    """The variant that computes the same by onnxruntime; None for those of onnxruntime themselves."""
    who, what = variant.split(" ", 1)
    if who not in ("torch", "captum"):
        return None
    return FORWARD if what == "forward" else f"onnxplain {what if what in METHODS else 'saliency'}"


def missing(variant: str, model: Path) -> str | None:
    """Why a variant cannot be had for this network, or None."""
    who, what = variant.split(" ", 1)
    if who == "captum" and what in _GATED and "Clip" in {n.op_type for n in onnx.load(model).graph.node}:
        return "captum gates nn.ReLU only; at ReLU6 its result is the plain gradient"
    return None


def make(variant: str, files: Mapping[str, Path], x: Floats, threads: int) -> Run:
    """The call. files: "forward" and each method's, all from one network. It explains the top element of every
    sample, and returns the attribution (forward: the output). Whatever can be done once is done here."""
    who, what = variant.split(" ", 1)
    if who in ("onnxruntime", "onnxplain"):
        return _onnx(files[what], x, threads)
    _torch(threads)
    return _captum(what, files["forward"], x) if who == "captum" else _autograd(what, files["forward"], x)


def _onnx(file: Path, x: Floats, threads: int) -> Run:
    session = create_session(file, threads=threads)
    names = [value.name for value in session.get_inputs()]
    feeds: dict[str, NDArray[Any]] = {names[0]: x}
    if "target" in names:
        feeds["target"] = np.full((len(x), 1), -1, np.int64)
    # The model's own outputs come for free; a caller gets them too.
    return lambda: np.asarray(session.run(None, feeds)[-1])


@cache
def _torch(threads: int) -> Any:
    torch = import_module("torch")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # as the sessions of onnxruntime
    return torch


def _autograd(what: str, file: Path, x: Floats) -> Run:
    import torch

    from benchmarks.twin import OnnxTwin, twin

    layout = torch.channels_last if what.endswith("channels last") else torch.contiguous_format
    model = twin(file)
    if layout is torch.channels_last:
        model = OnnxTwin(onnx.load(file)).to(memory_format=layout)
    image = torch.from_numpy(x).to(memory_format=layout, copy=True)

    def forward() -> Floats:
        with torch.no_grad():
            return np.asarray(model(image).numpy())

    def gradient() -> Floats:
        image.requires_grad_()
        top = model(image).flatten(1).max(1).values.sum()
        return np.asarray(torch.autograd.grad(top, image)[0].numpy())

    return forward if what == "forward" else gradient


def _captum(method: str, file: Path, x: Floats) -> Run:
    import captum.attr
    import torch

    from benchmarks.twin import twin

    model, image = twin(file), torch.from_numpy(x.copy())
    explain = getattr(captum.attr, _CAPTUM[method])(model)
    with torch.no_grad():
        y = model(image)
    target = torch.unravel_index(y.flatten(1).argmax(1), y.shape[1:])
    if len(target) > 1:  # captum takes a tuple a sample
        target = list(zip(*(axis.tolist() for axis in target), strict=True))
    else:
        target = target[0]
    more = {"abs": False} if method == "saliency" else {}

    def run() -> Floats:
        with warnings.catch_warnings():  # captum says at every call that it sets hooks
            warnings.simplefilter("ignore")
            return np.asarray(explain.attribute(image, target=target, **more).detach().numpy())

    return run
