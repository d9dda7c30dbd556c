"""An artifact tried in a real Chromium: what a visitor downloads, waits for and gets."""

import shutil
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.errors import LabError
from llmkg_lab.browser.server import BundleServer, Handler
from llmkg_lab.conversion.to_web import bundle

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (  # one instance, nothing but the page
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PROMPT = "The history of the lighthouse begins with a fire that was lit on a hill"
TOKENS = 48  # written, or texts encoded
SECONDS = 180  # for one visit
FASTEST = 1  # of gzip: it makes little difference to weights, and 150 MB take 3 s
VISIT = """async ([text, count]) => {
  const { load } = await import("./llmkg-lab.js");
  const start = performance.now();
  const model = await load("./");
  const found = { load: performance.now() - start, ...model.choice };
  const times = [];
  const timed = async (work) => {
    const begin = performance.now();
    await work();
    times.push(performance.now() - begin);
  };
  if (model.task === "text-generation") {
    for await (const _ of model.generate(text, { temperature: 0, max_tokens: count })) {}
    found.first = model.last.firstMs;
    found.unit = model.last.msPerToken;
  } else {
    const encode = () => (model.rank ? model.rank(text, [text]) : model.embed([text]));
    for (let i = 0; i < count; i++) await timed(encode);
    found.first = times[0];
    found.unit = times.slice(1).sort((a, b) => a - b)[count >> 1];
  }
  globalThis.model = model; // kept while its memory is looked at
  return found;
}"""


@dataclass(frozen=True)
class Trial:
    """What two visits to an artifact's page took. Times in milliseconds."""

    download: int  # bytes of a first visit
    compressed: int  # the same bytes by gzip
    cold: float  # until a first visit's model was ready, over loopback
    warm: float  # until a second visit's was
    first: float  # the first token behind the prompt, or the first text
    unit: float  # each further token or text, the median
    memory: int  # resident bytes of the page's process, with all its workers
    engine: str
    why: str
    browser: str
    second_download: int  # bytes of weights that the second visit asked for again


def find_chromium() -> str:
    """The path of an installed Chromium. Raises LabError where there is none."""
    for name in CHROMIUM:
        if found := shutil.which(name):
            return found
    raise LabError("no Chromium is installed", "Debian: apt-get install chromium")


def attempt(artifact: Artifact, text: str = PROMPT) -> Trial:
    """Bundle an artifact, and visit its page twice with a fresh Chromium.

    text: what is continued, embedded or ranked.
    Raises LabError where there is no Chromium, no built page, or where the page cannot run it.
    """
    # a thread of its own: Playwright refuses one with an event loop, as notebooks have
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_attempt, artifact, text).result()


def _attempt(artifact: Artifact, text: str) -> Trial:
    with tempfile.TemporaryDirectory(prefix="llmkg-lab-browser-") as temporary:
        made = bundle(artifact, Path(temporary) / "bundle")
        with (
            _NotingServer(made).in_background() as server,
            _page(Path(temporary) / "profile", server) as page,
        ):
            cold, asked = _visit(page, text), set(server.sent)
            server.sent.clear()
            page.reload()
            warm, again = _visit(page, text), set(server.sent)
            memory = _resident(page)
            sizes = [path.stat().st_size for path in asked]
            packed = [len(zlib.compress(path.read_bytes(), FASTEST)) for path in asked]
            weights = [path.stat().st_size for path in again if "_data" in path.name]
            return Trial(
                download=sum(sizes),
                compressed=sum(map(min, sizes, packed)),
                cold=cold["load"],
                warm=warm["load"],
                first=warm["first"],
                unit=warm["unit"],
                memory=memory,
                engine=warm["engine"],
                why=cold["why"],
                browser=f"Chromium {page.context.browser.version}",
                second_download=sum(weights),
            )


def _visit(page: Any, text: str) -> dict[str, Any]:
    from playwright.sync_api import Error

    try:
        return page.evaluate(VISIT, [text, TOKENS])
    except Error as error:
        first = error.message.partition("\n")[0]
        raise LabError(f"the page cannot run it: {first.rpartition('Error: ')[2]}") from None


def _resident(page: Any) -> int:
    """The resident bytes of the largest process that shows pages."""
    # the web's own way to ask waits a minute for helpers, which sleep where nothing wakes them
    processes = page.context.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")
    pages = [psutil.Process(p["id"]) for p in processes["processInfo"] if p["type"] == "renderer"]
    return max(process.memory_info().rss for process in pages)


class _Noting(Handler):
    """Notes which files were sent."""

    def send_file(self, file: Path, with_body: bool) -> None:
        self.server.sent.add(file)  # type: ignore[attr-defined]
        super().send_file(file, with_body)


class _NotingServer(BundleServer):
    def __init__(self, root: Path) -> None:
        super().__init__(root, {})
        self.RequestHandlerClass = _Noting
        self.sent: set[Path] = set()


@contextmanager
def _page(profile: Path, server: _NotingServer) -> Iterator[Any]:
    """A page of a fresh Chromium, at the bundle."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=find_chromium(), headless=True, args=list(FLAGS)
        )
        try:
            page = context.pages[0]
            page.set_default_timeout(1000 * SECONDS)
            page.goto(f"{server.address}?worker=none")
            yield page
        finally:
            context.close()
