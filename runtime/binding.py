"""Inputs and outputs that stay on the device between the runs of an iterative method.

A run of a session copies every input to the device and every output back. An iteration (power iteration, a path walked
by the host) hands an output straight on to an input: `Bound` feeds once, keeps outputs where they were computed, and
copies only what is fetched. On the CPU the same calls work, so that one code serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..rewriter.errors import ModelError, OptionError, ProviderError, nearest
from .loading import load_onnxruntime
from .providers import NAMES
from .session import check_types
from .subnormal import flushed

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DEVICES: Mapping[str, str] = {
    NAMES["cuda"]: "cuda",
    NAMES["tensorrt"]: "cuda",
    NAMES["rocm"]: "cuda",
    NAMES["migraphx"]: "cuda",
}
"""Providers that leave outputs in memory of their own; ROCm calls it "cuda" too. All others compute on the CPU's."""


class Bound:
    """A session with its inputs and outputs bound to where it computes.

    >>> bound = Bound(session)           # doctest: +SKIP
    >>> bound.feed("image", x)           # copied to the device, once
    >>> for _ in range(30):
    ...     bound.run()
    ...     bound.swap("column", "probe")
    >>> bound.fetch("column")            # copied back
    """

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._ort = load_onnxruntime()
        self._inputs = {node.name: node for node in session.get_inputs()}
        self._outputs = [node.name for node in session.get_outputs()]
        self._fed: dict[str, Any] = {}
        self._made: dict[str, Any] = {}
        self.device, self.device_id = _device(session)

    def feed(self, name: str, array: npt.ArrayLike) -> None:
        """Copy an array to the device, for this run and the next ones; changing it later changes nothing.

        Raises OptionError for an unknown input or a wrong type or shape, ProviderError when the device has no room.
        """
        self._vet("input", name, self._inputs)
        value = np.array(
            array, order="C"
        )  # a copy: on the CPU onnxruntime would read the caller's own memory
        check_types(self._inputs[name], value)
        self._fed[name] = self._upload(value)

    def run(self) -> None:
        """Run; the outputs stay on the device until the next run, or longer where `swap` hands them on.

        Raises OptionError for an input that was never fed, ModelError when onnxruntime fails on the way.
        """
        missing = [name for name in self._inputs if name not in self._fed]
        if missing:
            raise OptionError(
                f"no array was fed to the input {', '.join(map(repr, missing))}; call feed() first"
            )
        binding = self._session.io_binding()
        for name, value in self._fed.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, self.device, self.device_id)
        try:
            with flushed():
                self._session.run_with_iobinding(binding)
        except Exception as error:
            raise ModelError(f"onnxruntime failed while running the model: {error}") from error
        self._made = dict(zip(self._outputs, binding.get_outputs(), strict=True))

    def fetch(self, name: str) -> npt.NDArray[np.generic]:
        """An output of the last run, copied to the host. Raises OptionError for an unknown one, or before a run."""
        array: npt.NDArray[np.generic] = self._last(name).numpy()
        return array if self.device != "cpu" else array.copy()

    def swap(self, output: str, input: str) -> None:
        """Let an output of the last run be an input of the next one; nothing is copied.

        Raises OptionError for unknown names, before a run, and where the input takes another type or shape.
        """
        self._vet("input", input, self._inputs)
        value = self._last(output)
        declared = self._inputs[input]
        if value.data_type() != declared.type:
            raise OptionError(
                f"output {output!r} is a {value.data_type()}, input {input!r} takes a {declared.type}"
            )
        given = list(value.shape())
        fits = len(given) == len(declared.shape) and all(
            not isinstance(size, int) or size == have
            for size, have in zip(declared.shape, given, strict=True)
        )
        if not fits:
            raise OptionError(f"output {output!r} is {given}, input {input!r} takes {declared.shape}")
        self._fed[input] = value

    def _last(self, name: str) -> Any:
        self._vet("output", name, self._outputs)
        if name not in self._made:
            raise OptionError(f"there is no output {name!r} yet; call run() first")
        return self._made[name]

    def _vet(self, kind: str, name: str, known: Any) -> None:
        if name not in known:
            raise OptionError(
                f"the model has no {kind} {name!r}{nearest(name, known)}; it has: {', '.join(known)}"
            )

    def _upload(self, value: npt.NDArray[np.generic]) -> Any:
        try:
            return self._ort.OrtValue.ortvalue_from_numpy(value, self.device, self.device_id)
        except Exception as error:
            where = f"{self.device}:{self.device_id}"
            raise ProviderError(f"cannot put {value.nbytes} bytes on {where}: {error}") from error


def _device(session: InferenceSession) -> tuple[str, int]:
    """Where the first provider computes, and its number."""
    first = session.get_providers()[0]
    options = session.get_provider_options().get(first, {})
    return DEVICES.get(first, "cpu"), int(options.get("device_id", 0)) if first in DEVICES else 0


__all__ = ["Bound"]
