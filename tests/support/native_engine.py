"""The engine of the browser, compiled for this machine, and what it is asked through ctypes."""

import ctypes
import json
import struct
import sys
import threading
from functools import cache
from pathlib import Path

import numpy as np

ENGINE = Path(__file__).resolve().parents[2] / "engine"
NOWHERE = 0xFFFFFFFF
VERSION = 1
POINTER, U32, SIZE = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t
FUNCTIONS = {
    "decoder_bytes": (SIZE, POINTER, U32),
    "decoder_open": (POINTER, POINTER, U32, POINTER, POINTER),
    "decoder_ids": (POINTER, POINTER),
    "decoder_step": (None, POINTER, U32, U32),
    "decoder_layers": (None, POINTER, U32, U32, U32),
    "decoder_logits": (POINTER, POINTER, U32),
    "decoder_hidden": (POINTER, POINTER),
    "decoder_help": (None, POINTER, U32),
    "decoder_stop": (None, POINTER),
    "likeliest": (U32, POINTER, U32),
}


@cache
def library(folder: Path) -> ctypes.CDLL:
    """Compile into ``folder`` and load."""
    sys.path.insert(0, str(ENGINE))
    try:
        import build
    finally:
        sys.path.remove(str(ENGINE))
    engine = ctypes.CDLL(str(build.native(folder)))
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(engine, name)
        function.restype, function.argtypes = result, arguments
    return engine


def describe(decoder: dict, bases: list[int], frequencies: int, positions: int, threads: int):
    """The words of a bundle's ``engine.decoder``; bases: of the pieces."""

    def place(entry):
        return NOWHERE if entry is None else bases[entry[0]] + entry[1]

    def matrix(m):
        sizes = [m["rows"], m["columns"], m["bits"], m["block_size"], int(m["half_scales"])]
        return sizes + [place(m[name]) for name in ("codes", "scales", "zeros", "bias")]

    epsilon = struct.unpack("<I", struct.pack("<f", decoder["epsilon"]))[0]
    words = [VERSION, decoder["vocab"], decoder["hidden"], len(decoder["layers"])]
    words += [decoder["head_dim"], positions, threads, epsilon, frequencies]
    words += [place(decoder["last_norm"]), *matrix(decoder["table"]), *matrix(decoder["head"])]
    for layer in decoder["layers"]:
        words += [layer["heads"], layer["kv_heads"], layer["width"]]
        names = ("attention_norm", "query_norm", "key_norm", "width_norm")
        words += [place(layer[name]) for name in names]
        for name in ("qkv", "output", "gate_up", "down"):
            words += matrix(layer[name])
    return np.array(words, np.uint32)


class NativeDecoder:
    """A bundle's decoder, with helpers as threads of this process."""

    def __init__(self, engine, bundle: Path, positions=None, threads=1):
        manifest = json.loads((bundle / "model_manifest.json").read_text())
        decoder = manifest["engine"]["decoder"]
        content, bases = bytearray(), []
        for name in manifest["pieces"]:
            content.extend(b"\0" * (-len(content) % 64))
            bases.append(len(content))
            content.extend((bundle / name).read_bytes())
        content.extend(b"\0" * (-len(content) % 64))
        frequencies = len(content)
        content.extend(np.array(decoder["inverse_frequencies"], np.float32).tobytes())
        self.weights = np.frombuffer(content, np.uint8)
        positions = positions or manifest["context_length"]
        self.words = describe(decoder, bases, frequencies, positions, threads)
        self.vocab, self.hidden_size = decoder["vocab"], decoder["hidden"]
        self.layers = len(decoder["layers"])
        self.engine = engine
        nbytes = engine.decoder_bytes(self.words.ctypes.data, len(self.words))
        assert nbytes, "the engine does not compute this description"
        self.memory = np.zeros(nbytes + 64, np.uint8)
        start = self.memory.ctypes.data + -self.memory.ctypes.data % 64
        base = self.weights.ctypes.data
        self.at = engine.decoder_open(self.words.ctypes.data, len(self.words), base, start)
        self.helpers = [
            threading.Thread(target=engine.decoder_help, args=(self.at, thread))
            for thread in range(1, threads)
        ]
        for helper in self.helpers:
            helper.start()

    def close(self):
        self.engine.decoder_stop(self.at)
        for helper in self.helpers:
            helper.join()

    def step(self, ids, position, layers=None):
        """Run some tokens, at most 128; returns their hidden states before the last norm."""
        ids = np.asarray(ids, np.uint32)
        ctypes.memmove(self.engine.decoder_ids(self.at), ids.ctypes.data, ids.nbytes)
        count = self.layers if layers is None else layers
        self.engine.decoder_layers(self.at, len(ids), position, count)
        return self._floats(self.engine.decoder_hidden(self.at), len(ids) * self.hidden_size)

    def logits(self, index):
        return self._floats(self.engine.decoder_logits(self.at, index), self.vocab)

    def _floats(self, at, count):
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(at)).copy()

    def all_logits(self, ids, tile=128):
        """The logits after each token, (tokens, vocab), the prompt in tiles."""
        rows = []
        for first in range(0, len(ids), tile):
            part = ids[first : first + tile]
            # every row is asked for before the next step; the head uses the first token's place
            self.step(part, first)
            rows.extend(self.logits(i) for i in range(len(part)))
        return np.stack(rows)
