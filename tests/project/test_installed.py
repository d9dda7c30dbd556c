"""The wheel as a user installs it: in an environment of its own, far from the checkout."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from llmkg_lab import Scheme, convert, open_checkpoint
from llmkg_lab.base import paths
from llmkg_lab.conversion import to_gguf
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.sources import fetch

pytestmark = pytest.mark.slow

CARRIED = ("params", "notebooks", "workflow")
BUILT_FROM = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "llmkg_lab", *CARRIED)
JUNK = {"__pycache__", ".ipynb_checkpoints"}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
BASE_MEGABYTES = 320  # of all that the base brings


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: the build leaves files beside what it builds from."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        source, target = paths.ROOT / name, folder / "source" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*JUNK))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([*PIP, "wheel", *options, folder / "source"], check=True)
    (made,) = folder.glob("*.whl")
    return made


class Installed:
    """An environment with the wheel in it, and an empty folder to work in."""

    def __init__(self, folder, wheel, *options):
        venv.create(folder / "venv", symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        self.here = folder / "empty"
        self.here.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLMKG_LAB", "PYTHON"))}
        self.environment = {
            **kept,
            "LLMKG_LAB_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "hub"),
            "HF_HUB_OFFLINE": "1",
        }
        subprocess.run([*PIP, "--python", self.python, "install", *options, wheel], check=True)
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.packages = Path(self.run("-c", where))

    def run(self, *arguments):
        """What Python prints."""
        return self._process(self.python, *arguments).strip()

    def call(self, *arguments, code=0):
        """What the command prints: on stdout, or on stderr where it is to fail."""
        return self._process(self.python.with_name("llmkg-lab"), *arguments, code=code)

    def start(self, *arguments):
        """The command in the background."""
        command = [self.python.with_name("llmkg-lab"), *map(str, arguments)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=self.here, env=self.environment, **quiet)

    def _process(self, *command, code=0):
        place = {"cwd": self.here, "env": self.environment}
        ended = subprocess.run([*map(str, command)], **place, capture_output=True, text=True)
        assert ended.returncode == code, ended.stderr
        return ended.stderr if code else ended.stdout


@pytest.fixture(scope="module")
def everything(tmp_path_factory, wheel):
    """The wheel above all packages of this environment, which need not be installed again."""
    installed = Installed(tmp_path_factory.mktemp("everything"), wheel, "--no-deps", "--no-index")
    (installed.packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    # nbconvert's templates lie beside the packages, not in them
    installed.environment["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")
    where = "import llmkg_lab; print(llmkg_lab.__file__)"
    assert Path(installed.run("-c", where)).is_relative_to(installed.packages)
    return installed


CONSTRAINED = ("--constraint", str(paths.ROOT / "constraints.txt"))


@pytest.fixture(scope="module")
def base(tmp_path_factory, wheel):
    """The wheel with what it asks for and nothing else."""
    return Installed(tmp_path_factory.mktemp("base"), wheel, *CONSTRAINED)


@pytest.fixture(scope="module")
def candle(tmp_path_factory, wheel):
    """The same with Candle."""
    return Installed(tmp_path_factory.mktemp("candle"), f"{wheel}[candle]", *CONSTRAINED)


def files_of(folder):
    """All files below a folder, by their paths in it."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {name.as_posix() for name in names if not JUNK & set(name.parts)}


def test_the_wheel_holds_the_package_and_its_folders(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"llmkg_lab/{name}" for name in files_of(paths.PACKAGE)}
    for folder in CARRIED:
        expected |= {f"llmkg_lab/{folder}/{name}" for name in files_of(paths.ROOT / folder)}
    assert names == expected


def test_the_roster_is_there(everything):
    rows = {row["id"]: row for row in json.loads(everything.call("list", "--json"))}
    assert len(rows) == len(list(paths.params().glob("*/*.yaml")))
    (packaged,) = (s for s in rows["all_minilm_l6_v2"]["sources"] if s["kind"] == "package")
    assert packaged["available"]


def test_a_checkpoint_is_converted_and_used(everything, minilm_folder):
    everything.call("convert", minilm_folder, "--scheme", "int8-rtn", "--out", "made")
    (vector,) = json.loads(everything.call("embed", "made/int8-rtn", "A cat sleeps", "--json"))
    assert len(vector["embedding"]) == 384
    assert everything.call("verify", "made/int8-rtn")


