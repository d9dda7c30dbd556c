"""Conversion of real weights: exact, reproducible, and nothing left behind when it fails."""

import json
import math
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from models.test_configs import LLAMA
from safetensors.numpy import load_file, save_file

from llmkg_lab.artifact import Artifact, ArtifactError, publishing, verify
from llmkg_lab.checkpoint import CheckpointError, open_checkpoint
from llmkg_lab.conversion.to_gguf import export
from llmkg_lab.conversion.to_onnx import convert, convert_all
from llmkg_lab.models import form_of
from llmkg_lab.scheme import Scheme

INT4 = Scheme.parse("int4-rtn")


def test_the_same_checkpoint_gives_the_same_bytes(minilm_folder, tmp_path):
    first, second = (
        convert(open_checkpoint(minilm_folder), INT4, tmp_path / name) for name in ("a", "b")
    )
    assert first.manifest == second.manifest
    assert verify(first.folder) == verify(second.folder) == []


def test_the_manifest_counts_what_is_there(minilm_folder, tmp_path):
    artifact = convert(open_checkpoint(minilm_folder), INT4, tmp_path / "int4-rtn")
    groups = artifact.manifest.groups
    # the model card's 22.7 million, less the pooler, which a sentence embedding does not use
    assert artifact.manifest.parameters == 22_713_216 - 384 * 385
    weights = (tmp_path / "int4-rtn" / "onnx" / "model_q4.onnx_data").stat().st_size
    in_groups = sum(group.bytes for group in groups)
    assert in_groups == pytest.approx(weights, rel=0.01)  # small vectors stand in the graph
    by_name = {group.name: group for group in groups}
    assert 5.1 < by_name["feed-forward"].bits_per_weight < 5.2
    assert 0.05 < by_name["feed-forward"].rms_error < 0.12


def test_a_changed_or_missing_file_is_noticed(minilm_folder, tmp_path):
    folder = convert(open_checkpoint(minilm_folder), INT4, tmp_path / "int4-rtn").folder
    data = folder / "onnx" / "model_q4.onnx_data"
    content = bytearray(data.read_bytes())
    content[1_000_000] ^= 1
    data.write_bytes(content)
    assert verify(folder) == [
        "onnx/model_q4.onnx_data was changed: its SHA-256 differs from the manifest's"
    ]
    data.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match="the manifest says"):
        Artifact.open(folder)
    data.unlink()
    assert verify(folder) == ["onnx/model_q4.onnx_data is missing"]


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd"])
def test_a_manifest_names_files_of_its_folder_only(name, minilm_folder, tmp_path):
    folder = convert(open_checkpoint(minilm_folder), INT4, tmp_path / "int4-rtn").folder
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"files": {name: {"bytes": 1, "sha256": "0" * 64}}}))
    with pytest.raises(ArtifactError, match="outside its folder"):
        Artifact.open(folder)


