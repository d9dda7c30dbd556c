"""Bundles of small models with a tokenizer of numbers, and servers that misbehave."""

import contextlib
import json
import shutil
import time
from http import HTTPStatus
from pathlib import Path

import tokenizers

from llmkg_lab.base import paths
from llmkg_lab.browser.server import BundleServer, Handler
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.conversion.to_web import bundle
from llmkg_lab.scheme import Scheme
from support import tiny_folders

BUILT = (paths.ROOT / "web" / "dist" / "llmkg-lab.js").is_file()
# 12 million parameters: four ranges of weights
MIDDLING = {"vocab_size": 131, "hidden_size": 512, "intermediate_size": 1536,
            "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
            "max_position_embeddings": 512}  # fmt: skip


def numbers_llama(folder: Path, **config) -> Path:
    """A random Llama whose tokens are the numbers from 0 to 130."""
    tiny_folders.llama(folder, **{**MIDDLING, **config})
    words = tokenizers.models.WordLevel({str(i): i for i in range(131)}, unk_token="0")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def make_bundle(checkpoint: Path, scheme: str, folder: Path) -> Path:
    artifact = convert(open_checkpoint(checkpoint), Scheme.parse(scheme), folder / "artifact")
    return bundle(artifact, folder / "bundle")


class Faulty(Handler):
    """Weights as a bad server or line gives them: ``fault`` of the server says how."""

    def send_file(self, file, with_body):
        server = self.server
        if server.prelude and file.suffix == ".js" and "worker" in file.name:
            self._say(HTTPStatus.OK, server.prelude.encode() + file.read_bytes(), "text/javascript")
            return
        if "_data" not in file.name:
            super().send_file(file, with_body)
            return
        server.asked += 1
        fault = server.fault
        if fault == "once" and server.asked == 2:  # the line breaks, once
            fault = "cut"
        if fault == "missing":
            self._say(HTTPStatus.NOT_FOUND, b"", "text/plain")
        elif fault == "html":
            self._say(HTTPStatus.OK, b"<html>Please log in</html>" * 1000, "text/html")
        elif fault == "busy":
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, b"", "text/plain")
        elif fault == "ranges":
            del self.headers["Range"]
            super().send_file(file, with_body)
        else:
            if fault == "slow":
                time.sleep(0.5)
            super().send_file(file, with_body)

    def _copy(self, file, start, end):
        fault = self.server.fault
        if fault == "once":
            fault = "cut" if self.server.asked == 2 else None
        if "_data" in self.path and fault == "cut":
            super()._copy(file, start, (start + end) // 2)
            self.close_connection = True
            self.connection.shutdown(2)
        elif "_data" in self.path and fault == "wrong" and start:
            super()._copy(file, start - 64, end - 64)  # as long as it should be, and other bytes
        else:
            super()._copy(file, start, end)


@contextlib.contextmanager
def serving(bundles: dict[str, Path], root: Path | None = None):
    """A server of bundles beside the built page.

    Tests set ``fault`` (of weights), ``asked`` (for weights), ``prelude`` (code before workers').
    """
    server = BundleServer(root or paths.web(), bundles)
    server.RequestHandlerClass, server.fault, server.asked = Faulty, None, 0
    server.prelude = None
    with server.in_background():
        yield server


def copied(bundle_folder: Path, target: Path) -> Path:
    shutil.copytree(bundle_folder, target)
    return target
