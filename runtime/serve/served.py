"""The models an operator serves: opened once, run by many threads."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ...rewriter.card import Card, is_explanation, read_card
from ...rewriter.errors import ModelError, OptionError
from ...rewriter.load import Source, load
from ...rewriter.respell import respell
from ..compiling import description
from ..describe import Description
from ..explainer import Explainer
from ..lanes import SHARED
from ..opening import open_session, serialize, table_for
from ..providers import create_session, is_auto
from ..session import run, tensors_of
from .datatypes import Array, tensor_of
from .settings import Settings

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
TARGET, COTANGENT = "target", "cotangent"


class RunOptions(Protocol):
    """onnxruntime's; a run that has them stops soon after `terminate` is set, from any thread."""

    terminate: bool


class Interruptible:
    """A session whose runs obey `options`: one thread's, so that its deadline stops its runs and no others."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self.options: RunOptions | None = None
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def run(self, names: Sequence[str], feeds: dict[str, Array]) -> Sequence[Array]:
        options: Any = self.options
        found = self._session.run(names, feeds, options)
        return cast("Sequence[Array]", found)


class Served:
    """One model under its name. An explanation file runs as `onnxplain.load(file)(...)` does, any other as it is.

    Raises ModelError for a file that cannot be opened, or a type that the protocol cannot carry.
    """

    version = "1"

    def __init__(self, name: str, path: Path, settings: Settings) -> None:
        self.name, self.path = name, path
        source = load(path)
        self.model, self.sha256 = source.model, source.sha256
        self.card: Card | None = read_card(source.model) if is_explanation(source.model) else None
        self._memory = settings.memory
        self._session = _open(source, settings, self.card is not None)
        self._own = threading.local()
        optional, shared = self._optional(), self._shared()
        self.inputs = {
            node.name: tensor_of(node, name, node.name in optional, node.name in shared)
            for node in self._session.get_inputs()
        }
        given = self._session.get_outputs() if self.card is None else tensors_of(self._session)
        self.outputs = {node.name: tensor_of(node, name) for node in given}

    def _shared(self) -> frozenset[str]:
        added = () if self.card is None else self.card.inputs
        return frozenset(name for name in added if name.split("/")[0] in SHARED)

    def _optional(self) -> frozenset[str]:
        """Inputs that have a value of their own: the top class, noise of the method's seed."""
        if self.card is None:
            return frozenset()
        named = {TARGET} if self.card.target.get("target") == "input" else set()
        return frozenset(named | {name for name in self.card.inputs if name.split("/")[0] == "noise"})

    @cached_property
    def about(self) -> Description | None:
        """How pictures are prepared for it; None where it takes none."""
        try:
            return description(self.path, self.model)
        except OptionError:
            return None

    @property
    def labels(self) -> tuple[str, ...] | None:
        if self.card is not None and self.card.labels is not None:
            return self.card.labels
        return None if self.about is None else self.about.labels

    @cached_property
    def rows_free(self) -> bool:
        """Whether all inputs and outputs have a first axis of any size (the protocol's batch)."""
        return all(tensor.free_rows for tensor in (*self.inputs.values(), *self.outputs.values()))

    @cached_property
    def joinable(self) -> bool:
        """Whether rows of several requests may share one run: all first axes are the same one, by name, and the
        method adds no input but the class."""
        tensors = (*self.inputs.values(), *self.outputs.values())
        lead = {tensor.shape[0] if tensor.shape else None for tensor in tensors}
        added = set() if self.card is None else set(self.card.inputs) - {TARGET}
        apart = self.card is None or not self.card.target.get("rows")
        return self.rows_free and len(lead) == 1 and isinstance(next(iter(lead)), str) and not added and apart

    @property
    def explainer(self) -> Explainer:
        """The calling thread's own: an Explainer keeps the plan of its last call."""
        if self.card is None:
            raise OptionError(f"{self.name!r} is no explanation file; compile one with `onnxplain compile`")
        found: Explainer | None = getattr(self._own, "explainer", None)
        if found is None:
            found = Explainer(self.model, self.card, path=self.path, memory=self._memory)
            found.tells = False  # the answer does
            found.session = cast("InferenceSession", self._interruptible)
            self._own.explainer = found
        return found

    @property
    def _interruptible(self) -> Interruptible:
        if not hasattr(self._own, "session"):
            self._own.session = Interruptible(self._session)
        session: Interruptible = self._own.session
        return session

    def obey(self, options: RunOptions | None) -> None:
        """The next runs of the calling thread stop when `options.terminate` is set."""
        self._interruptible.options = options

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises as `Explainer`, and ModelError for a run that fails or is stopped."""
        if self.card is None:
            return dict(run(cast("InferenceSession", self._interruptible), feeds))
        x, more = dict(feeds), {}
        aim = self.card.target.get("target")
        target = x.pop(TARGET, None) if aim == "input" else None
        cotangent = x.pop(COTANGENT, None) if aim == COTANGENT else None
        for name in self.card.inputs:
            if name in x:
                more[name] = x.pop(name)
        return self.explainer.outputs(x, target, cotangent, **more)


def _open(source: Source, settings: Settings, explanation: bool) -> InferenceSession:
    """As `open_session`, with threads that sleep when they have nothing to do: the other runs need the cores."""
    providers = settings.providers
    if explanation and is_auto(providers):
        return open_session(source.model, source.path, providers, threads=settings.threads)
    model = respell(source.model, table_for(providers)) if explanation else source.model
    file = source.path if model is source.model and source.path is not None else serialize(model)
    return create_session(
        file, providers, threads=settings.threads, spinning=False, memory_pattern=not explanation
    )


def find_files(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Name -> file. A file is served under its name without .onnx; of a folder every .onnx file in it, and every
    NAME/1/model.onnx as model repositories have it.

    Raises OptionError: nothing there, two of one name, or a name that has no place in an address.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        files = {path.stem: [path]}
        if path.is_dir():
            files = {}
            for file in sorted(path.glob("*.onnx")):
                files.setdefault(file.stem, []).append(file)
            for file in sorted(path.glob("*/1/model.onnx")):
                files.setdefault(file.parent.parent.name, []).append(file)
            if not files:
                raise OptionError(f"{str(path)!r} holds no .onnx file and no NAME/1/model.onnx")
        for name, [file, *others] in files.items():
            if others or name in found:
                raise OptionError(
                    f"two models are called {name!r}: {found.get(name, others[:1])}, {file}; rename one"
                )
            if NAME.fullmatch(name) is None:
                raise OptionError(f"{str(file)!r}: rename it; a name in an address is of A-Z a-z 0-9 . _ -")
            found[name] = file
    if not found:
        raise OptionError("nothing to serve: give a file or a folder")
    return found


def open_models(paths: Sequence[str | os.PathLike[str]], settings: Settings) -> dict[str, Served]:
    """Every model of the paths, opened. Raises OptionError (`find_files`), ModelError naming the file."""
    models: dict[str, Served] = {}
    for name, path in find_files(paths).items():
        try:
            models[name] = Served(name, path, settings)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
    return models