def test_an_artifact_is_not_overwritten_unasked(minilm_folder, tmp_path):
    checkpoint = open_checkpoint(minilm_folder)
    convert(checkpoint, INT4, tmp_path / "out")
    with pytest.raises(ArtifactError, match="exists"):
        convert(checkpoint, INT4, tmp_path / "out")
    convert(checkpoint, Scheme.parse("int8-rtn"), tmp_path / "out", force=True)
    assert Artifact.open(tmp_path / "out").manifest.scheme.base == "int8"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_ctrl_c_leaves_the_old_artifact_and_nothing_else(minilm_folder, tmp_path):
    checkpoint = open_checkpoint(minilm_folder)
    before = convert(checkpoint, INT4, tmp_path / "out").manifest

    def interrupt(step):
        if step.fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, INT4, tmp_path / "out", force=True, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert Artifact.open(tmp_path / "out").manifest == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(value, minilm_folder, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(minilm_folder, model)
    tensors = load_file(model / "model.safetensors")
    name = "encoder.layer.3.output.dense.weight"
    tensors[name][100, 7] = value
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(CheckpointError, match=name):
        convert(open_checkpoint(model), INT4, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


LIMITED = """
import resource, sys
from pathlib import Path
from llmkg_lab.artifact import ArtifactError
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.scheme import Scheme
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))
try:
    convert(open_checkpoint(sys.argv[1]), Scheme.parse("int4-rtn"), Path(sys.argv[2]) / "out")
except ArtifactError as error:
    print(error)
"""


def test_a_write_that_the_system_refuses_leaves_nothing(minilm_folder, tmp_path):
    """A limit on the file's size stands for a full disk: the same call fails the same way."""
    command = [sys.executable, "-c", LIMITED, str(minilm_folder), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in result.stdout
    assert "free some space" in result.stdout
    assert list(tmp_path.iterdir()) == []


def sparse(folder, rows, more=()):
    """A Llama in float16 whose zeros take no room: its table has so many rows of 64."""
    config = LLAMA | {"vocab_size": rows, "hidden_size": 64, "tie_word_embeddings": True}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in [*form_of(config).tensors(), *more]:
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + end)
    return open_checkpoint(folder)


@pytest.mark.parametrize(
    "make",
    [
        lambda checkpoint, out: convert(checkpoint, Scheme.parse("fp32"), out),
        lambda checkpoint, out: convert(checkpoint, Scheme.parse("int8"), out),
        lambda checkpoint, out: export(checkpoint, "Q4_0", out),
    ],
)
def test_what_does_not_fit_the_disk_is_not_begun(make, tmp_path):
    rows = 2 * shutil.disk_usage(tmp_path).free // 64
    checkpoint, start = sparse(tmp_path / "model", rows), time.monotonic()
    with pytest.raises(ArtifactError, match=r"takes [\d,.]+ GB, and [\d,.]+ GB are free at /"):
        make(checkpoint, tmp_path / "new" / "out")
    assert time.monotonic() - start < 5
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_ctrl_c_does_not_wait_for_the_hash(tmp_path):
    """Of 40 GB, that took minutes; here they are in a tensor that no graph needs."""
    unused = ("model.layers.0.self_attn.rotary_emb.inv_freq", (20_000_000_000,))
    checkpoint, interrupted = sparse(tmp_path / "model", 64, [unused]), []

    def interrupt(step):
        interrupted.append(time.monotonic())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, INT4, tmp_path / "out", progress=interrupt)
    assert time.monotonic() - interrupted[-1] < 2
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_conversion_imports_nothing_heavy():
    """Half of a conversion's time and memory would be imports otherwise."""
    code = "import sys, llmkg_lab.conversion.to_onnx; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not {"torch", "transformers", "datasets"} & set(modules.stdout.split())


def test_what_is_there_already_is_kept(minilm_folder, tmp_path):
    checkpoint, source = open_checkpoint(minilm_folder), {"kind": "local"}
    first = convert_all(checkpoint, ["int8-rtn", "int4-rtn"], tmp_path, source=source)
    (tmp_path / "int8-rtn" / "config.json").unlink()  # no longer whole
    stamp = first["int4-rtn"].model_path.stat().st_mtime_ns
    again = convert_all(checkpoint, ["int8-rtn", "int4-rtn"], tmp_path, source=source)
    assert again["int4-rtn"].model_path.stat().st_mtime_ns == stamp
    assert verify(again["int8-rtn"].folder) == []
    other = convert_all(checkpoint, ["int4-rtn"], tmp_path, source={"kind": "hub"})
    assert other["int4-rtn"].model_path.stat().st_mtime_ns > stamp


def test_force_replaces_artifacts_and_nothing_else(minilm_folder, tmp_path):
    source = tmp_path / "int8-rtn"  # a checkpoint that has the name of a scheme
    shutil.copytree(minilm_folder, source)
    checkpoint, int8 = open_checkpoint(source), Scheme.parse("int8-rtn")
    before = sorted(source.rglob("*"))
    for target in (source, tmp_path, source / "tokenizer.json"):
        with pytest.raises(ArtifactError, match="is not an artifact"):
            convert(checkpoint, int8, target, force=True)
    assert sorted(source.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    made = convert(checkpoint, int8, tmp_path / "empty", force=True)
    (made.folder / "config.json").unlink()  # broken, and ours
    convert(checkpoint, int8, made.folder, force=True)
    assert verify(made.folder) == []


def test_what_a_killed_conversion_left_is_removed_by_the_next(minilm_folder, tmp_path):
    checkpoint, fp32 = open_checkpoint(minilm_folder), Scheme.parse("fp32")
    orphan, recent = tmp_path / ".fp32.killed", tmp_path / ".fp32.begun"
    for folder in (orphan, recent):
        (folder / "onnx").mkdir(parents=True)
    long_ago = time.time() - 3600
    os.utime(orphan, (long_ago, long_ago))
    with publishing(tmp_path / "fp32") as running:
        os.utime(running, (long_ago, long_ago))
        convert(checkpoint, fp32, tmp_path / "fp32")
        assert not orphan.exists()
        assert running.exists()  # another process is at work in it
        assert recent.exists()  # and may just have begun there
        shutil.rmtree(tmp_path / "fp32")
