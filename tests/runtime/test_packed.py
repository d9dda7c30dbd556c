"""Packed weights: mapped and shared by real processes, and a cache that mends and bounds itself."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmkg_lab.artifact import Artifact
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.runtime.ort import packed
from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
from llmkg_lab.runtime.ort.packed_cache import RECENT, STALE, STAMP, PackedFolder, clean
from llmkg_lab.scheme import Scheme

TEXTS = ["A cat sits.", "Stocks fell on Monday."]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


@pytest.fixture
def embedder(make_artifact, tmp_path):
    """A copy of a real artifact that a test may damage."""
    return Artifact.open(
        shutil.copytree(make_artifact("minilm", "int8-rtn").folder, tmp_path / "copy")
    )


CODE = """
import json, sys
from llmkg_lab.artifact import Artifact
from llmkg_lab.runtime.ort import packed
from llmkg_lab.runtime.ort.decoder import Decoder
kind, folder = sys.argv[1:]
if kind == "copied":
    packed.WORTH = 1 << 60  # no artifact is worth it
decoder = Decoder(Artifact.open(folder), 1, 64)
print(json.dumps(list(decoder.generate([504, 3575, 282, 4649, 314], 16))), flush=True)
sys.stdin.read()
"""


class Running:
    """A process that has generated and waits; its memory is read from outside."""

    def __init__(self, kind, folder):
        command = [sys.executable, "-c", CODE, kind, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.tokens = json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def private(self):
        """Bytes of anonymous memory, which no other process can share."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024

    def mapped(self, folder):
        """Resident and proportional bytes of the files in a folder."""
        total, counts = {"Rss": 0, "Pss": 0}, False
        for line in Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            field, _, rest = line.partition(":")
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                counts = str(folder) in line
            elif counts and field in total:
                total[field] += int(rest.split()[0]) * 1024
        return total


def test_weights_are_mapped_and_two_processes_share_them(make_artifact, cache):
    artifact = make_artifact("smollm2", "int4-rtn")
    with (
        Running("copied", artifact.folder) as copied,
        Running("mapped", artifact.folder) as first,
        Running("mapped", artifact.folder) as second,
    ):
        assert first.tokens == second.tokens == copied.tokens
        assert copied.mapped(cache)["Rss"] == 0
        weights = 0.9 * artifact.nbytes
        assert copied.private() - first.private() > weights
        for process in (first, second):
            mapped = process.mapped(cache)
            assert mapped["Rss"] > weights  # they are in memory all the same,
            assert mapped["Pss"] < 0.6 * mapped["Rss"]  # but half of each page is the other's


def test_a_second_session_takes_little(make_artifact):
    artifact, status = make_artifact("smollm2", "int4-rtn"), Path("/proc/self/status")

    def private():
        return int(re.search(r"RssAnon:\s+(\d+)", status.read_text())[1]) * 1024

    first = Decoder(artifact, 1, 64)
    expected, before = list(first.generate([1, 2, 3], 4)), private()
    second = Decoder(artifact, 1, 64)
    assert list(second.generate([1, 2, 3], 4)) == expected
    assert private() - before < 0.3 * artifact.nbytes


ARENA = """
import re, sys
from pathlib import Path
import numpy as np
from llmkg_lab.artifact import Artifact
from llmkg_lab.runtime.ort.packed import open_artifact
artifact, shares, taken = Artifact.open(sys.argv[1]), sys.argv[2] == "shared", []
inputs = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), np.ones((1, 256), int))
inputs["token_type_ids"] = inputs["token_type_ids"] * 0
sessions = []
for _ in range(4):
    sessions.append(open_artifact(artifact, 1, shares_arena=shares))
    vectors = sessions[-1].run(["sentence_embedding"], inputs)[0]
    taken.append(int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
print(taken[3] - taken[0], float(vectors.sum()))
"""


def test_sessions_with_one_arena_take_less(make_artifact):
    """What three more embedders take of private memory, after a text of 256 tokens each."""
    folder = str(make_artifact("minilm", "fp32").folder)
    runs = [[sys.executable, "-c", ARENA, folder, kind] for kind in ("own", "shared")]
    printed = [subprocess.run(run, capture_output=True, text=True).stdout.split() for run in runs]
    (own, expected), (shared, same) = printed
    assert same == expected
    assert int(shared) < 0.6 * int(own)


