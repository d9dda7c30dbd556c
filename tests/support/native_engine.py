"""The engine of the browser, compiled for this machine, and what it is asked through ctypes."""

import ctypes
import importlib.util
import json
import struct
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
    "products_hold": (U32,),
    "round_to_bytes": (None, POINTER, POINTER, POINTER),
    "read_row": (None, POINTER, SIZE, POINTER),
    "unpacked_bytes": (SIZE, U32),
    "multiply": (None, POINTER, POINTER, U32, U32, U32, POINTER, SIZE, ctypes.c_int, POINTER),
    "remember": (None, POINTER, U32, POINTER, POINTER),
    "attend": (None, POINTER, POINTER, POINTER, U32, U32, POINTER, POINTER),
    "turns_of": (None, U32, POINTER, U32, POINTER),
}


@cache
def build_module():
    """engine/build.py."""
    spec = importlib.util.spec_from_file_location("engine_build", ENGINE / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def library(folder: Path) -> ctypes.CDLL:
    """Compile into ``folder`` and load."""
    engine = ctypes.CDLL(str(build_module().native(folder)))
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(engine, name)
        function.restype, function.argtypes = result, arguments
    return engine


class CMatrix(ctypes.Structure):
    """Matrix of engine/matrix.h."""

    _fields_ = [
        *((name, POINTER) for name in ("codes", "scales", "zeros", "bias")),
        *((name, U32) for name in ("rows", "columns", "bits", "block_size", "blocks")),
        ("half_scales", U32),
    ]


class CRounded(ctypes.Structure):
    """Rounded of engine/matrix.h."""

    _fields_ = [("codes", POINTER), ("scales", POINTER), ("sums", POINTER)]


def padded(array):
    """The array with room behind it: the engine loads whole vectors, as far as 16 bytes."""
    room = np.zeros(array.nbytes + 16, np.uint8)
    room[: array.nbytes] = np.ascontiguousarray(array).view(np.uint8).ravel()
    return room


class CRemembered(ctypes.Structure):
    """Remembered of engine/decoder.h."""

    _fields_ = [("codes", POINTER), ("scales", POINTER)]


class NativeMatrix:
    """A quantized matrix; bias: (rows,) float32 or None."""

    def __init__(self, engine, quantized, bias=None):
        layout, blocks = quantized.layout, quantized.scales.shape[1]
        kind = np.float16 if layout.half_scales else np.float32
        zeros = quantized.zero_points
        arrays = [quantized.codes, quantized.scales.astype(kind), zeros, bias]
        self._kept = [None if a is None else padded(a) for a in arrays]
        places = [None if a is None else a.ctypes.data for a in self._kept]
        sizes = (len(quantized.codes), quantized.columns, layout.bits, layout.block_size, blocks)
        self.matrix = CMatrix(*places, *sizes, int(layout.half_scales))
        self.rows, self.columns = sizes[:2]
        self._at, self._engine = ctypes.addressof(self.matrix), engine

    def row(self, index):
        values = np.empty(self.columns, np.float32)
        self._engine.read_row(self._at, index, values.ctypes.data)
        return values

    def times(self, x, first=0, end=None):
        """x (tokens, columns) float32 -> (tokens, rows); and the activations' own rounding."""
        padded, tokens = self.columns + 4 * 128, (CRounded * len(x))()
        codes = np.zeros((len(x), padded), np.int16)
        scales, sums = np.zeros((2, len(x), padded // 32), np.float32)
        x = np.ascontiguousarray(x)
        for t in range(len(x)):
            tokens[t] = CRounded(*(a[t].ctypes.data for a in (codes, scales, sums)))
            self._engine.round_to_bytes(self._at, x[t].ctypes.data, ctypes.addressof(tokens[t]))
        out = np.zeros((len(x), self.rows), np.float32)
        scratch = np.empty(self._engine.unpacked_bytes(self.columns), np.uint8)
        places = (out.ctypes.data, self.rows, 0, scratch.ctypes.data)
        rows = (first, self.rows if end is None else end)
        self._engine.multiply(self._at, ctypes.addressof(tokens), len(x), *rows, *places)
        return out


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
