"""Every table of speed and memory, one after the other: `make bench`.

conversion          SmolLM2-135M to int4, beside onnxruntime-genai's builder and a copy
conversion_default  what convert without options takes, beside llama.cpp's Q4_K_M
decoders            SmolLM2-135M beside llama.cpp, onnxruntime-genai and PyTorch
operators           where the time of a token and of a prompt goes
embedders           all-MiniLM-L6-v2 beside llama.cpp, PyTorch and sentence-transformers
rankers             a cross-encoder beside PyTorch and sentence-transformers
conversion_large    OpenELM-3B to int4, beside a copy
low_memory          OpenELM-3B generating within 500 MB
server              chats and embeddings over HTTP beside llama.cpp's server and our library
startup             the command line, until it has answered
knowledge           a million facts beside pyoxigraph and LMDB, and search over 100,000 chunks
browser             SmolLM2-135M in Chromium beside onnxruntime-web, Transformers.js and wllama
browser_encoders    all-MiniLM-L6-v2 in Chromium by scheme
browser_large       TinyLlama-1.1B's and OpenELM-3B's shapes in Chromium

Those of OpenELM-3B take some minutes of preparation and 15 GB of disk the first time, and are
left out where there is less. After Ctrl-C the same command goes on; what the same code measured
is not measured again. Tables, samples and figures are written to benchmarks/results.
"""

import shutil
from argparse import Namespace

from benchmarks import (
    browser,
    browser_encoders,
    browser_large,
    conversion,
    conversion_default,
    decoders,
    embedders,
    knowledge,
    low_memory,
    operators,
    rankers,
    server,
    startup,
)
from benchmarks.common import WORK, arguments, start

TABLES = {
    "conversion": conversion.main,
    "conversion_default": conversion_default.main,
    "decoders": decoders.main,
    "operators": operators.main,
    "embedders": embedders.main,
    "rankers": rankers.main,
    "conversion_large": conversion.large,
    "low_memory": low_memory.main,
    "server": server.main,
    "startup": startup.main,
    "knowledge": knowledge.main,
    "browser": browser.main,
    "browser_encoders": browser_encoders.main,
    "browser_large": browser_large.main,
}
LARGE = ("conversion_large", "low_memory", "browser_large")


def main(options: Namespace) -> None:
    chosen = options.tables or [name for name in TABLES if name not in options.without]
    WORK.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(chosen, 1):
        print(f"\n{number} of {len(chosen)}: {name}", flush=True)
        made = (WORK / low_memory.VARIANT).exists()
        free = shutil.disk_usage(WORK).free
        if name in LARGE and not (made or options.tables) and free < low_memory.DISK:
            print(f"left out: {low_memory.DISK / 1e9:.0f} GB are needed, {free / 1e9:.0f} are free")
            continue
        TABLES[name](options)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="by default all", default=[])
    parser.add_argument("--without", nargs="*", default=[], choices=TABLES, help="leave out")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"there is no table {', '.join(sorted(unknown))}; see --help")
    start(lambda: main(options))
