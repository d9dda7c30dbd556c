"""A real Firefox without a window, driven by WebDriver BiDi, which it speaks itself."""

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

FIREFOX = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
PREFERENCES = {
    "app.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "extensions.getAddons.cache.enabled": False,
    "services.settings.server": "data:,",
}


class Tab:
    """One page: where it goes, and what a script in it says."""

    def __init__(self, socket):
        self._socket, self._numbers = socket, itertools.count(1)
        self.ask("session.new", capabilities={})
        self._context = self.ask("browsingContext.getTree")["contexts"][0]["context"]

    def ask(self, method, **parameters):
        """Send one command; its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while (answer := json.loads(self._socket.recv())).get("id") != number:
            pass
        assert answer["type"] == "success", answer
        return answer["result"]

    def goto(self, url):
        self.ask("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def evaluate(self, script, argument=None):
        """What a function says in the page, or the promise that it returns."""
        expression = f"Promise.resolve(({script})({json.dumps(argument)})).then(JSON.stringify)"
        where = {"context": self._context}
        answer = self.ask("script.evaluate", expression=expression, target=where, awaitPromise=True)
        assert answer["type"] == "success", answer
        said = answer["result"].get("value")
        return None if said is None else json.loads(said)

    def wait_for(self, expression, seconds=60):
        deadline = time.monotonic() + seconds
        while not self.evaluate(f"() => Boolean({expression})"):
            assert time.monotonic() < deadline, expression
            time.sleep(0.1)


@contextlib.contextmanager
def firefox(folder: Path, **preferences):
    """A tab of a fresh Firefox; preferences: dots in their names written as __."""
    import websocket

    folder.mkdir(parents=True)
    named = {name.replace("__", "."): value for name, value in preferences.items()}
    lines = (
        f"user_pref({json.dumps(name)}, {json.dumps(value)});"
        for name, value in {**PREFERENCES, **named}.items()
    )
    (folder / "user.js").write_text("\n".join(lines))
    command = [FIREFOX, "--headless", "--no-remote", "--profile", folder]
    with subprocess.Popen(
        [*command, "--remote-debugging-port", "0"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address = next(filter(None, (re.search(r"ws://\S+", line) for line in process.stderr)))[
                0
            ]
            socket = websocket.create_connection(
                f"{address}/session", timeout=60, suppress_origin=True
            )
            try:
                yield Tab(socket)
            finally:
                socket.close()
        finally:
            process.terminate()
            process.communicate(timeout=30)
