"""Every form of checkpoint reads alike, and hostile files end in a clear error."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from support.tiny_checkpoints import (
    CONFIG,
    SHAPES,
    TENSORS,
    write_as_in_the_hubs_cache,
    write_bfloat16,
    write_float16,
    write_gguf,
    write_old_pickle,
    write_pickle,
    write_safetensors,
    write_sharded,
    write_sharded_pickle,
)

from llmkg_lab.checkpoint import CheckpointError, open_checkpoint

FORMS = [
    write_safetensors,
    write_float16,
    write_bfloat16,
    write_sharded,
    write_as_in_the_hubs_cache,
    write_pickle,
    write_old_pickle,
    write_sharded_pickle,
    write_gguf,
]


@pytest.mark.parametrize("write", FORMS, ids=lambda write: write.__name__)
def test_every_form_reads_alike(write, tmp_path):
    checkpoint = open_checkpoint(write(tmp_path) or tmp_path)
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == SHAPES
    assert {key: checkpoint.config[key] for key in CONFIG} == CONFIG
    for name, expected in TENSORS.items():
        read = checkpoint.read(name)
        assert read.dtype == np.float32
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, expected)
        for rows in (slice(5, 29), slice(16, 17), slice(30, None), slice(3, 3)):
            part = checkpoint.read(name, rows)
            assert part.flags.c_contiguous
            np.testing.assert_array_equal(part, expected[rows])


def test_the_packaged_embedder(minilm_folder):
    checkpoint = open_checkpoint(minilm_folder)
    assert checkpoint.pooling == {"mode": "mean", "normalize": True, "max_length": 256}
    # as the Hub shows it for model.safetensors of sentence-transformers/all-MiniLM-L6-v2
    assert checkpoint.fingerprint().startswith("53aa51172d142c89")
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(checkpoint.sidecars())
    stored = load_file(minilm_folder / "model.safetensors")
    assert set(checkpoint.tensors) == set(stored)
    for name in stored:
        if stored[name].dtype == np.float32:
            np.testing.assert_array_equal(checkpoint.read(name), stored[name])


def test_reading_takes_no_framework(minilm_folder, smollm2_gguf):
    """torch and transformers take seconds to import, which a conversion need not wait."""
    program = """
import sys
from llmkg_lab.checkpoint import open_checkpoint
for path in sys.argv[1:]:
    checkpoint = open_checkpoint(path)
    checkpoint.read(max(checkpoint.tensors), slice(0, 2))
    checkpoint.sidecars(), checkpoint.pooling
