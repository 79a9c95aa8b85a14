"""The linear interpreter of a network at one input, y = F(x0) x + r(x0). Navarrete et al. section 3."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...rewriter.errors import OptionError
from ..arguments import vet_arguments
from ..compiling import Model
from ..lanes import Progress
from .contributions import Contributions
from .layout import Array, Entries, Entry, Given, Layout, Tensors, as_array
from .svd import Settings, Svd, decompose
from .system import Asked, System
from .votes import PORTION, Votes, count_votes

if TYPE_CHECKING:
    from ..providers import Provider

DENSE = 2**25
"""Entries of F that `dense` makes without being asked twice: 134 MB in float32."""


class Interpreter:
    """y = F x + r: the network frozen at x0, as a linear operator. F x0 + r is what the network says of x0.

    model: path, bytes or ModelProto. x0: one sample with its batch axis of 1, or a dict of arrays by input name.
    output, head, inputs: what is explained and for which inputs, as in `onnxplain.compile`; with the default
    head="logits" y is what a final softmax is given. Inputs that are not explained keep the value they have in x0.
    freeze ("offset", "mask", "taylor") and norm ("stats", "std"): how smooth activations and normalisations are held.
    probes: rows or columns of one run on the CPU (8); long lists of them go through a file of its own with that many
    branches, 0 leaves that out. memory, cache, providers, threads: as in `onnxplain.compile`.

    x and y stand for the shapes of one sample without the batch axis, n and N for their sizes. Flat vectors are in
    row-major order; of several explained inputs they follow each other, and tensors are dicts by input name.

    `A @ x` and `A.T @ y` take flat vectors (n,), matrices of columns (n, K), a tensor of one sample, or a batch of
    them (K, ...) where a sample has two axes or more. The names of scipy's LinearOperator are there too, so that
    `scipy.sparse.linalg` takes an Interpreter as it is. Files are compiled when they are first needed.

    Raises what `onnxplain.compile` raises; OptionError for a batch of several samples, for indices out of range (with
    the range) and for shapes that do not fit.
    """

    def __init__(
        self,
        model: Model,
        x0: Given,
        *,
        output: str | None = None,
        inputs: Sequence[str] | None = None,
        head: str = "logits",
        freeze: str = "offset",
        norm: str = "stats",
        probes: int | None = None,
        providers: str | Sequence[Provider] | None = None,
        threads: int | None = None,
        memory: int | str | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        vet_arguments(output=output, inputs=inputs, head=head, probes=probes)
        vet_arguments(providers=providers, threads=threads, cache=cache)
        asked = Asked(output, inputs, head, freeze, norm, probes, providers, threads, memory, cache)
        self.system = System.of(model, x0, asked)
        outward, inward = self.system.outward, self.system.inward
        self.shape = (outward.size, inward.size)
        self.dtype = np.dtype(np.result_type(self.system.value.dtype, np.float32))
        self.T = Transposed(self)

    def __repr__(self) -> str:
        y, x = (", ".join(f"{n} {list(s)}" for n, s in side.parts) for side in (self.outward, self.inward))
        return f"Interpreter(F {self.shape[0]} x {self.shape[1]}: {y} from {x})"

    @property
    def inward(self) -> Layout:
        """Layout of the inputs."""
        return self.system.inward

    @property
    def outward(self) -> Layout:
        """Layout of the output."""
        return self.system.outward

    @property
    def ndim(self) -> int:
        return 2

    @property
    def H(self) -> Transposed:
        """The transpose: F is real."""
        return self.T

    def adjoint(self) -> Transposed:
        return self.T

    def transpose(self) -> Transposed:
        return self.T

    @property
    def residual(self) -> Array:
        """r(x0), (*y): what the frozen network says to an input of zeros."""
        found: Array = self.system.residual[0]
        return found

    @property
    def value(self) -> Array:
        """y0 = F x0 + r, (*y), as the network computes it."""
        found: Array = self.system.value[0]
        return found

    @property
    def x0(self) -> Tensors:
        """The explained input, without its batch axis."""
        return self.inward.sample(self.inward.flat({n: self.system.feeds[n] for n in self.system.names})[0])

    def matmat(self, x: Array) -> Array:
        """F x: (n, K) -> (N, K)."""
        tangents = self.inward.split(self._columns(x, self.shape[1], "x").T)
        made: Array = self.system.columns(tangents).reshape(-1, self.shape[0]).T
        return made.astype(self.dtype, copy=False)

    def rmatmat(self, y: Array) -> Array:
        """F'y: (N, K) -> (n, K)."""
        rows = self._columns(y, self.shape[0], "y").T
        made: Array = self.inward.flat(self.system.rows(self._y(rows))).T
        return made.astype(self.dtype, copy=False)

    def matvec(self, x: Array) -> Array:
        """F x: (n,) or (n, 1) -> (N,) or (N, 1)."""
        return self.matmat(np.reshape(x, (-1, 1))).reshape((-1, 1) if np.ndim(x) == 2 else -1)

    def rmatvec(self, y: Array) -> Array:
        """F'y: (N,) or (N, 1) -> (n,) or (n, 1)."""
        return self.rmatmat(np.reshape(y, (-1, 1))).reshape((-1, 1) if np.ndim(y) == 2 else -1)

    def __matmul__(self, x: Given) -> Array:
        """F x; what comes back has the form that was given: flat, columns, a sample, or a batch."""
        rows, form = _read(x, self.inward)
        made = self.matmat(rows.T).T
        found: Array = _written(made, self.outward, form)
        return found

    def apply(self, x: Given) -> Array:
        """F x + r, in the form of `A @ x`."""
        rows, form = _read(x, self.inward)
        made = self.matmat(rows.T).T + self.residual.reshape(1, -1)
        found: Array = _written(made, self.outward, form)
        return found

    def rows(self, indices: Entries, progress: Progress | None = None) -> Tensors:
        """Receptive filters F'e_i (K, *x): what each output entry takes from the input. indices: a flat index, a tuple
        of coordinates such as (channel, y, x), or a list of them; an array (K,), or (K, axes)."""
        found = self.outward.indices(indices)
        made = self.system.rows(self._y(self.outward.units(found, self.dtype)), progress)
        return self.inward.tensors(self.inward.flat(made).astype(self.dtype, copy=False))

    def columns(self, indices: Entries, progress: Progress | None = None) -> Array:
        """Projective filters F e_k (K, *y): what each input entry does to the output. indices as in `rows`; with
        several explained inputs coordinates begin with the input's name."""
        found = self.inward.indices(indices)
        tangents = self.inward.split(self.inward.units(found, self.dtype))
        return self.system.columns(tangents, progress).astype(self.dtype, copy=False)

    def dense(self, limit: int = DENSE, progress: Progress | None = None) -> Array:
        """F (N, n), by rows or by columns, whichever are fewer. OptionError for more than `limit` entries."""
        (outputs, inputs), size = self.shape, self.shape[0] * self.shape[1]
        if size > limit:
            raise OptionError(
                f"F is {outputs} x {inputs}, {size} entries over the limit of {limit}; use rows, columns, svd or "
                "A @ x, or give a larger limit="
            )
        if outputs <= inputs:
            made = self.system.rows(self._y(np.eye(outputs, dtype=self.dtype)), progress)
            return self.inward.flat(made).astype(self.dtype, copy=False)
        tangents = self.inward.split(np.eye(inputs, dtype=self.dtype))
        columns = self.system.columns(tangents, progress)
        return np.ascontiguousarray(columns.reshape(inputs, outputs).T.astype(self.dtype, copy=False))

    def svd(
        self,
        k: int,
        method: str = "power",
        momentum: float | str = 0.0,
        steps: int = 200,
        tolerance: float = 1e-3,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Svd:
        """The k largest singular values with eigen-inputs and eigen-outputs.

        method: "power" (Algorithm 1 with deflation; one F'F a step) or "lanczos" (scipy; better for many, or close,
        values). momentum: m in units of σ⁴, best σ₂⁴/4 and always below σ₁⁴/4, or "auto" (estimated for each triplet).
        Stops where ‖F'u - σv‖ / σ reaches the tolerance, or after `steps` for each triplet; `converged` tells which.
        The error of σ itself is about the square of that residual. seed: of the start vectors.
        """
        settings = Settings(k, method, momentum, steps, tolerance, seed)
        found = decompose(self, settings, progress)
        u, v = (
            np.reshape(f, (len(f), n)).astype(self.dtype)
            for f, n in zip((found.u, found.v), self.shape, strict=True)
        )
        residuals = np.asarray(found.residuals)
        return Svd(
            values=np.asarray(found.values),
            inputs=self.inward.tensors(v),
            outputs=self._y(u),
            residuals=residuals,
            steps=np.asarray(found.steps, np.int64),
            converged=residuals <= tolerance,
            momentum=np.asarray(found.momentum),
            warnings=tuple(found.warnings),
        )

    def contributions(self, target: Entry = -1) -> Contributions:
        """What the input and every bias contribute to one score: a class, coordinates, or -1 for the largest."""
        index, file = self._target(target), self.system.file("contributions")
        values = file(self.system.x0, target=index).results["contributions"][0]
        return Contributions(
            tuple(file.card.options["terms"]), values, index, float(self.value.ravel()[index])
        )

    def discussion(self, target: Entry = -1, variant: str = "classwise", scale: str = "score") -> Tensors:
        """The pixel discussion of one score (*x): what every input entry contributes, biases taken back to the input.

        variant: "classwise", or as printed "paper" or "eq18", with a warning; scale: "score", "shift" or "none"
        (docs/methods/linearscope.md, "Discussions and votes"; the options of `linearscope.pixel-discussion`). target
        as in `contributions`.
        """
        file = self.system.file("pixel-discussion", variant=variant, scale=scale)
        found = file(self.system.x0, target=self._target(target)).attributions
        return self.inward.sample(
            self.inward.flat(dict(zip(self.system.names, found.values(), strict=True)))[0]
        )

    def votes(
        self,
        classes: Sequence[int] | None = None,
        variant: str = "classwise",
        scale: str = "score",
        progress: Progress | None = None,
    ) -> Votes:
        """The class that every pixel votes for: the largest of the discussions, summed over channels. classes: flat
        indices, all of them by default, 16 of them at a time or as many as the memory takes. In the variants "paper"
        and "eq18" the biases say the same for every class, which one class may win by: an ExplainWarning says so."""
        chosen = range(self.shape[0]) if classes is None else self.outward.indices(list(classes))
        if len(set(chosen)) != len(chosen):
            raise OptionError(f"votes: a class is given twice in {list(chosen)}")
        file = self.system.file("votes", variant=variant, scale=scale)

        def run(part: Array) -> Array:
            return np.asarray(file(self.system.x0, classes=part).results["discussion"])

        most = min(PORTION, len(chosen))
        portion = self.system.fitting(file, {"classes": np.asarray(chosen[:most], np.int64)}, most)
        return count_votes(run, chosen, portion, progress)

    def _target(self, target: Entry) -> int:
        top = not isinstance(target, tuple) and target == -1
        return int(self.value.argmax()) if top else self.outward.index(target)

    def _y(self, rows: Array) -> Array:
        return next(iter(self.outward.split(rows).values()))

    def _columns(self, x: Array, size: int, what: str) -> Array:
        array = as_array(x, what)
        if array.ndim != 2 or array.shape[0] != size:
            raise OptionError(
                f"{what} has shape {list(array.shape)}; columns of {size} entries are needed, ({size}, K)"
            )
        return array.astype(self.dtype, copy=False)


class Transposed:
    """F' of an Interpreter."""

    def __init__(self, of: Interpreter) -> None:
        self.T = self.H = of
        self.shape, self.dtype, self.ndim = of.shape[::-1], of.dtype, 2

    def matmat(self, y: Array) -> Array:
        return self.T.rmatmat(y)

    def rmatmat(self, x: Array) -> Array:
        return self.T.matmat(x)

    def matvec(self, y: Array) -> Array:
        return self.T.rmatvec(y)

    def rmatvec(self, x: Array) -> Array:
        return self.T.matvec(x)

    def __matmul__(self, y: Given) -> Tensors:
        """F'y; what comes back has the form that was given."""
        rows, form = _read(y, self.T.outward)
        return _written(self.T.rmatmat(rows.T).T, self.T.inward, form)


def _read(x: Given, layout: Layout) -> tuple[Array, str]:
    """(K, size), and the form it had: "flat", "columns", "sample" or "batch"."""
    if isinstance(x, Mapping):
        return _read_dict(x, layout)
    array, tail, size = as_array(x, layout.what), layout.shape, layout.size
    if array.shape == (size,):
        return array[None], "flat"
    if array.shape == tail:
        return array.reshape(1, -1), "sample"
    if array.ndim == 2 and array.shape[0] == size:
        return array.T, "columns"
    if tail is not None and len(tail) > 1 and array.shape[1:] == tail and len(array):
        return array.reshape(len(array), -1), "batch"
    forms = [f"({size},)", f"({size}, K)"]
    if tail is not None and len(tail) > 1:
        forms += [str(tail), f"(K, {', '.join(map(str, tail))})"]
    raise OptionError(
        f"the {layout.what} given has shape {list(array.shape)}; {' or '.join(forms)} is needed"
    )


def _read_dict(x: Mapping[str, Any], layout: Layout) -> tuple[Array, str]:
    wanted = dict(layout.parts)
    if set(x) != set(wanted):
        raise OptionError(
            f"the {layout.what} has {', '.join(wanted)}; given were {', '.join(map(str, x)) or 'none'}"
        )
    arrays = {name: as_array(x[name], name) for name in wanted}
    single = all(arrays[name].shape == shape for name, shape in wanted.items())
    batch = {name: a[None] if single else a for name, a in arrays.items()}
    for name, shape in wanted.items():
        if batch[name].shape[1:] != shape or len(batch[name]) != len(next(iter(batch.values()))):
            raise OptionError(
                f"{name!r} has shape {list(arrays[name].shape)}; {list(shape)} or a batch of it is needed"
            )
    return layout.flat(batch), "sample" if single else "batch"


def _written(rows: Array, layout: Layout, form: str) -> Tensors:
    if form == "flat":
        flat: Array = rows[0]
        return flat
    if form == "columns":
        return rows.T
    found: Tensors = layout.sample(rows[0]) if form == "sample" else layout.tensors(rows)
    return found


__all__ = ["Interpreter"]
