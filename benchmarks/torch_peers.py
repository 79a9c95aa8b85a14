"""The same explanations by torch, captum, zennit and shap, on the twin of an ONNX file. Whatever can be done once is
done before the call that is timed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.case import Case, Run
from benchmarks.networks import Floats
from benchmarks.twin import OnnxTwin, channels_last, twin
from benchmarks.variants import HIGH, LOW, STEPS


def settle(threads: int) -> None:
    """As the sessions of onnxruntime are set."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def numpy(value: Any) -> Floats:
    return np.asarray(value.detach().numpy())


def image(case: Case, layout: Any = torch.contiguous_format) -> Any:
    return torch.from_numpy(case.x).to(memory_format=layout, copy=True)


def forward(case: Case) -> Run:
    model, x = twin(case.model), image(case)

    def run() -> Floats:
        with torch.no_grad():
            return numpy(model(x))

    return run


def gradient(case: Case) -> Run:
    return _autograd(twin(case.model), image(case), case)


def gradient_channels_last(case: Case) -> Run:
    return _autograd(channels_last(case.model), image(case, torch.channels_last), case)


def gradient_compiled(case: Case) -> Run:
    """The first call compiles; it is made here."""
    run = _autograd(torch.compile(twin(case.model), dynamic=False), image(case), case)
    run()
    return run


def _autograd(model: Callable[[Any], Any], x: Any, case: Case) -> Run:
    target = torch.tensor(case.target)[:, None]

    def run() -> Floats:
        x.requires_grad_()
        top = model(x).flatten(1).gather(1, target).sum()
        return numpy(torch.autograd.grad(top, x)[0])

    return run


def captum_saliency(case: Case) -> Run:
    return _attribute(_captum("Saliency")(twin(case.model)), case, abs=False)


def captum_guided_backprop(case: Case) -> Run:
    return _attribute(_captum("GuidedBackprop")(twin(case.model)), case)


def captum_deep_lift(case: Case) -> Run:
    """Against zeros, its default."""
    return _attribute(_captum("DeepLift")(twin(case.model)), case)


def guided_grad_cam(case: Case) -> Run:
    """Shown between the cells as the paper has it, not captum's nearest cell."""
    model = twin(case.model)
    assert case.layer is not None
    explain = _captum("GuidedGradCam")(model, model.maker(case.layer))
    return _attribute(explain, case, interpolate_mode="bilinear")


def integrated_gradients(lanes: int | None, case: Case) -> Run:
    """lanes: steps at once; None: all."""
    size = None if lanes is None else lanes * len(case.x)
    more = {"n_steps": STEPS, "method": "riemann_middle", "internal_batch_size": size}
    return _attribute(_captum("IntegratedGradients")(twin(case.model)), case, **more)


def captum_lrp(case: Case) -> Run:
    """Its ε is 1e-9; sums of branches are a module of its own."""
    added = import_module("captum.attr._utils.custom_modules").Addition_Module
    return _attribute(_captum("LRP")(twin(case.model, added)), case)


def _captum(name: str) -> Any:
    return getattr(import_module("captum.attr"), name)


def _attribute(explain: Any, case: Case, **more: Any) -> Run:
    x, target = image(case), _captum_target(case)

    def run() -> Floats:
        with warnings.catch_warnings():  # captum says at every call that it sets hooks
            warnings.simplefilter("ignore")
            return numpy(explain.attribute(x, target=target, **more))

    return run


def _captum_target(case: Case) -> Any:
    if len(case.output) == 1:
        return torch.tensor(case.target)
    places = (np.unravel_index(i, case.output) for i in case.target)
    return [tuple(int(axis) for axis in place) for place in places]


def zennit(composite: str, case: Case) -> Run:
    """Relevance that starts with the value of the target, as onnxplain's."""
    library = zennit_composites()
    model, x, target = twin(case.model, _stacked_sum), image(case), torch.tensor(case.target)[:, None]
    made = getattr(library, composite)
    bounds = [torch.full_like(x[:1], bound) for bound in (LOW, HIGH)]
    rules = made(low=bounds[0], high=bounds[1]) if composite.endswith("Box") else made()

    def run() -> Floats:
        x.requires_grad_()
        with rules.context(model) as changed:
            y = changed(x).flatten(1)
            start = torch.zeros_like(y).scatter_(1, target, y.detach().gather(1, target))
            return numpy(torch.autograd.grad(y, x, start)[0])

    return run


class _StackedSum(nn.Module):  # type: ignore[misc]
    """zennit hooks a sum only as its own module, which takes the branches stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = import_module("zennit.layer").Sum()

    def forward(self, a: Any, b: Any) -> Any:
        return self.sum(torch.stack([a, b], -1))


def _stacked_sum() -> Any:
    return _StackedSum()


@cache
def zennit_composites() -> Any:
    """zennit.composites. It imports a few classes of torchvision, for canonizers that have nothing to do here; empty
    ones stand in while it does, as many a torchvision does not fit its torch."""
    blocks = {"models.resnet": ("Bottleneck", "BasicBlock"), "models.vgg": ("VGG",)}
    names = ["torchvision", "torchvision.models", *(f"torchvision.{name}" for name in blocks)]
    stand_ins = {name: ModuleType(name) for name in names}
    for name, classes in blocks.items():
        for kind in classes:
            setattr(stand_ins[f"torchvision.{name}"], kind, type(kind, (nn.Module,), {}))
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(stand_ins)
    try:
        return import_module("zennit.composites")
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(before)


class _Picked(nn.Module):  # type: ignore[misc]
    """One output element, as (N, 1)."""

    def __init__(self, model: OnnxTwin, index: int) -> None:
        super().__init__()
        self.model, self.index = model, index

    def forward(self, x: Any) -> Any:
        return self.model(x).flatten(1)[:, self.index : self.index + 1]


def shap_deep(case: Case) -> Run:
    """Against zeros alone. Its own check of the sum is left out; the result is compared here."""
    shap = import_module("shap")
    (index,) = set(case.target)
    x = image(case)
    explain = shap.DeepExplainer(_Picked(twin(case.model), index), torch.zeros_like(x[:1]))

    def run() -> Floats:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = explain.shap_values(x, check_additivity=False)
        return np.asarray(found, np.float32).reshape(x.shape)

    return run