@pytest.mark.parametrize("damage", ["cut off", "changed", "missing", "no graph", "stamp", "empty"])
def test_damaged_files_are_packed_again(damage, embedder, cache):
    expected = Embedder(embedder).embed(TEXTS)
    (folder,) = cache.iterdir()
    data, stamp = folder / "whole" / "model.onnx_data", folder / STAMP
    sound = data.read_bytes()
    if damage == "cut off":
        os.truncate(data, len(sound) // 2)
    elif damage == "changed":
        data.write_bytes(sound[::-1])
    elif damage == "missing":
        data.unlink()
    elif damage == "no graph":  # with the size and the time of the one that was there
        graph = folder / "whole" / "model.onnx"
        times = graph.stat()
        graph.write_bytes(b"\0" * times.st_size)
        os.utime(graph, ns=(times.st_atime_ns, times.st_mtime_ns))
        np.testing.assert_array_equal(Embedder(embedder).embed(TEXTS), expected)  # copied
    else:
        stamp.write_text("{" if damage == "stamp" else "{}")
    np.testing.assert_array_equal(Embedder(embedder).embed(TEXTS), expected)
    (folder,) = cache.iterdir()
    assert (folder / "whole" / "model.onnx_data").read_bytes() == sound
    assert PackedFolder(embedder, packed.WHOLE).names() == [packed.WHOLE]


def test_what_was_packed_is_the_artifact_s_own(embedder, make_artifact, cache):
    """A copy has the packed weights of the original; a file that was changed has none."""
    original = make_artifact("minilm", "int8-rtn")
    Embedder(original)
    (folder,) = cache.iterdir()
    packed_at = (folder / "whole" / "model.onnx_data").stat().st_mtime_ns
    expected = Embedder(embedder).embed(TEXTS)
    assert (folder / "whole" / "model.onnx_data").stat().st_mtime_ns == packed_at
    (data,) = embedder.model_path.parent.glob("*_data")
    content = bytearray(data.read_bytes())
    content[-200_000:] = bytes(200_000)
    data.write_bytes(content)
    assert np.abs(Embedder(embedder).embed(TEXTS) - expected).max() > 1e-3
    np.testing.assert_array_equal(Embedder(original).embed(TEXTS), expected)


def test_where_the_cache_takes_nothing_weights_are_copied(embedder, monkeypatch, tmp_path):
    expected = Embedder(embedder).embed(TEXTS)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="takes no cache file"):
        embeddings = Embedder(embedder).embed(TEXTS)
    np.testing.assert_array_equal(embeddings, expected)


@pytest.fixture
def folders(tiny_llama, cache, tmp_path):
    """Three packed models, used one after another some hours ago."""
    found = []
    for hours, scheme in ((3, "fp32"), (2, "int8-rtn"), (1, "int4-rtn")):
        checkpoint = open_checkpoint(tiny_llama[1])
        artifact = convert(checkpoint, Scheme.parse(scheme), tmp_path / scheme)
        packed.packed(artifact)
        found.append(PackedFolder(artifact, packed.SEGMENTS).path)
        used_ago(found[-1], 3600 * hours)
    return found


def used_ago(folder, seconds):
    """As if the last use had been so long ago."""
    stat = (folder / STAMP).stat()
    os.utime(folder / STAMP, (stat.st_atime, stat.st_mtime - seconds))


def nbytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_least_recently_used_leaves_first(folders):
    _, middle, newest = folders
    bound = sum(map(nbytes, folders)) - 1
    clean(newest, bound)
    assert [folder.exists() for folder in folders] == [False, True, True]
    clean(middle, 0)  # what was asked for stays, whatever its size
    assert [folder.exists() for folder in folders] == [False, True, False]


def test_a_use_counts_and_one_just_now_protects(folders, tmp_path):
    packed.packed(Artifact.open(tmp_path / "fp32"))  # the oldest is used again
    clean(folders[2], 0)
    assert [folder.exists() for folder in folders] == [True, False, True]
    used_ago(folders[0], RECENT + 1)
    clean(folders[2], 0)
    assert [folder.exists() for folder in folders] == [False, False, True]


def test_what_nobody_asks_for_is_removed(folders):
    oldest, middle, newest = folders
    stamp = json.loads((newest / STAMP).read_text())
    stamp["maker"][1] = "1.0.0"  # of ONNX Runtime
    (newest / STAMP).write_text(json.dumps(stamp))
    used_ago(newest, RECENT + 1)
    clean(oldest, sum(map(nbytes, folders)) - 1)  # before those that were used longer ago
    assert [folder.exists() for folder in folders] == [True, True, False]
    (middle / STAMP).unlink()  # never finished
    clean(oldest)
    assert middle.exists()
    os.utime(middle, (0, 0))
    stamp["maker"][2] = "another processor"
    (oldest / STAMP).write_text(json.dumps(stamp))
    used_ago(oldest, STALE + 1)
    clean(newest)
    assert [folder.exists() for folder in folders] == [False, False, False]