print(*({"torch", "transformers", "scipy"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program, minilm_folder, smollm2_gguf]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("\n", "")


def test_norms_of_2018_get_todays_names(tmp_path):
    gamma = np.arange(4, dtype=np.float32)
    norm = {"encoder.LayerNorm.gamma": gamma, "encoder.LayerNorm.beta": -gamma}
    write_safetensors(tmp_path, norm)
    checkpoint = open_checkpoint(tmp_path)
    np.testing.assert_array_equal(checkpoint.read("encoder.LayerNorm.weight"), gamma)
    np.testing.assert_array_equal(checkpoint.read("encoder.LayerNorm.bias"), -gamma)


def test_tensors_of_a_pickle_may_share_memory(tmp_path):
    table = torch.arange(12.0).reshape(3, 4)
    write_pickle(tmp_path, {"table": table, "head": table, "turned": table.T, "one": table[1, 1]})
    checkpoint = open_checkpoint(tmp_path)
    np.testing.assert_array_equal(checkpoint.read("head"), table)
    np.testing.assert_array_equal(checkpoint.read("turned", slice(1, 3)), table.T[1:3])
    assert checkpoint.read("one") == 5


def test_the_fingerprint_of_shards_depends_on_all_of_them(tmp_path):
    write_sharded(tmp_path)
    before = open_checkpoint(tmp_path).fingerprint()
    assert before == open_checkpoint(tmp_path).fingerprint()
    part = load_file(tmp_path / "two.safetensors")
    next(iter(part.values())).flat[0] += 1
    save_file(part, tmp_path / "two.safetensors")
    assert open_checkpoint(tmp_path).fingerprint() != before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("write", [write_safetensors, write_gguf])
def test_weights_that_are_no_numbers_are_refused(write, value, tmp_path, monkeypatch):
    name = "model.layers.0.mlp.down_proj.weight"
    bad = TENSORS[name].copy()
    bad[-1, -1] = value
    monkeypatch.setitem(TENSORS, name, bad)
    write(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"down_proj\.weight holds NaN or infinite"):
        checkpoint.read(name)
    np.testing.assert_array_equal(checkpoint.read(name, slice(0, -1)), bad[:-1])


def test_huge_weights_are_numbers(tmp_path):
    """Their sum and their squares overflow, and still they are finite."""
    huge = np.full((4, 4), np.finfo(np.float32).max)
    write_safetensors(tmp_path, {"huge": huge})
    np.testing.assert_array_equal(open_checkpoint(tmp_path).read("huge"), huge)


class Payload:
    """What a hostile pickle may hold: a call."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_pickle_is_named_and_never_run(tmp_path):
    write_pickle(tmp_path, {"a": Payload(tmp_path / "harm")})
    with pytest.raises(
        CheckpointError, match=r"pytorch_model\.bin is refused: it asks for \S*open"
    ):
        open_checkpoint(tmp_path)
    assert not (tmp_path / "harm").exists()


def truncated(folder):
    write_safetensors(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return r"\(134,876 bytes, and its header promises 134,976\) is not a whole safetensors file"


def no_config(folder):
    write_safetensors(folder)
    (folder / "config.json").unlink()
    return "lacks config.json"


def config_is_no_json(folder):
    write_safetensors(folder)
    (folder / "config.json").write_text("[" * 100_000)
    return r"config\.json is not JSON"


def beyond_float32(folder):
    write_safetensors(folder, {"a": np.full((2, 2), 1e300)})
    return "a holds NaN or infinite values"


def whole_numbers_in_a_pickle(folder):
    write_pickle(folder, {"a": torch.zeros(2, dtype=torch.int8)})
    return "a is of type int8"


def nothing(folder):
    (folder / "README.md").touch()
    return "holds no weights: found README.md"


def missing_shard(folder):
    write_sharded(folder)
    (folder / "two.safetensors").unlink()
    return "lacks the shard two.safetensors"


def shard_without_a_promised_tensor(folder):
    write_sharded(folder)
    save_file({"b": TENSORS["model.norm.weight"]}, folder / "two.safetensors")
    return r"two\.safetensors lacks the tensor model\.layers"


def the_same_tensor_in_two_shards(folder):
    write_sharded(folder)
    both = load_file(folder / "two.safetensors") | load_file(folder / "one.safetensors")
    save_file(both, folder / "two.safetensors")
    return r"two\.safetensors holds the tensor \S+ a second time"


def shard_elsewhere(folder):
    write_config_and_index(folder, {"a": "../secret.safetensors"})
    return "not a file beside it"


def empty_index(folder):
    write_config_and_index(folder, {})
    return "has no weight_map"


def write_config_and_index(folder, weight_map):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def half_a_pickle(folder):
    write_pickle(folder)
    pickled = folder / "pytorch_model.bin"
    pickled.write_bytes(pickled.read_bytes()[:2000])
    return r"pytorch_model\.bin cannot be read"


def pickle_of_something_else(folder):
    write_pickle(folder, {"epoch": 3})
    return "holds no state of named, dense tensors"


def several_gguf_files(folder):
    for name in ("q4.gguf", "q8.gguf"):
        (folder / name).touch()
    return r"holds 2 GGUF files\n.*q4\.gguf"


BROKEN = [
    truncated,
    no_config,
    config_is_no_json,
    beyond_float32,
    whole_numbers_in_a_pickle,
    nothing,
    missing_shard,
    shard_without_a_promised_tensor,
    the_same_tensor_in_two_shards,
    shard_elsewhere,
    empty_index,
    half_a_pickle,
    pickle_of_something_else,
    several_gguf_files,
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_broken_checkpoints_say_what_is_wrong(broken, tmp_path):
    message = broken(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path).read("a")


def test_a_wrong_name_suggests_the_right_one(tmp_path):
    write_safetensors(tmp_path)
    with pytest.raises(CheckpointError, match=r"it has .*mlp\.up_proj"):
        open_checkpoint(tmp_path).read("model.layers.0.mlp.up_projection.weight")


def test_a_path_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "nothing")
    write_safetensors(tmp_path)
    with pytest.raises(CheckpointError, match=f"name its folder, {tmp_path}"):
        open_checkpoint(tmp_path / "model.safetensors")


FIXTURE_IS_REUSED = [HealthCheck.function_scoped_fixture]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(deadline=None, max_examples=150, suppress_health_check=FIXTURE_IS_REUSED)
@given(data=st.data())
@pytest.mark.parametrize("write", [write_safetensors, write_pickle, write_old_pickle])
def test_damaged_files_end_in_an_error_of_ours(write, tmp_path, data):
    """Bytes changed anywhere or the end cut off: an error of ours, or a checkpoint that reads."""
    write(tmp_path)
    path = next(path for path in tmp_path.iterdir() if path.suffix in (".safetensors", ".bin"))
    content = bytearray(path.read_bytes())
    start = 1600 if data.draw(st.booleans()) else len(content)  # headers lie at the start
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, start - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        checkpoint = open_checkpoint(tmp_path)
        for name in checkpoint.tensors:
            checkpoint.read(name)
    except CheckpointError:
        pass