def test_a_variant_is_run_and_its_report_lies_where_the_command_was_given(everything):
    before = files_of(everything.packages / "llmkg_lab")
    options = ("--source", "synthetic", "--size", "reduced", "--scheme", "int8-rtn")
    command = ("run", "all_minilm_l6_v2", *options, "--set", "quick=true", "--json")
    (outcome,) = json.loads(everything.call(*command))
    assert outcome["state"] == "done"
    apart = everything.here / "outputs" / "quick" / "synthetic-reduced"
    folder = apart / "minilm" / "all_minilm_l6_v2"
    assert Path(outcome["folder"]) == folder
    assert {"report.html", "report.ipynb", "result.json"} <= files_of(folder)
    assert (everything.here / "outputs" / "registry.json").exists()
    assert files_of(everything.packages / "llmkg_lab") == before
    assert json.loads(everything.call(*command))[0]["state"] == "up to date"


def test_the_explorer_is_served(everything):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = everything.start("explore", "--no-browser", "--port", port)
    try:
        page = head_of(f"http://127.0.0.1:{port}", process)
        assert b".jp-mod-noOutputs.jp-mod-noInput" in page  # of our template
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert not (everything.packages / "llmkg_lab" / "notebooks" / "outputs").exists()


def head_of(address, process):
    """The head of a page, as soon as a process serves it; the rest comes when cells are done."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=60) as page:
            return b"".join(itertools.takewhile(lambda line: b"</head>" not in line, page))
        time.sleep(0.2)
    raise AssertionError(f"{address} is not served; the process ended with {process.poll()}")


def test_the_base_is_small(base):
    size = sum(path.stat().st_size for path in base.packages.rglob("*") if path.is_file())
    assert size < BASE_MEGABYTES * 10**6


@pytest.fixture(scope="module")
def artifacts(make_artifact, smollm2_gguf, tmp_path_factory):
    gguf = tmp_path_factory.mktemp("gguf") / "gguf-Q4_1"
    to_gguf.export(open_checkpoint(smollm2_gguf), "Q4_1", gguf)
    fetched = fetch(find_variant("ms_marco_minilm_l6_v2"), "synthetic:reduced")
    ranker = tmp_path_factory.mktemp("ranker") / "int8-rtn"
    convert(open_checkpoint(fetched.path), Scheme.parse("int8-rtn"), ranker)
    gguf_ranker = ranker.with_name("gguf-Q8_0")
    to_gguf.export(open_checkpoint(fetched.path), "Q8_0", gguf_ranker)
    made = {"minilm": ("minilm", "int8-rtn"), "smollm2": ("smollm2", "int4-rtn")}
    folders = {name: make_artifact(*which).folder for name, which in made.items()}
    return {"gguf": gguf, "ranker": ranker, "gguf_ranker": gguf_ranker} | folders


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "device",
        "cache",
        "verify {minilm}",
        "verify {smollm2}",
        "verify {gguf}",
        "embed {minilm} one two",
        "rank {ranker} question answer other",
        "generate {smollm2} Once --max-tokens 3",
        "generate {smollm2} Hello --max-tokens 3 --chat",
        "generate {smollm2} Once --max-tokens 3 --memory 400MB",
    ],
)
def test_the_base_runs_artifacts(command, base, artifacts):
    assert base.call(*command.format(**artifacts).split())


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("convert {folder} --out out", "convert"),
        ("export {folder} --out out", "convert"),
        ("run all_minilm_l6_v2", "lab"),
        ("explore", "app"),
        ("generate {gguf} Hello --runtime candle", "candle"),
    ],
)
def test_a_missing_extra_is_named(command, extra, base, artifacts, minilm_folder):
    said = base.call(*command.format(**artifacts, folder=minilm_folder).split(), code=2)
    assert f"pip install 'llmkg-lab[{extra}]'" in said
    assert "Traceback" not in said
    assert list(base.here.iterdir()) == []


def test_candle_takes_no_more_than_its_extra(candle, artifacts):
    options = ("--raw", "--runtime", "candle", "--temperature", "0", "--max-tokens", "8")
    text = candle.call("generate", artifacts["gguf"], "The capital of France is", *options)
    assert "Paris" in text
    rank = ("rank", artifacts["gguf_ranker"], "question", "answer", "other", "--json")
    ranked = json.loads(candle.call(*rank, "--runtime", "candle"))
    assert {row["passage"] for row in ranked} == {"answer", "other"}


def test_a_program_is_told_too(base):
    code = (
        "import llmkg_lab\n"
        "from llmkg_lab import LabError, Registry, Scheme, open_backend, open_checkpoint\n"
        "from llmkg_lab import ModelLoader, ModelRegistry\n"
        "assert ModelLoader().registry.model_count() >= 30\n"
        "try:\n    from llmkg_lab import convert\n"
        "except llmkg_lab.LabError as error:\n    print(error.hint)"
    )
    assert base.run("-c", code) == "pip install 'llmkg-lab[convert]'"
