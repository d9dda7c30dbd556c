"""What to quantize to: a scheme is a short name that says how every tensor is stored.

A name is one of three kinds. A *preset* says what is wanted, and ``presets.resolve`` finds what
serves it best for a model:

balanced          what to take without further thought; best, small, fast, web: see ``presets``
int4, int8        the best that is known at that width

A name with options, a *recipe*, says exactly how:

int4-rtn          4 bits rounded to nearest, blocks of 32 along the input axis, zero points
int4-b128-sym     blocks of 128, symmetric (no zero points); rounded to nearest, too
int4-s16          scales stored as float16: 0.5 bits per weight less in blocks of 32
int4-e8b64sym     the embedding table at 8 bits in blocks of 64, symmetric
int4-eq           channels equalized first: the same function, easier to quantize, no text needed
int4-mse          and each block's scale searched for the least squared error
int4-b64-gptq     and the codes solved on calibration text (GPTQ), not rounded to nearest
int4-gptq-dwq     and the scales then trained on the whole model's predictions: some minutes more
int4-e4           the embedding table (and a head that shares it) at 4 bits too
int8-dyn          of encoders: one scale per row, and products in integers, as activations are
                  rounded to 8 bits with one scale per token: faster, and less exact
fp16              half-precision weights, computed in float32

And a *budget* says how large:

budget:100MB      each matrix of a decoder at the width that its sensitivity earns, in 100 MB in
                  all; 100MB, budget:0.1GB and budget:95.4MiB say the same
budget:5.2bpw     the same in 5.2 bits per parameter; as the name of a folder, budget-5.2bpw
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.nearest import nearest

BITS = {"int4": 4, "int8": 8, "budget": 4}  # a budget's: of what nothing was measured for
FLOATS = {"fp32": 4, "fp16": 2}  # bytes an element
MAX_POSITIONS = 1 << 20  # a graph computes rotary tables for all when it is loaded
BLOCK_SIZES = (32, 64, 128)
PRESETS = ("balanced", "best", "small", "fast", "web", "int8", "int4")
METHODS = ("rtn", "eq", "mse", "gptq")
FLAGS: dict[str, dict[str, Any]] = {
    "sym": {"symmetric": True},
    "s16": {"half_scales": True},
    **{method: {"method": method} for method in METHODS},
    "dwq": {"distilled": True},
    "dyn": {"dynamic": True},
}
MEANT = {  # names that other tools use, and the nearest here
    **dict.fromkeys(("q4", "q4_0", "q4_1", "q4_k_m", "q4f16", "4bit", "4-bit", "nf4"), "int4"),
    **dict.fromkeys(("q8", "q8_0", "8bit", "8-bit", "uint8", "quantized"), "int8"),
    **dict.fromkeys(("f16", "float16", "half", "bf16"), "fp16"),
    **dict.fromkeys(("f32", "float32", "float", "full", "none"), "fp32"),
    **dict.fromkeys(("default", "auto", "medium"), "balanced"),
    **dict.fromkeys(("tiny", "smallest", "least"), "small"),
    **dict.fromkeys(("fastest", "speed"), "fast"),
    **dict.fromkeys(("quality", "lossless"), "best"),
    **dict.fromkeys(("browser", "wasm", "webgpu"), "web"),
}
UNITS = {"kb": 1e-3, "kib": 1.024e-3, "mb": 1.0, "mib": 1.048576, "gb": 1e3, "gib": 1073.741824}

BUDGET = re.compile(r"(budget)?\s*[:=-]?\s*(?:(\d+(?:\.\d+)?)\s*([a-z]+)(?:\s*-\s*(dwq))?)?")
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized", "int4": "_q4", "budget": "_q4"}


class SchemeError(LabError):
    """The name of a scheme that cannot be read."""


@dataclass(frozen=True)
class Layout:
    """How one matrix (rows, columns) is stored: integer codes in blocks along a row."""

    bits: int
    block_size: int
    symmetric: bool
    half_scales: bool = False  # scales are stored as float16 and cast when the graph is loaded
    dynamic: bool = False  # products in integers; a block is then a row

    def blocks(self, columns: int) -> int:
        """Blocks in a row; the last one may be ragged."""
        return -(-columns // self.block_size)

    def nbytes(self, rows: int, columns: int) -> int:
        """Bytes of codes, scales and packed zero points together."""
        blocks = self.blocks(columns)
        zero_points = 0 if self.symmetric else -(-blocks * self.bits // 8)
        scale = 2 if self.half_scales else 4
        return rows * (blocks * (self.block_size * self.bits // 8 + scale) + zero_points)


def integer_layout(layout: Layout | None) -> Layout:
    """``layout``, of a scheme that is known to store integer codes."""
    assert layout is not None
    return layout


@dataclass(frozen=True)
class Budget:
    """What the graph and its weights may take together."""

    amount: float
    unit: str  # mb: 10⁶ bytes | bpw: bits per parameter

    def nbytes(self, parameters: int) -> int:
        """The budget in bytes, for a model of so many parameters."""
        return int(self.amount * (1e6 if self.unit == "mb" else parameters / 8))


@dataclass(frozen=True)
class Scheme:
    """A whole model's scheme. ``Scheme.parse(name).name == name`` for every canonical name."""

    base: str  # fp32 | fp16 | int8 | int4 | budget; empty: a preset, before it is resolved
    block_size: int = 32
    symmetric: bool = False
    half_scales: bool = False
    method: str = "rtn"  # round to nearest | eq, mse, gptq: as above
    distilled: bool = False
    dynamic: bool = False
    table_bits: int | None = None  # None: 8 where a language model's head shares the table
    table_block: int | None = None  # None: as block_size
    table_symmetric: bool = False  # the table too has no zero points
    budget: Budget | None = None
    preset: str = ""  # that it was asked for by, of PRESETS

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name such as ``balanced`` or ``int4-b64-sym-e4``.

        Raises SchemeError on anything else, with the nearest right name.
        """
        name = text.strip().lower()
        if name in PRESETS:
            return cls("", preset=name)
        match = BUDGET.fullmatch(name)
        if name.startswith("budget") or (match and match[2]):
            return cls._parse_budget(text, match)
        base, *options = name.split("-")
        if base not in BITS and base not in FLOATS:
            raise _unknown(text, name, base)
        if options and base in FLOATS:
            raise SchemeError(f"scheme {text!r}: {base} takes no options", f"write {base}")
        fields: dict[str, Any] = {}
        for option in options:
            parsed = _option(text, option)
            if twice := fields.keys() & parsed.keys():
                raise SchemeError(f"scheme {text!r} says {min(twice)} twice")
            fields |= parsed
        if fields.get("distilled") and fields.get("method") != "gptq":
            raise SchemeError(f"scheme {text!r}: dwq trains what gptq solved", "write gptq-dwq")
        if fields.get("dynamic"):
            others = fields.keys() & {"block_size", "half_scales", "method"}
            if base != "int8" or others:
                raise SchemeError(f"scheme {text!r}: dyn goes with int8 alone", "write int8-dyn")
            fields["symmetric"] = True
        return cls(base, **fields)

    @classmethod
    def parse_all(cls, texts: Iterable[str]) -> "list[Self]":
        """Read several names, each of which may be several with commas; each counts once."""
        names = (name.strip() for text in texts for name in text.split(","))
        return list(
            {scheme.name: scheme for scheme in map(cls.parse, filter(None, names))}.values()
        )

    @classmethod
    def _parse_budget(cls, text: str, match: re.Match[str] | None) -> Self:
        _, amount, unit, distilled = match.groups() if match else ("", "", "", None)
        size = float(amount or 0) * UNITS.get(unit or "", 1)
        if not size or unit not in (*UNITS, "bpw"):
            near = f"; {nearest(unit, [*UNITS, 'bpw'])}" if unit else ""
            raise SchemeError(
                f"scheme {text!r}: a budget is a size",
                f"write budget:100MB or budget:5.2bpw (bits per weight){near}",
            )
        budget = Budget(float(f"{size:g}"), "bpw" if unit == "bpw" else "mb")
        fields: dict[str, Any] = {"half_scales": True, "method": "gptq", "budget": budget}
        return cls("budget", distilled=distilled is not None, **fields)

    @property
    def name(self) -> str:
        """The name that was asked for, fit for a folder: a preset's, else the recipe."""
        return self.preset or self.recipe

    @property
    def recipe(self) -> str:
        """The canonical name of all that it says: the base, then what differs from its defaults.

        A preset has one when it is resolved.
        """
        if self.budget:
            amount = f"budget-{self.budget.amount:g}{self.budget.unit}"
            return f"{amount}-dwq" if self.distilled else amount
        parts = [self.base]
        if self.block_size != 32:
            parts.append(f"b{self.block_size}")
        if self.dynamic:
            parts.append("dyn")
        elif self.symmetric:
            parts.append("sym")
        if self.half_scales:
            parts.append("s16")
        if self.method != "rtn":
            parts.append(self.method)
        if self.distilled:
            parts.append("dwq")
        if self.table_bits is not None:
            block = f"b{self.table_block}" if self.table_block else ""
            symmetric = "sym" if self.table_symmetric else ""
            parts.append(f"e{self.table_bits}{block}{symmetric}")
        if len(parts) == 1 and self.base in BITS:
            parts.append("rtn")  # a width alone is a preset
        return "-".join(parts)

    @property
    def calibrates(self) -> bool:
        """Whether it is solved on text, which takes minutes."""
        return self.method == "gptq"

    @property
    def suffix(self) -> str:
        """The file name suffix by which Transformers.js finds the graph (its ``dtype``)."""
        return SUFFIXES[self.base]

    def linear(self) -> Layout | None:
        """The layout of a weight matrix, or None where it stays floating point."""
        if self.base in FLOATS:
            return None
        scales = (self.half_scales, self.dynamic)
        return Layout(BITS[self.base], self.block_size, self.symmetric, *scales)

    def table(self, *, is_head: bool) -> Layout | None:
        """The layout of an embedding table or an LM head.

        A head's errors go straight into the logits, so by default it keeps 8 bits; the table
        of an encoder has no such reader and follows the matrices.
        """
        if self.base in FLOATS:
            return None
        bits = self.table_bits or (8 if is_head else BITS[self.base])
        symmetric = self.symmetric or self.table_symmetric
        return Layout(bits, self.table_block or self.block_size, symmetric, self.half_scales)


