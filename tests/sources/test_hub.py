"""The real Hub client in a process of its own, against a real server on loopback."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from support import hub_server
from support import tiny_checkpoints as tiny

from llmkg_lab.checkpoint import open_checkpoint

pytestmark = pytest.mark.slow  # each test starts a client, and stops a server
REPO = "someone/tiny-llama"
CHUNK = constants.DOWNLOAD_CHUNK_SIZE  # what the client writes at a time
FETCH = """
import json, sys
from llmkg_lab.base.errors import LabError
from llmkg_lab.sources import fetch_repo
try:
    fetched = fetch_repo(sys.argv[1], revision=sys.argv[2] or None)
    print(json.dumps([str(fetched.path), fetched.revision]))
except LabError as error:
    sys.exit(str(error))
"""

AVAILABLE = """
import json, sys
from dataclasses import replace
from llmkg_lab.roster.catalog import SourceSpec, find_variant
from llmkg_lab.sources import availability
hub = SourceSpec("hub", {"repo": sys.argv[1]})
((_, available, reason),) = availability(replace(find_variant("smollm2_360m"), sources=(hub,)))
print(json.dumps([available, reason, "huggingface_hub.hf_api" in sys.modules]))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A repository as they are: two forms of weights, other frameworks', exports, a readme."""
    folder = tmp_path_factory.mktemp("repo")
    tiny.write_safetensors(folder)
    (folder / "onnx").mkdir()
    for extra in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx"):
        (folder / extra).write_bytes(b"never fetched")
    (folder / "README.md").write_text("# Tiny")
    return folder


@pytest.fixture
def hub(checkpoint):
    with hub_server.serving({REPO: checkpoint}) as hub:
        yield hub


@pytest.fixture
def client(hub, tmp_path):
    """Fetch in a new process; the cache is kept between calls of one test."""

    def fetch(repo=REPO, revision="", command=None, **environment):
        quiet = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        environment = {
            **quiet,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            **environment,
        }
        command = command or ["-c", FETCH, repo, revision]
        return subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120
        )

    return fetch


def name_shards_as_on_the_hub(folder, stem):
    for index in folder.glob("*.index.json"):
        text = index.read_text()
        for i, shard in enumerate(("one", "two"), 1):
            (old,) = folder.glob(f"{shard}.*")
            new = f"{stem}-{i:05}-of-00002{old.suffix}"
            old.rename(folder / new)
            text = text.replace(old.name, new)
        index.write_text(text)


