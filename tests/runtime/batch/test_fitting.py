"""Fits on several processes are those of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxplain import models
from tests.runtime.cli.conftest import Cli, cli

__all__ = ["cli"]
LENET = models.path("mnist_lenet")
FITS: dict[str, tuple[object, ...]] = {
    "patterns": (LENET, "PHOTOS", "--threads", 1),
    "gaussian": ("PHOTOS", "-l", 8, "--patches", 120, "--model", LENET),
}


@pytest.mark.parametrize("kind", FITS)
def test_the_same_as_one_process(kind: str, cli: Cli, photos: Path) -> None:
    words = ["fit", kind, *(photos if word == "PHOTOS" else word for word in FITS[kind])]
    alone = [word for word in words]
    many = [word for i, word in enumerate(words) if "--threads" not in words[max(0, i - 1) : i + 1]]
    cli.works(*alone, "-o", "one.npz")
    Path("many.npz.part-1-of-2").write_bytes(b"")
    said = cli.refuses(*many, "-o", "many.npz", "--workers", 2)
    assert "'many.npz.part-1-of-2' is of a fit that was stopped" in said
    Path("many.npz.part-1-of-2").unlink()
    assert cli.works(*many, "-o", "many.npz", "--workers", 2).made == {"many.npz"}
    assert Path("many.npz").read_bytes() == Path("one.npz").read_bytes()


def test_workers_are_no_shards(cli: Cli, photos: Path) -> None:
    said = cli.refuses("fit", "patterns", LENET, photos, "-o", "p.npz", "--workers", 2, "--shard", "1/2")
    assert "no --shard with them" in said
