"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxplain.rewriter.errors import OptionError
from onnxplain.runtime.atomic import atomic, atomic_folder, write_bytes


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with atomic(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".onnx" and not path.exists()
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half way"), atomic(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("half way")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_write_bytes_replaces(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"1")
    write_bytes(str(tmp_path / "a"), b"22")
    assert (tmp_path / "a").read_bytes() == b"22"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    with open(tmp_path / "plain", "wb"):
        pass
    write_bytes(tmp_path / "a", b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "none" / "a.onnx", tmp_path / "file" / "a.onnx", tmp_path):
        with pytest.raises(OptionError) as caught:
            write_bytes(path, b"")
        assert repr(str(path)) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs a device file")
def test_a_device_is_never_replaced() -> None:
    with pytest.raises(OptionError, match="not a regular file"):
        write_bytes("/dev/null", b"")


def test_a_folder_appears_whole_and_an_older_one_stays_until_then(tmp_path: Path) -> None:
    place = tmp_path / "new" / "folder"
    for text in ("first", "second"):
        with atomic_folder(place) as work:
            (work / "file").write_text(text)
            assert not place.exists() or (place / "file").read_text() == "first"
        assert (place / "file").read_text() == text
    with pytest.raises(ZeroDivisionError), atomic_folder(place) as work:
        (work / "file").write_text(str(1 // 0))
    assert (place / "file").read_text() == "second" and list(place.parent.iterdir()) == [place]


def test_an_older_folder_comes_back_where_renaming_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "folder"
    place.mkdir()
    (place / "file").write_text("old")
    rename = os.replace

    def refuse(source: Path, target: Path) -> None:
        if target == place and not source.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space"), atomic_folder(place) as work:
        (work / "file").write_text("new")
    assert (place / "file").read_text() == "old" and list(tmp_path.iterdir()) == [place]
