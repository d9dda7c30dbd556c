"""SmolLM2-135M in Chromium: our engine beside onnxruntime-web, Transformers.js and wllama.

A prompt of 128 tokens, then 64 more. Each contestant has a browser of its own, in turn, and loads
from a server on this machine. Memory is what the browser's renderer has resident at most. What the
peers need: `npm ci --ignore-scripts` in web/peers; what the page needs: `make web`.
"""

import contextlib
import hashlib
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
from argparse import Namespace
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from statistics import fmean
from urllib.parse import urlencode

import psutil

from benchmarks.common import HERE, WORK, Runner, arguments, packaged_checkpoint, start
from benchmarks.contestants import code_hash
from benchmarks.measure import OWN, Benchmark
from llmkg_lab.base import paths
from llmkg_lab.browser.server import BundleServer, Handler
from llmkg_lab.browser.trial import FLAGS, find_chromium
from llmkg_lab.conversion import to_gguf, to_web
from llmkg_lab.conversion.to_onnx import convert_all

SCHEMES = ("int4-rtn", "int8-rtn")
TYPES = ("Q4_0", "Q8_0")
TOKENS = 64
SECONDS = 300  # for a contestant to answer
METRICS = {
    "decode_ms": "a token, ms",
    "prompt_ms": "prompt of 128, ms",
    "load_s": "load, s",
    "peak_mb": "memory of the renderer, MB",
}
BENCHMARK = Benchmark("browser", "SmolLM2-135M in Chromium", METRICS)
PEERS = HERE.parent / "web" / "peers" / "node_modules"
TRANSFORMERS = "/bundles/peers/@huggingface/transformers"


def main(options: Namespace) -> None:
    if not PEERS.is_dir():
        sys.exit(__doc__)
    chromium = find_chromium()
    server = BenchServer(paths.web(), {**our_bundles(), "peers": PEERS, "bench": HERE})
    works = workloads(options.threads)
    contestants = {name: in_browser(server, chromium, *work) for name, work in works.items()}
    conditions = {"threads": options.threads, "tokens": TOKENS, "page": built()}
    load = os.getloadavg()[0]
    with server.in_background():
        samples = BENCHMARK.alternate(contestants, options.rounds, conditions, options.again)
    note = f"{options.threads} threads unless it is said. Load average before it {load:.1f}."
    BENCHMARK.publish(samples, conditions, note, ("decode_ms", "prompt_ms", "peak_mb"))