def _unknown(text: str, name: str, base: str) -> SchemeError:
    """What to answer to a name that begins with nothing known."""
    if "," in name:
        return SchemeError(f"{text!r} are several schemes", "name one here")
    if re.fullmatch(r"[\d.]+", name):
        return SchemeError(
            f"scheme {text!r}: a size needs its unit", f"write {name}MB or {name}bpw"
        )
    known = [*FLOATS, *PRESETS]
    meant = MEANT.get(name) or MEANT.get(base)
    hint = f"did you mean {meant!r}?" if meant else nearest(base, known)
    return SchemeError(f"unknown scheme {text!r}", f"{hint} `llmkg-lab schemes` lists them")


def _option(text: str, option: str) -> dict[str, Any]:
    """The fields that one option of a name sets."""
    if option in FLAGS:
        return FLAGS[option]
    match = re.fullmatch(r"(?:e(?P<bits>[48]))?(?:b(?P<block>\d+))?(?P<sym>sym)?", option)
    if match is None or not (match["bits"] or (match["block"] and not match["sym"])):
        near = nearest(option, FLAGS, all_else=False)
        raise SchemeError(
            f"scheme {text!r}: unknown option {option!r}",
            f"{near}{' ' if near else ''}options are b32, b64, b128 (block size), sym (no zero "
            "points), s16 (float16 scales), rtn (round to nearest), eq (equalized channels), mse "
            "(and searched scales), gptq (calibrated), dwq (and distilled), dyn (products in "
            "integers), e4, e8 (table bits), e8b64sym (and its blocks)",
        )
    block = int(match["block"]) if match["block"] else None
    if block not in (None, *BLOCK_SIZES):
        raise SchemeError(f"scheme {text!r}: block size {block}", f"choose one of {BLOCK_SIZES}")
    if not match["bits"]:
        return {"block_size": block}
    table = {"table_bits": int(match["bits"]), "table_symmetric": bool(match["sym"])}
    return {**table, "table_block": block}
