"""A real JupyterLab, or Voilà, on loopback and a real Chromium that looks at it."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--enable-blink-features=ForceEagerMeasureMemory",  # or a page waits half a minute for its size
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_SKIP = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium is installed (Debian: apt-get update && apt-get install -y chromium)",
)


def needs_chromium(test):
    """Mark a test as one in the browser, skipped where there is none."""
    return pytest.mark.browser(_SKIP(test))


@contextlib.contextmanager
def server(command, folder, environment):
    """Start a Jupyter application in ``folder``; yields its address and what is its token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    private = {
        name: str(folder.parent / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR")
    }
    settings = folder.parent / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)  # or JupyterLab would ask whether to fetch its news
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    if command[0] == "voila":  # it knows no token
        options = ["--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}", "--port_retries=0"]
    else:
        options = [
            *("--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"),
            *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
            *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"),
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
    log = folder.parent / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *options],
            cwd=folder,
            env={**os.environ, **private, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_it_answers(address, token, process, log)
        yield address, token
    finally:
        os.killpg(process.pid, signal.SIGINT)  # asks, and asks again: it would want a "yes"
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_it_answers(address, token, process, log, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=5).close()
            return
        except urllib.error.HTTPError:  # Voilà has no such page, and says so
            return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"no answer from the server in {seconds} s\n{log.read_text()}")


@contextlib.contextmanager
def browser(folder: Path, width=1280, height=900, *, arguments=(), **options):
    """A page of a fresh Chromium; ``page.strangers`` lists requests that left loopback.

    arguments: of Chromium's command line; options: of Playwright's context.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder,
            executable_path=CHROMIUM,
            headless=True,
            args=[*ARGUMENTS, *arguments],
            viewport={"width": width, "height": height},
            **options,
        )
        page = context.pages[0]
        page.set_default_timeout(120_000)  # the whole suite may be running beside it
        page.strangers = []

        def note(request):
            if not re.match(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:", request.url):
                page.strangers.append(request.url)

        context.on("request", note)
        page.on("websocket", note)
        try:
            yield page
        except BaseException:
            page.screenshot(path=folder.with_name("failed.png"))
            raise
        finally:
            context.close()


def run_all_cells(page, address, token, notebook):
    """Open a notebook in JupyterLab and run it; returns when it has begun."""
    _start_kernel(address, token, notebook)
    page.goto(f"{address}/lab/tree/{notebook}?token={token}")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=120_000)
    # Before the kernel is connected, a run is forgotten, or JupyterLab asks which kernel to take:
    # a dialog that may come at any moment and then covers the menu.
    from playwright.sync_api import Error

    for _ in range(12):
        with contextlib.suppress(Error):
            if page.locator(".jp-Dialog").count():
                page.locator(".jp-Dialog .jp-mod-accept").click(timeout=10_000)
            else:
                page.get_by_role("menuitem", name="Run", exact=True).click(timeout=10_000)
                page.get_by_text("Run All Cells", exact=True).click(timeout=10_000)
            page.wait_for_selector(".jp-InputPrompt >> text=/\\[[*1]\\]/", timeout=20_000)
            return
    raise AssertionError("the notebook does not run")


def _start_kernel(address, token, notebook):
    """Ahead of the page, which then has nothing to wait for."""
    wanted = {"path": notebook, "name": notebook, "type": "notebook"}
    request = urllib.request.Request(
        f"{address}/api/sessions",
        json.dumps({**wanted, "kernel": {"name": "python3"}}).encode(),
        {"Authorization": f"token {token}", "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=60).close()