def test_only_what_a_conversion_reads_is_fetched(hub, client, checkpoint):
    path, revision = json.loads(client().stdout)
    assert hub.fetched() == {"config.json", "model.safetensors"}
    assert revision == hub_server.COMMIT
    with open(f"{path}/model.safetensors", "rb") as file:
        assert file.read() == (checkpoint / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("write", "stem", "weights"),
    [
        (tiny.write_sharded, "model", 3),
        (tiny.write_pickle, "", 1),
        (tiny.write_sharded_pickle, "pytorch_model", 3),
    ],
    ids=["shards", "a pickle", "pickled shards"],
)
def test_every_form_of_weights_converts(write, stem, weights, hub, client, tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    write(folder)
    name_shards_as_on_the_hub(folder, stem)
    hub.repos["someone/other"] = folder
    out = tmp_path / "out"
    cli = ["-m", "llmkg_lab.cli", "convert", "someone/other", "--scheme", "fp32", "--out", str(out)]
    done = client(command=cli)
    assert done.returncode == 0, done.stderr
    assert len(hub.fetched() - {"config.json"}) == weights
    source = json.loads((out / "fp32" / "manifest.json").read_text())["source"]
    assert (source["kind"], source["revision"]) == ("hub", hub_server.COMMIT)


WATCHED = """
import json, sys
from llmkg_lab.sources import fetch_repo
class Stopped(BaseException): pass
seen = []
def progress(step):
    seen.append([str(step), step.done, step.total])
    if step.done > int(sys.argv[2]):
        raise Stopped
try:
    fetch_repo(sys.argv[1], progress=progress)
except Stopped:
    seen.append(["stopped", 0, 0])
print(json.dumps(seen))
"""


def test_a_download_counts_its_bytes_and_stops_where_that_is_asked(hub, client, tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(2 * CHUNK + CHUNK // 2))
    hub.repos[REPO] = folder
    weights = (folder / "model.safetensors").stat().st_size

    stopped = client(command=["-c", WATCHED, REPO, str(CHUNK // 2)])
    assert json.loads(stopped.stdout)[-1][0] == "stopped", stopped.stderr
    whole = client(command=["-c", WATCHED, REPO, str(2 * weights)])
    seen = json.loads(whole.stdout)
    missing = seen[0][2]
    assert missing - weights in (0, 2)  # config.json may have come before the stop
    assert seen[0] == [f"download: 0.0 of {missing / 1e6:.1f} MB", 0, missing]
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})
    assert seen[-1] == [f"download: {missing / 1e6:.1f} MB", missing, missing]
    assert "Downloading" not in whole.stderr  # the client's own bars are silent
    assert json.loads(client(command=["-c", WATCHED, REPO, "0"]).stdout) == []  # all is here


def test_a_cut_download_goes_on_where_it_stopped(hub, client, tmp_path):
    folder, weights = tmp_path / "repo", os.urandom(CHUNK + CHUNK // 2)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    hub.repos[REPO] = folder
    hub.faults = [hub_server.Fault("GET .*stored.*safetensors", cut=CHUNK + 20_000, times=1)]
    done = client()
    assert done.returncode == 0, done.stderr
    ranges = [r for method, path, r in hub.requests if method == "GET" and "/stored/" in path]
    assert ranges == ["", f"bytes={CHUNK}-"]
    path, _ = json.loads(done.stdout)
    with open(f"{path}/model.safetensors", "rb") as file:
        assert file.read() == weights


def test_what_is_complete_is_not_asked_for_again(hub, client):
    first = client().stdout
    hub.requests.clear()
    assert client().stdout == first
    assert not hub.fetched()


def test_offline_the_cache_serves(hub, client):
    first = client().stdout
    hub.requests.clear()
    assert client(HF_HUB_OFFLINE="1").stdout == first
    assert client(HF_ENDPOINT="http://127.0.0.1:9").stdout == first  # no network, unannounced
    assert not hub.requests


def test_offline_a_cache_that_transformers_filled_serves(hub, client):
    """It fetches file by file what it needs, and keeps no list of the repository's files."""
    load = f"import transformers; transformers.AutoModelForCausalLM.from_pretrained({REPO!r})"
    assert client(command=["-c", load]).returncode == 0
    hub.requests.clear()
    path, _ = json.loads(client(HF_HUB_OFFLINE="1").stdout)
    assert set(open_checkpoint(path).tensors) == set(tiny.SHAPES)
    assert not hub.requests
    Path(path, "model.safetensors").unlink()
    assert "no complete copy" in client(HF_HUB_OFFLINE="1").stderr


def test_what_can_serve_offline_is_told_and_the_client_asked_only_where_it_may(client, tmp_path):
    def available():
        return json.loads(client(command=["-c", AVAILABLE, REPO], HF_HUB_OFFLINE="1").stdout)

    reason = "offline mode is on and the cache holds no complete copy"
    assert available() == [False, reason, False]
    path, _ = json.loads(client().stdout)
    assert available() == [True, "", True]
    os.unlink(f"{path}/model.safetensors")
    assert available() == [False, reason, True]  # a folder alone is no copy


def test_a_pinned_commit_is_used_as_it_is(hub, client):
    _, revision = json.loads(client(revision=hub_server.COMMIT).stdout)
    assert revision == hub_server.COMMIT


def test_the_token_is_taken_from_the_environment_or_the_file(hub, client, tmp_path):
    client(HF_TOKEN="hf_fromenvironment")
    (tmp_path / "hf" / "token").write_text("hf_fromfile")
    client()
    assert hub.tokens == {"Bearer hf_fromenvironment", "Bearer hf_fromfile"}


@pytest.mark.parametrize(
    "fault",
    [
        hub_server.Fault("GET /api/", status=503, times=2),
        hub_server.Fault("GET .*stored", status=502, times=2),
        hub_server.Fault("HEAD .*resolve", status=500, times=2),
        hub_server.Fault("GET .*stored", status=429, headers={"Retry-After": "1"}, times=1),
        hub_server.Fault("GET /api/", status=429, headers={"Retry-After": "1"}, times=1),
    ],
    ids=lambda fault: f"{fault.pattern} {fault.status}",
)
def test_a_passing_fault_is_waited_out(fault, hub, client):
    hub.faults = [fault]
    done = client()
    assert done.returncode == 0, done.stderr
    assert fault.times == 0


GATED = {"X-Error-Code": "GatedRepo"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (hub_server.Fault("/api/", 401, GATED), f"{REPO} is gated\n  → accept its terms at http"),
        (hub_server.Fault("/api/", 403, GATED), "is gated and your token has no access\n  → accep"),
        (hub_server.Fault("/api/", 401), "someone/tiny-llama"),
        (hub_server.Fault("/api/", 503), "answered 503 about someone/tiny-llama\n  → try again"),
        (hub_server.Fault("stored", 404), "someone/tiny-llama"),
        (hub_server.Fault("stored", 500), "answered 500 about someone/tiny-llama\n  → try again"),
        (hub_server.Fault("GET .*stored", cut=1000), "cut while fetching someone/tiny-llama"),
    ],
    ids=lambda value: f"{value.pattern} {value.status}" if hasattr(value, "status") else "",
)
def test_a_lasting_fault_is_explained(fault, message, hub, client):
    hub.faults = [fault]
    done = client()
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_what_does_not_fit_the_disk_is_not_begun(hub, client):
    hub.claimed_size = 10**15
    error = client().stderr
    assert f"{REPO} takes 1,000,000.0 GB, and " in error
    assert "are free at /" in error
    assert "move the cache with HF_HOME" in error
    assert hub.fetched() == set()


def test_what_is_not_there_is_named(client):
    assert (
        "there is not a repository someone/else, or it is private" in client("someone/else").stderr
    )
    assert "has no revision 'v9'\n  → choose a branch" in client(revision="v9").stderr


def test_without_network_and_cache_the_way_out_is_told(client):
    error = client(HF_ENDPOINT="http://127.0.0.1:9").stderr
    assert "the Hub cannot be reached at http://127.0.0.1:9\n  → check the network" in error
    offline = client(HF_HUB_OFFLINE="1").stderr
    assert "offline mode is on and the cache holds no complete copy\n  → unset HF_HUB" in offline


def one_gguf_file(folder):
    tiny.write_gguf(folder)
    return "", {"model.gguf"}


def several_gguf_files(folder):
    for name in ("a-Q4.gguf", "b-Q8.gguf"):
        (folder / name).write_bytes(b"GGUF")
    return "holds 2 GGUF files and no other weights\n.*hf download someone/other a-Q4.gguf", set()


def an_adapter(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "a/base"}')
    (folder / "adapter_model.safetensors").write_bytes(b"never fetched")
    return "", {"adapter_config.json"}


def no_weights(folder):
    (folder / "README.md").write_text("# Nothing")
    return "holds no weights: found README.md", set()


def an_encoder_inside(folder):
    """With all that says how a text is embedded."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    tiny.write_safetensors(inner)
    files = {"modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"}
    files |= {"2_Normalize/config.json", "0_Transformer/sentence_bert_config.json"}
    files |= {"0_Transformer/tokenizer.json"}
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps({"of": name}))  # each once, else fetched once
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"never fetched")
    return "", files | {"0_Transformer/config.json", "0_Transformer/model.safetensors"}


@pytest.mark.parametrize(
    "write",
    [one_gguf_file, several_gguf_files, an_adapter, no_weights, an_encoder_inside],
    ids=lambda write: write.__name__,
)
def test_repositories_of_other_kinds(write, hub, client, tmp_path):
    """What is fetched of them, or by which words they are refused."""
    folder = tmp_path / "repo"
    folder.mkdir()
    message, files = write(folder)
    hub.repos["someone/other"] = folder
    done = client("someone/other")
    assert done.returncode == bool(message), done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert hub.fetched() == files
