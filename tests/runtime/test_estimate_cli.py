"""`onnxplain fit`: what it writes, and one line for whatever a user can mend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxplain import models
from onnxplain.rewriter.errors import OptionError
from onnxplain.runtime.cli import main
from onnxplain.runtime.estimate import load_patterns, load_statistics

LENET = models.path("mnist_lenet")


@dataclass(frozen=True)
class Here:
    """The command line in this process, in a folder of its own that holds 12 digits as a folder and as an array."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def works(self, *words: object) -> str:
        code, out, err = self.run(*words)
        assert (code, err) == (0, "")
        return out

    def refuses(self, *words: object) -> str:
        """Exit code 2, one line on stderr, nothing on stdout, no file made: that line."""
        before = set(self.folder.rglob("*"))
        code, out, err = self.run(*words)
        assert code == 2 and not out and set(self.folder.rglob("*")) == before, (code, out, err)
        assert err.startswith("onnxplain: ") and err.count("\n") == 1 and "Traceback" not in err, err
        return err

    def run(self, *words: object) -> tuple[int, str, str]:
        self.capture.readouterr()
        code = main([str(word) for word in words])
        out, err = self.capture.readouterr()
        return code, out, err


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    digits = models.digits()[0][:12]
    np.savez("digits.npz", images=digits)
    Path("photos").mkdir()
    for i, digit in enumerate(digits):
        Image.fromarray(digit).save(f"photos/{i:02}.png")
    return Here(tmp_path, capsys)


def test_fit_then_explain(here: Here) -> None:
    out = here.works("fit", "patterns", LENET, "photos", "-o", "p.npz")
    assert out.startswith("p.npz: patterns of 4 nodes from 12 pictures\n")
    assert "  note: /fc1/Gemm: " in out
    here.works("fit", "patterns", LENET, "digits.npz", "-o", "q.npz", "--batch", 3, "--threads", 1)
    photos, array = load_patterns("p.npz"), load_patterns("q.npz")
    assert photos.digest == array.digest, "the same pictures, from files and from an array"
    assert not list(here.folder.glob("*.part"))
    out = here.works("compile", LENET, "-m", "pattern-attribution", "--set", "patterns=p.npz", "-o", "e.onnx")
    assert "4 nodes" in out or "nodes explained" in out
    out = here.works("show", "e.onnx")
    assert photos.digest in out


def test_shards_and_limits(here: Here) -> None:
    here.works("fit", "patterns", LENET, "digits.npz", "-o", "whole.npz", "--limit", 9)
    for i in (1, 2, 3):
        out = here.works(
            "fit", "patterns", LENET, "digits.npz", "-o", f"s{i}", "--limit", 9, "--shard", f"{i}/3"
        )
        assert out == f"s{i}: statistics of 3 of 9 pictures; join all with `fit merge`\n"
    here.works("fit", "merge", "s2", "s3", "s1", "-o", "joined.npz")
    assert load_patterns("joined.npz").digest == load_patterns("whole.npz").digest
    code, out, err = here.run("fit", "merge", "s2", "s3", "-o", "some.npz", "--estimator", "plus")
    assert code == 0 and err == "onnxplain: 6 of 9 pictures are there\n"
    assert set(load_patterns("some.npz").arrays["/fc1/Gemm"]) == {"plus"}
    assert "'s1' holds picture 0 a second time" in here.refuses("fit", "merge", "s1", "s1", "-o", "x.npz")


