"""The server of bundles, asked as browsers and strangers ask."""

import http.client
import json

import pytest
from support.bundles import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "outside.txt").write_text("secret")
    for name in ("page", "small"):
        (folder / name).mkdir()
    (folder / "page" / "index.html").write_text("<title>page</title>")
    (folder / "page" / "engine.wasm").write_bytes(b"\0asm")
    (folder / "small" / "data.bin").write_bytes(bytes(range(256)) * 4)
    (folder / "small" / "link.txt").symlink_to(folder / "outside.txt")
    with serving({"small": folder / "small"}, folder / "page") as server:
        yield server


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def test_pages_come_with_what_threads_need(server):
    answer, content = ask(server, "/")
    assert (answer.status, content) == (200, b"<title>page</title>")
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert ask(server, "/engine.wasm")[0].headers["Content-Type"] == "application/wasm"
    answer, content = ask(server, "/engine.wasm", "HEAD")
    assert (answer.headers["Content-Length"], content) == ("4", b"")
    listed = json.loads(ask(server, "/bundles.json")[1])
    assert listed == [{"name": "small", "url": "bundles/small/"}]


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [("0-9", 0, 10), ("1000-", 1000, 1024), ("-24", 1000, 1024), ("1020-9999", 1020, 1024)],
)
def test_ranges_are_those_bytes(server, asked, first, end):
    answer, content = ask(server, "/bundles/small/data.bin", Range=f"bytes={asked}")
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{end - 1}/1024"
    assert content == (bytes(range(256)) * 4)[first:end]


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=9-3", "bytes=-", "bytes=0-1,4-5", "x"])
def test_other_ranges_are_refused(server, asked):
    answer, content = ask(server, "/bundles/small/data.bin", Range=asked)
    assert (answer.status, content) == (416, b"")


@pytest.mark.parametrize(
    "path",
    ["/../outside.txt", "/%2e%2e/outside.txt", "/bundles/small/../../outside.txt", "/none",
     "/bundles/small/link.txt", "/bundles/small/%00", "/bundles/other/data.bin",
     "//etc/passwd", "/bundles/small/..%5coutside.txt", "/bundles/small"],
)  # fmt: skip
def test_nothing_outside_is_served(server, path):
    assert ask(server, path)[0].status == 404


@pytest.mark.slow
def test_other_hosts_are_refused(server):
    assert ask(server, "/", Host="evil.example:80")[0].status == 403
    assert ask(server, "/", Host="localhost:80")[0].status == 200
    assert ask(server, "/", "POST")[0].status == 501