def built() -> str:
    """A hash of the page and the engine as they were built."""
    files = sorted(path for path in paths.web().rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def our_bundles() -> dict[str, Path]:
    """By scheme, and GGUF files by type."""
    folder = WORK / code_hash()[:12]
    made = convert_all(packaged_checkpoint(), SCHEMES, folder, source={"kind": "package"})
    found = {}
    for name, artifact in made.items():
        found[name] = to_web.bundle(artifact, folder / f"web-{name}", force=True)
    for kind in TYPES:
        found[kind] = folder / f"gguf-{kind}"
        if not (found[kind] / "manifest.json").exists():
            to_gguf.export(packaged_checkpoint(), kind, found[kind])
    return found


def workloads(threads: int) -> dict[str, tuple[str, dict]]:
    """Function of browser_workloads.js and its argument, by contestant."""
    both = {"threads": threads, "tokens": TOKENS}
    ort = "/bundles/peers/onnxruntime-web/dist"
    ours = {"url": "/bundles/int4-rtn/", "relaxed": True, **both}
    works = {
        "llmkg-lab int4": ("ours", ours),
        "llmkg-lab int4, 1 thread": ("ours", {**ours, "threads": 1}),
        "llmkg-lab int4, plain SIMD": ("ours", {**ours, "relaxed": False}),
        "llmkg-lab int8": ("ours", {**ours, "url": "/bundles/int8-rtn/"}),
        "onnxruntime-web int4": ("onnxruntime", {**onnx("int4-rtn"), "ort": ort, **both}),
        "Transformers.js int4": ("transformers", transformers("int4-rtn") | both),
    }
    for kind in TYPES:
        works[f"wllama {kind}"] = ("wllama", wllama(kind) | both)
    return works


def onnx(scheme: str) -> dict:
    folder = WORK / code_hash()[:12] / f"web-{scheme}"
    manifest = json.loads((folder / to_web.FILE).read_text())
    return {"url": f"/bundles/{scheme}/", "model": manifest["model"], "pieces": manifest["pieces"]}


def transformers(scheme: str) -> dict:
    library = f"{TRANSFORMERS}/dist/transformers.min.js"
    ort = f"{TRANSFORMERS}/node_modules/onnxruntime-web/dist/"
    return {"parent": "/bundles/", "name": scheme, "library": library, "ort": ort}


def wllama(kind: str) -> dict:
    folder = "/bundles/peers/@wllama/wllama/esm"
    model = f"/bundles/{kind}/model-{kind}.gguf"
    return {"library": f"{folder}/index.js", "wasm": f"{folder}/wasm/wllama.wasm", "url": model}


def in_browser(server: "BenchServer", chromium: str, function: str, work: Mapping) -> Runner:
    """A contestant: a function of browser_workloads.js in a fresh browser.

    No debugger is attached: one keeps what was loaded in the renderer's memory.
    """
    asked = urlencode({"function": function})

    def measure() -> dict:
        server.results, server.work = queue.Queue(), dict(work)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            address = f"{server.address}bundles/bench/browser.html?{asked}"
            command = [chromium, "--headless", f"--user-data-dir={folder}", *FLAGS, address]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            waited = seconds_of_children()
            with subprocess.Popen(command, **quiet) as browser:
                try:
                    with Watch(browser.pid) as watch:
                        found = server.results.get(timeout=SECONDS)
                except queue.Empty:
                    return {"failed": f"no answer in {SECONDS} s"}
                finally:
                    browser.terminate()
        if "failed" in found:
            return found
        steps = found.pop("decode_ms")
        # their mean, for some runtimes hand out several tokens at once
        own = watch.seconds - (seconds_of_children() - waited)
        return {**found, "decode_ms": fmean(steps), "peak_mb": watch.peak, OWN: own}

    return measure


def seconds_of_children() -> float:
    """Of a processor, of the children that this process waited for."""
    return sum(psutil.Process().cpu_times()[2:4])


class BenchServer(BundleServer):
    """The server of bundles, which also says what to do and takes what a page found out."""

    results: "queue.Queue[dict]" = queue.Queue()
    work: Mapping[str, object] = {}

    def __init__(self, root: Path, bundles: Mapping[str, Path]) -> None:
        super().__init__(root, bundles)
        self.RequestHandlerClass = TakesResults


class TakesResults(Handler):
    """GET /work, POST /result."""

    server: BenchServer

    def do_GET(self) -> None:  # noqa: N802
        if self.path == "/work":
            content = json.dumps(self.server.work).encode()
            self._say(HTTPStatus.OK, content, "application/json")
        else:
            super().do_GET()

    def do_POST(self) -> None:  # noqa: N802
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.results.put(json.loads(content))
        self._say(HTTPStatus.OK, b"", "text/plain")


class Watch:
    """A browser's processes: the most that a renderer had resident, in MB; seconds of all.

    The kernel keeps the most itself. So a look now and then is enough: each takes a core away from
    what is measured, for some milliseconds.
    """

    def __init__(self, browser: int) -> None:
        self.peak = 0.0
        self._seconds: dict[int, float] = {}  # by process
        self._browser, self._done = psutil.Process(browser), threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """Of a processor, in all."""
        return sum(self._seconds.values())

    def _look(self) -> None:
        ended = False
        while not ended:
            ended = self._done.wait(2)  # and look once more
            for process in (self._browser, *self._browser.children(recursive=True)):
                with contextlib.suppress(psutil.Error, FileNotFoundError, ProcessLookupError):
                    self._note(process)

    def _note(self, process: psutil.Process) -> None:
        self._seconds[process.pid] = sum(process.cpu_times()[:2])
        if "--type=renderer" in process.cmdline():
            self.peak = max(self.peak, peak_bytes(process.pid) / 1e6)


def peak_bytes(process: int) -> int:
    """What a process has had resident at most, as Linux says it."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


if __name__ == "__main__":
    parser = arguments(__doc__)
    start(lambda: main(parser.parse_args()))
