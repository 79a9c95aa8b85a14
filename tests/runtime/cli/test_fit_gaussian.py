"""`onnxplain fit gaussian`: what it writes, and one line for whatever a user can mend."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxplain import models
from onnxplain.runtime.perturb.difference import PDA_SAMPLING
from onnxplain.runtime.perturb.gaussian import load_gaussian
from onnxplain.runtime.perturb.probing import Asked, Prober
from onnxplain.runtime.perturb.technique import perform
from tests.runtime.cli.conftest import Cli

LENET = models.path("mnist_lenet")
FIT = ("fit", "gaussian", "photos", "-l", 8, "--patches", 120)


@pytest.fixture
def here(cli: Cli) -> Cli:
    """12 digits as a folder of photos and as an array."""
    digits = models.digits()[0][:12]
    np.savez("digits.npz", images=digits)
    Path("photos").mkdir()
    for i, digit in enumerate(digits):
        Image.fromarray(digit).save(f"photos/{i:02}.png")
    return cli


def test_fit_then_explain(here: Cli) -> None:
    ran = here.works(*FIT, "--model", LENET, "-o", "g.npz")
    assert ran.made == {"g.npz"}
    g = load_gaussian("g.npz")
    assert ran.out == f"g.npz: {g}, from 120 patches of 12 pictures\n"
    assert (g.patch, g.channels, g.size) == (8, 1, (28, 28))
    assert g.provenance["preprocessing"]["color"] == "GRAY"
    x = (models.digits()[0][:1, None] / 255.0).astype(np.float32)
    prober = Prober(LENET, x, Asked(preprocessing=g.provenance["preprocessing"], threads=1))
    found = perform(prober, PDA_SAMPLING, k=4, l=8, stride=4, samples=2, gaussian=g)
    assert found.maps.shape == (1, 28, 28) and found.maps.any()


def test_the_same_pictures_otherwise(here: Cli) -> None:
    """From files and an array; as the model says, by a record, and as raw inputs."""
    here.works(*FIT, "--model", LENET, "-o", "g.npz")
    g = load_gaussian("g.npz")
    np.save("raw.npy", (models.digits()[0][:12, None] / 255.0).astype(np.float32))
    Path("record.json").write_text(json.dumps(g.provenance["preprocessing"]))
    rest = ("-l", 8, "--patches", 120)
    here.works("fit", "gaussian", "digits.npz", *rest, "--model", LENET, "-o", "a.npz", "--batch", 2)
    here.works("fit", "gaussian", "digits.npz", *rest, "--preprocess", "record.json", "-o", "b.npz")
    here.works("fit", "gaussian", "raw.npy", *rest, "--raw-input", "-o", "c.npz")
    for name in "abc":
        assert load_gaussian(f"{name}.npz").digest == g.digest
    here.works("fit", "gaussian", "digits.npz", *rest, "--model", LENET, "--seed", 1, "-o", "d.npz")
    assert load_gaussian("d.npz").digest != g.digest


def test_a_preset_and_joint_channels(here: Cli) -> None:
    out = here.works(
        "fit", "gaussian", "photos", "-l", 5, "--preprocess", "unit", "--joint", "-o", "g.npz"
    ).out
    g = load_gaussian("g.npz")
    assert "3 joint channels" in out and g.joint and g.size is None
    assert g.low is not None and g.low.max() == 0.0 and g.high is not None and g.high.max() == 1.0
    assert g.provenance["counted"] == 20_000
    out = here.works(*FIT, "--preprocess", "unit", "--patches", 30, "-o", "few.npz").out
    assert "  note: 30 patches for 64 pixels: the covariance has not full rank" in out


def test_shards(here: Cli) -> None:
    fit = (*FIT, "--model", LENET, "--limit", 9)
    here.works(*fit, "-o", "whole.npz")
    for i in (1, 2, 3):
        out = here.works(*fit, "-o", f"s{i}", "--shard", f"{i}/3").out
        assert out == f"s{i}: statistics of 3 of 9 pictures; join all with `fit merge`\n"
    here.works("fit", "merge", "s2", "s3", "s1", "-o", "joined.npz")
    assert Path("joined.npz").read_bytes() == Path("whole.npz").read_bytes()
    ran = here("fit", "merge", "s2", "s3", "-o", "some.npz")
    assert ran.code == 0 and ran.err == "onnxplain: 6 of 9 pictures are there\n"
    assert "'s1' holds picture 0 a second time" in here.refuses("fit", "merge", "s1", "s1", "-o", "x.npz")
    line = here.refuses("fit", "merge", "s1", "s2", "-o", "x.npz", "--estimator", "plus")
    assert "--estimator is for patterns" in line
    here.works("fit", "patterns", LENET, "photos", "-o", "p1", "--shard", "1/2")
    for order in (("s1", "p1"), ("p1", "s1")):
        assert "onnxplain statistics 1" in here.refuses("fit", "merge", *order, "-o", "x.npz")


def test_going_on(here: Cli) -> None:
    good = Path("photos/07.png").read_bytes()
    Path("photos/07.png").write_bytes(good[:60] + b"\0" * (len(good) - 60))
    fit = (*FIT, "--model", LENET)
    ran = here(*fit, "-o", "g.npz", "--batch", 1)
    assert ran.code == 2 and "07.png' cannot be read as a picture" in ran.err and ran.made == {"g.npz.part"}
    Path("photos/07.png").write_bytes(good)
    assert "holds 7 pictures of a fit that was stopped" in here.refuses(*fit, "-o", "g.npz")
    here.works(*fit, "-o", "g.npz", "--resume")
    here.works(*fit, "-o", "h.npz")
    assert Path("g.npz").read_bytes() == Path("h.npz").read_bytes() and not Path("g.npz.part").exists()


def test_refusals(here: Cli) -> None:
    Image.fromarray(np.full((28, 28), 90, np.uint8)).save("flat.png")
    fit, model = ("fit", "gaussian"), ("--model", LENET, "-o", "g.npz")
    assert "say how the pictures are prepared" in here.refuses(*FIT, "-o", "g.npz")
    assert "there is no such folder or file" in here.refuses(*fit, "nowhere", *model)
    assert "existing folder" in here.refuses(*FIT, "--model", LENET, "-o", "no/such/g.npz")
    assert "one of the inputs" in here.refuses(*fit, "digits.npz", "--model", LENET, "-o", "digits.npz")
    assert "holds no patch of 40 x 40" in here.refuses(*fit, "photos", "-l", 40, *model)
    assert "channel 0 has no variance" in here.refuses(*fit, "flat.png", *model)
    assert "raw_input is for arrays" in here.refuses(*FIT, "--raw-input", *model)
    assert "write it as 1/4" in here.refuses(*FIT, *model, "--shard", "3")
    assert "no preset and no readable file" in here.refuses(*FIT, "--preprocess", "units", "-o", "g.npz")
    assert "no model file" in here.refuses(*FIT, "--model", "no.onnx", "-o", "g.npz")
    Path("g").write_bytes(b"PK\3\4 not really")
    assert "cannot be read as statistics" in here.refuses("fit", "merge", "g", "-o", "x.npz")
