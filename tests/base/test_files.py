"""Files whole or not at all, in every way that writing may end."""

import errno
import hashlib
import os

import pytest

from llmkg_lab.base import files


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "file.json"
    files.write(path, "first ⏎\n")
    files.write(path, b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # as the user's umask says


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "no space")])
@pytest.mark.parametrize("before", [None, "as it was"])
def test_an_error_leaves_what_was_there_and_nothing_beside_it(error, before, tmp_path):
    path = tmp_path / "file"
    if before:
        path.write_text(before)
    names = sorted(tmp_path.iterdir())

    def write_half():
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            assert temporary.parent == path.parent  # a rename must not leave the disk
            raise error

    with pytest.raises((KeyboardInterrupt, OSError)):
        write_half()
    assert sorted(tmp_path.iterdir()) == names
    assert not before or path.read_text() == before


def test_what_cannot_take_its_place_is_cleared_away(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write(tmp_path / "file", "content")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_content_reaches_the_disk_before_the_name_does(tmp_path, monkeypatch):
    path, order = tmp_path / "file", []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("content"), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("name"), replace(a, b)))
    files.write(path, "content")
    files.write(path, "content", durable=False)
    assert order == ["content", "name", "name"]


def test_the_hash_is_of_the_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3_000_000))
    assert files.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_folders_files_links_and_nothing_are_removed(tmp_path):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "folder" / "deeper").mkdir(parents=True)
    (tmp_path / "folder" / "deeper" / "file").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("folder", "file", "link", "absent"):
        files.remove(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("name", "is_inside", "is_beside"),
    [
        ("model-00001.safetensors", True, True),
        ("onnx/model.onnx", True, False),
        ("", True, False),
        (".", True, False),
        ("..", False, False),
        ("a/../b", False, False),
        ("/etc/passwd", False, False),
        ("a\0b", False, False),
        ("\ud800", True, True),
        ("é" * 127, True, True),
        ("é" * 128, False, False),  # 256 bytes, which no file's name may have
        ("a/" * 600, False, False),
    ],
)
def test_names_that_files_give(name, is_inside, is_beside):
    assert (files.is_inside(name), files.is_beside(name)) == (is_inside, is_beside)


def test_what_is_no_text_names_nothing():
    assert not any(map(files.is_beside, (None, 1, ["a"], {"a": 1})))


def test_a_lock_is_waited_for_with_patience(tmp_path):
    with (
        files.locked(tmp_path / "lock"),
        pytest.raises(TimeoutError, match="lock is still locked after"),
        files.locked(tmp_path / "lock", 0.01),
    ):
        pass
    with files.locked(tmp_path / "lock", 0.01):
        pass