def test_going_on(here: Here) -> None:
    """A picture that cannot be read stops the fit; what was counted before it is kept, and --resume goes on."""
    good = Path("photos/07.png").read_bytes()
    Path("photos/07.png").write_bytes(good[:60] + b"\0" * (len(good) - 60))
    code, out, err = here.run("fit", "patterns", LENET, "photos", "-o", "p.npz", "--batch", 1)
    assert code == 2 and not out and "07.png' cannot be read as a picture" in err and err.count("\n") == 1
    assert not Path("p.npz").exists()
    kept = load_statistics("p.npz.part").images
    assert 1 <= kept <= 7
    Path("photos/07.png").write_bytes(good)
    line = here.refuses("fit", "patterns", LENET, "photos", "-o", "p.npz")
    assert f"holds {kept} pictures of a fit that was stopped; go on with --resume, or delete it" in line
    here.works("fit", "patterns", LENET, "photos", "-o", "p.npz", "--resume")
    here.works("fit", "patterns", LENET, "photos", "-o", "q.npz")
    assert Path("p.npz").read_bytes() == Path("q.npz").read_bytes()
    assert not Path("p.npz.part").exists()
    here.works("fit", "patterns", LENET, "photos", "-o", "r.npz", "--resume")  # nothing to go on from


def test_raw_input(here: Here) -> None:
    x = (models.digits()[0][:12, None] / 255.0).astype(np.float32)
    np.save("x.npy", x)
    here.works("fit", "patterns", LENET, "x.npy", "-o", "p.npz", "--raw-input")
    here.works("fit", "patterns", LENET, "digits.npz", "-o", "q.npz")
    assert load_patterns("p.npz").digest == load_patterns("q.npz").digest
    assert load_patterns("p.npz").provenance["preprocessing"] is None


def test_usage(here: Here) -> None:
    fit = ("fit", "patterns", LENET)
    assert "there is no such folder or file" in here.refuses(*fit, "nowhere", "-o", "p.npz")
    assert "existing folder" in here.refuses(*fit, "photos", "-o", "no/such/p.npz")
    assert "write it as 1/4" in here.refuses(*fit, "photos", "-o", "p.npz", "--shard", "3")
    assert "write it as 1/4" in here.refuses(*fit, "photos", "-o", "p.npz", "--shard", "3/2")
    assert "it is one of plus, linear" in here.refuses(*fit, "photos", "-o", "p.npz", "--estimator", "best")
    assert "is one of the inputs" in here.refuses(*fit, "digits.npz", "-o", "digits.npz")
    assert "raw_input is for arrays" in here.refuses(*fit, "photos", "-o", "p.npz", "--raw-input")
    assert "no model file" in here.refuses("fit", "patterns", "no.onnx", "photos", "-o", "p.npz")
    assert "no tensor 'z'" in here.refuses(*fit, "photos", "-o", "p.npz", "--head", "z")
    assert "no such file of statistics" in here.refuses("fit", "merge", "a", "-o", "p.npz")
    assert "cannot be read as statistics" in here.refuses("fit", "merge", "digits.npz", "-o", "p.npz")
    assert "see `onnxplain --help`" in here.refuses(*fit, "photos")
    np.save("bad.npy", np.full((3, 1, 28, 28), np.nan, np.float32))
    assert "bad.npy[0] holds NaN" in here.refuses(*fit, "bad.npy", "-o", "p.npz", "--raw-input")
    np.save("wide.npy", np.zeros((3, 3, 28, 28), np.float32))
    assert "takes [N, 1, 28, 28]" in here.refuses(*fit, "wide.npy", "-o", "p.npz", "--raw-input")
    Path("p.npz").write_bytes(b"PK\3\4 not really")
    line = here.refuses("compile", LENET, "-m", "pattern-net", "--set", "patterns=p.npz", "-o", "e.onnx")
    assert "cannot be read as patterns" in line
    assert "needs patterns=" in here.refuses("compile", LENET, "-m", "pattern-net", "-o", "e.onnx")


def test_patterns_of_another_model(here: Here) -> None:
    here.works("fit", "patterns", LENET, "photos", "-o", "p.npz", "--limit", 2)
    other = models.path("efficientnet_lite0")
    line = here.refuses("compile", other, "-m", "pattern-net", "--set", "patterns=p.npz", "-o", "e.onnx")
    assert "fitted on another model" in line


def test_a_statistics_file_is_no_patterns(here: Here) -> None:
    here.works("fit", "patterns", LENET, "photos", "-o", "s", "--shard", "1/2")
    with pytest.raises(OptionError, match="onnxplain statistics 1"):
        load_patterns("s")
