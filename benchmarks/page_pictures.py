"""The pictures of the browser's page in the docs: chat, search, list, loading and a fault.

    python -m benchmarks.page_pictures OUTPUTS FOLDER [STATE …]

OUTPUTS: the folder that `make run` filled; the models at `balanced` are shown. FOLDER: where the
pictures go, such as docs/img. STATE: of chat, search, list, loading and problem; by default all.
Chat and search show times: on a busy machine these are not the model's. What the page needs:
`make web`.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.pictures import SIZES, store
from llmkg_lab.artifact import Artifact
from llmkg_lab.base import paths
from llmkg_lab.browser.server import BundleServer, Handler
from llmkg_lab.browser.trial import FLAGS, find_chromium
from llmkg_lab.conversion.to_web import bundle
from llmkg_lab.results import measured

MODELS = {
    "smollm2-135m-balanced": "smollm/smollm2_135m_instruct",
    "minilm-l6-balanced": "minilm/all_minilm_l6_v2",
}
CHAT, SEARCH = MODELS
QUESTION, TOKENS = "Why is the sky blue?", 60
EVERYWHERE = [(width, scheme) for width in SIZES for scheme in ("light", "dark")]
RATE = 4e6  # bytes a second of the slow line


def main(outputs: str, folder: str, *chosen: str) -> None:
    """Take all pictures, browser-STATE-WIDTH-light.png and -dark.png."""
    states: dict[str, tuple[Callable[[Page], None], list[tuple[int, str]]]] = {
        "chat": (chat, EVERYWHERE),
        "search": (search, EVERYWHERE),
        "list": (choose, [(390, "dark")]),
        "loading": (loading, [(1400, "light"), (390, "dark")]),
        "problem": (problem, [(390, "light")]),
    }
    with tempfile.TemporaryDirectory() as scratch, serving(Path(outputs), Path(scratch)) as server:
        for state in chosen or states:
            act, views = states[state]
            server.fault = state
            for width, scheme in views:
                with visit(server.address, width, scheme) as page:
                    act(page)
                    store(
                        page.screenshot(full_page=True),
                        Path(folder) / f"browser-{state}-{width}-{scheme}.png",
                    )


def chat(page: Page) -> None:
    load(page, CHAT)
    page.wait_for_selector("#chat:not([hidden])")
    page.click("#chat summary")
    for name, value in (("temperature", 0), ("max_tokens", TOKENS)):
        page.fill(f"#{name}", str(value))
    page.click("#chat summary")
    page.fill("#question", QUESTION)
    page.click("#send")
    page.wait_for_selector("#send:visible")
    page.click("details:has(#device) summary")


def search(page: Page) -> None:
    load(page, SEARCH)
    page.wait_for_selector("#search:not([hidden])")
    page.click("#find button")
    page.wait_for_selector("#results li")
    page.click("details:has(#device) summary")


def choose(page: Page) -> None:
    page.select_option("#model", label=label(page, CHAT))


def loading(page: Page) -> None:
    load(page, CHAT)
    page.wait_for_function("document.getElementById('progress').value > 2e7")


def problem(page: Page) -> None:
    load(page, CHAT)
    page.wait_for_selector("#problem:not([hidden])")


def load(page: Page, name: str) -> None:
    page.select_option("#model", label=label(page, name))
    page.click("#load")


def label(page: Page, name: str) -> str:
    """What the list calls a model."""
    return next(text for text in page.locator("#model option").all_inner_texts() if name in text)


@contextmanager
def visit(address: str, width: int, scheme: str) -> Iterator[Page]:
    """The page in a browser that was never there before."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        view = {"width": width, "height": SIZES[width]}
        page = chromium.new_page(viewport=view, color_scheme=scheme)
        page.set_default_timeout(300_000)
        page.goto(f"{address}?worker=none")
        page.wait_for_selector("#model option", state="attached")
        yield page
        chromium.close()


@contextmanager
def serving(outputs: Path, scratch: Path) -> Iterator["FaultyServer"]:
    bundles = {}
    for name, model in MODELS.items():
        artifact = Artifact.open(outputs / model / "artifacts" / "balanced")
        bundles[name] = bundle(artifact, scratch / name, performance=measured.facts(artifact))
    server = FaultyServer(paths.web(), bundles)
    with server.in_background():
        yield server


class FaultyServer(BundleServer):
    """A server of bundles whose line is slow, or who lacks the weights, as ``fault`` says."""

    fault = ""

    def __init__(self, root: Path, bundles: dict[str, Path]) -> None:
        super().__init__(root, bundles)
        self.RequestHandlerClass = Faulty


class Faulty(Handler):
    server: FaultyServer

    def send_file(self, file: Path, with_body: bool) -> None:
        if "_data" in file.name and self.server.fault == "problem":
            self._say(HTTPStatus.NOT_FOUND, b"", "text/plain")
            return
        if "_data" in file.name and self.server.fault == "loading":
            time.sleep((1 << 22) / RATE)
        super().send_file(file, with_body)


if __name__ == "__main__":
    main(*sys.argv[1:])
