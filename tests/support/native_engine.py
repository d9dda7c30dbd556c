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
VERSION = 2
POINTER, U32, SIZE = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_size_t
FUNCTIONS = {
    "decoder_bytes": (SIZE, POINTER, U32),
    "decoder_open": (POINTER, POINTER, U32, POINTER, POINTER),
    "decoder_ids": (POINTER, POINTER),
    "decoder_step": (None, POINTER, U32, U32),
    "decoder_layers": (None, POINTER, U32, U32, U32),
    "decoder_logits": (POINTER, POINTER, U32),
    "most_likely": (U32, POINTER, U32, U32, POINTER),
    "decoder_hidden": (POINTER, POINTER),
    "decoder_help": (None, POINTER, U32),
    "decoder_stop": (None, POINTER),
    "encoder_bytes": (SIZE, POINTER, U32),
    "encoder_open": (POINTER, POINTER, U32, POINTER, POINTER),
    "encoder_ids": (POINTER, POINTER),
    "encoder_types": (POINTER, POINTER),
    "encoder_run": (POINTER, POINTER, U32),
    "encoder_layers": (POINTER, POINTER, U32, U32),
    "encoder_help": (None, POINTER, U32),
    "encoder_stop": (None, POINTER),
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

    _fields_ = [(name, POINTER) for name in ("codes", "flips", "scales", "sums", "missing")]


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
        flips = np.zeros((len(x), padded), np.int8)
        scales, sums = np.zeros((2, len(x), padded // 32), np.float32)
        missing = np.zeros((len(x), padded // 32), np.int32)
        x = np.ascontiguousarray(x)
        for t in range(len(x)):
            tokens[t] = CRounded(*(a[t].ctypes.data for a in (codes, flips, scales, sums, missing)))
            self._engine.round_to_bytes(self._at, x[t].ctypes.data, ctypes.addressof(tokens[t]))
        out = np.zeros((len(x), self.rows), np.float32)
        scratch = np.empty(self._engine.unpacked_bytes(self.columns), np.uint8)
        places = (out.ctypes.data, self.rows, 0, scratch.ctypes.data)
        rows = (first, self.rows if end is None else end)
        self._engine.multiply(self._at, ctypes.addressof(tokens), len(x), *rows, *places)
        return out


class _Words:
    """A description in the making: what those of decoders and encoders share."""

    def __init__(self, bases: list[int]) -> None:
        self._bases = bases

    def place(self, entry):
        return NOWHERE if entry is None else self._bases[entry[0]] + entry[1]

    def matrix(self, m):
        if m is None:
            return [0] * 5 + [NOWHERE] * 4
        sizes = [m["rows"], m["columns"], m["bits"], m["block_size"], int(m["half_scales"])]
        return sizes + [self.place(m[name]) for name in ("codes", "scales", "zeros", "bias")]

    def norm(self, norm):
        return [self.place(norm["gain"]), self.place(norm["shift"])]


def _float_word(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


def describe(decoder: dict, bases: list[int], frequencies: int, positions: int, threads: int):
    """The words of a bundle's ``engine.decoder``; bases: of the pieces."""
    make = _Words(bases)
    words = [VERSION, decoder["vocab"], decoder["hidden"], len(decoder["layers"])]
    words += [decoder["head_dim"], positions, threads, _float_word(decoder["epsilon"]), frequencies]
    words += [make.place(decoder["last_norm"])]
    words += [*make.matrix(decoder["table"]), *make.matrix(decoder["head"])]
    for layer in decoder["layers"]:
        words += [layer["heads"], layer["kv_heads"], layer["width"]]
        names = ("attention_norm", "query_norm", "key_norm", "width_norm")
        words += [make.place(layer[name]) for name in names]
        for name in ("qkv", "output", "gate_up", "down"):
            words += make.matrix(layer[name])
    return np.array(words, np.uint32)


def describe_encoder(encoder: dict, bases: list[int], positions: int, threads: int):
    """The words of a bundle's ``engine.encoder``; bases: of the pieces."""
    make, classifier = _Words(bases), encoder["classifier"] or {}
    names = ("hidden", "layers", "heads", "width")
    sizes = {**encoder, "layers": len(encoder["layers"])}
    words = [VERSION, encoder["vocab"], *(sizes[name] for name in names)]
    words += [positions, encoder["types"], threads]
    words += [("mean", "first", "scores").index(encoder["output"]), encoder["output_size"]]
    words += [int(encoder["normalizes"]), _float_word(encoder["epsilon"])]
    words += [make.place(encoder["places"]), make.place(encoder["kinds"])]
    words += make.norm(encoder["first_norm"])
    words += [make.place(classifier.get(name)) for name in ("weight", "bias")]
    words += [*make.matrix(encoder["words"]), *make.matrix(classifier.get("pooler"))]
    for layer in encoder["layers"]:
        words += [*make.norm(layer["attention_norm"]), *make.norm(layer["width_norm"])]
        for name in ("qkv", "output", "widen", "narrow"):
            words += make.matrix(layer[name])
    return np.array(words, np.uint32)


def read_pieces(bundle: Path, manifest: dict) -> tuple[bytearray, list[int]]:
    """A bundle's weights one behind the other, and where each piece begins."""
    content, bases = bytearray(), []
    for name in manifest["pieces"]:
        content.extend(b"\0" * (-len(content) % 64))
        bases.append(len(content))
        content.extend((bundle / name).read_bytes())
    content.extend(b"\0" * (-len(content) % 64))
    return content, bases


class _Native:
    """A model of the engine, with helpers as threads of this process."""

    kind: str

    def __init__(self, engine, weights, words, threads):
        self.engine, self.weights, self.words = engine, weights, words
        nbytes = self.call("bytes", words.ctypes.data, len(words))
        assert nbytes, "the engine does not compute this description"
        self.memory = np.zeros(nbytes + 64, np.uint8)
        start = self.memory.ctypes.data + -self.memory.ctypes.data % 64
        self.at = self.call("open", words.ctypes.data, len(words), weights.ctypes.data, start)
        help_ = getattr(engine, f"{self.kind}_help")
        self.helpers = [
            threading.Thread(target=help_, args=(self.at, thread)) for thread in range(1, threads)
        ]
        for helper in self.helpers:
            helper.start()

    def call(self, name, *arguments):
        return getattr(self.engine, f"{self.kind}_{name}")(*arguments)

    def close(self):
        self.call("stop", self.at)
        for helper in self.helpers:
            helper.join()

    def put(self, name, values):
        values = np.asarray(values, np.uint32)
        ctypes.memmove(self.call(name, self.at), values.ctypes.data, values.nbytes)

    @staticmethod
    def floats(at, count):
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(at)).copy()


class NativeDecoder(_Native):
    """A bundle's decoder."""

    kind = "decoder"

    def __init__(self, engine, bundle: Path, positions=None, threads=1):
        manifest = json.loads((bundle / "model_manifest.json").read_text())
        decoder = manifest["engine"]["decoder"]
        content, bases = read_pieces(bundle, manifest)
        frequencies = len(content)
        content.extend(np.array(decoder["inverse_frequencies"], np.float32).tobytes())
        positions = positions or manifest["context_length"]
        words = describe(decoder, bases, frequencies, positions, threads)
        self.vocab, self.hidden_size = decoder["vocab"], decoder["hidden"]
        self.layers = len(decoder["layers"])
        super().__init__(engine, np.frombuffer(content, np.uint8), words, threads)

    def step(self, ids, position, layers=None):
        """Run some tokens, at most 128; returns their hidden states before the last norm."""
        self.put("ids", ids)
        self.call("layers", self.at, len(ids), position, self.layers if layers is None else layers)
        return self.floats(self.call("hidden", self.at), len(ids) * self.hidden_size)

    def logits(self, index):
        return self.floats(self.call("logits", self.at, index), self.vocab)

    def all_logits(self, ids, tile=128):
        """The logits after each token, (tokens, vocab), the prompt in tiles."""
        rows = []
        for first in range(0, len(ids), tile):
            part = ids[first : first + tile]
            # every row is asked for before the next step; the head uses the first token's place
            self.step(part, first)
            rows.extend(self.logits(i) for i in range(len(part)))
        return np.stack(rows)


class NativeEncoder(_Native):
    """A bundle's encoder, for texts of at most ``positions`` tokens."""

    kind = "encoder"

    def __init__(self, engine, bundle: Path, positions=None, threads=1):
        manifest = json.loads((bundle / "model_manifest.json").read_text())
        self.shape = manifest["engine"]["encoder"]
        content, bases = read_pieces(bundle, manifest)
        positions = positions or self.shape["positions"]
        words = describe_encoder(self.shape, bases, positions, threads)
        super().__init__(engine, np.frombuffer(content, np.uint8), words, threads)

    def states(self, ids, types, layers):
        """The hidden states after some layers, (tokens, hidden)."""
        self.put("ids", ids)
        self.put("types", types)
        found = self.call("layers", self.at, len(ids), layers)
        return self.floats(found, len(ids) * self.shape["hidden"]).reshape(len(ids), -1)

    def run(self, ids, types):
        """The text's vector, or its scores."""
        self.put("ids", ids)
        self.put("types", types)
        return self.floats(self.call("run", self.at, len(ids)), self.shape["output_size"])
