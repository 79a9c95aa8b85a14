"""`onnxplain fit` on several processes: shard I of N in each, merged exactly."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

from ...rewriter.errors import OptionError
from ..estimate import Plan, Statistics, gather, load_statistics, merge, save_statistics
from ..estimate.fit import Progress, Reading
from ..estimate.samples import Images
from ..perturb.gaussian_fit import (
    Patches,
    PatchSums,
    gather_patches,
    load_patch_sums,
    merge_patch_sums,
    save_patch_sums,
)
from ..preprocess import Preprocessing
from .pool import check_stop, local_workers, spread


def part_files(plan: Plan, workers: int) -> list[Path]:
    """Where each process keeps what it has counted: beside the plan's partial file. They are the caller's to delete,
    once the result is written."""
    if plan.partial is None or plan.shard is not None:
        raise OptionError(
            "workers share out the shards themselves, and keep them in files: no --shard with them"
        )
    return [plan.partial.with_name(f"{plan.partial.name}-{i}-of-{workers}") for i in range(1, workers + 1)]


def gather_on(
    workers: int, model: str | os.PathLike[str], images: Images, plan: Plan, **reading: Unpack[Reading]
) -> Statistics:
    """`estimate.gather` on several processes, each of one thread unless `threads` says otherwise. The sums are those of
    one process of as many threads, to the bit. Raises what it raises, and ExplainError for processes that keep dying.
    """
    tell = reading.pop("progress", None)
    reading["threads"] = reading.get("threads") or 1
    paths = _counted(workers, partial(_count_patterns, model, images, reading), plan, tell)
    return merge([load_statistics(path) for path in paths], [str(path) for path in paths])


def gather_patches_on(
    workers: int,
    images: Images,
    of: Patches,
    plan: Plan,
    *,
    preprocessing: Preprocessing | None = None,
    raw_input: bool = False,
    progress: Progress | None = None,
) -> PatchSums:
    """`perturb.gaussian_fit.gather_patches` on several processes; the same sums, to the bit."""
    count = partial(_count_patches, images, of, preprocessing, raw_input)
    paths = _counted(workers, count, plan, progress)
    return merge_patch_sums([load_patch_sums(path) for path in paths], [str(path) for path in paths])


def _counted(
    workers: int, count: Callable[[Plan], Path], plan: Plan, tell: Progress | None
) -> Sequence[Path]:
    """A finished part is a file like that of a part that was stopped, so that both are resumed alike."""
    paths = part_files(plan, workers)
    there = [path for path in paths if path.exists()]
    if there and not plan.resume:
        raise OptionError(
            f"{str(there[0])!r} is of a fit that was stopped; go on with --resume, or delete it"
        )
    # resume in any case: a part whose process died is handed out again and may find its own file
    parts = [replace(plan, shard=(i, workers), partial=path, resume=True) for i, path in enumerate(paths, 1)]
    with local_workers(workers) as crew:
        for done, _ in enumerate(spread(crew, count, parts), 1):
            if tell is not None:
                tell(done, workers)
    return paths


def _count_patterns(model: str | os.PathLike[str], images: Images, reading: Reading, plan: Plan) -> Path:
    reading["progress"] = _stoppable
    found = gather(model, images, plan=plan, **reading)
    return _kept(plan, partial(save_statistics, found))


def _count_patches(
    images: Images, of: Patches, preprocessing: Preprocessing | None, raw_input: bool, plan: Plan
) -> Path:
    found = gather_patches(
        images, of, preprocessing=preprocessing, raw_input=raw_input, plan=plan, progress=_stoppable
    )
    return _kept(plan, partial(save_patch_sums, found))


def _kept(plan: Plan, save: Callable[[Path], Path]) -> Path:
    assert plan.partial is not None
    return save(plan.partial)


def _stoppable(done: int, whole: int) -> None:
    check_stop()
