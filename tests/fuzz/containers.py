"""The binary formats taken apart and put together wrongly: headers, tables, pickles."""

import io
import struct
import zipfile
from random import Random

import gguf
import torch
from fuzz.mutations import INTEGERS, mutated, mutated_bytes, mutated_json

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64",
          "F4", "U64", "dtype", "shape", "data_offsets", "__metadata__")  # fmt: skip


def safetensors(chance: Random, content: bytes) -> bytes:
    """Bytes of the whole, or what the header says of its tensors."""
    if chance.random() < 0.3:
        return mutated_bytes(chance, content, 1200)
    size = int.from_bytes(content[:8], "little")
    header = mutated_json(chance, content[8 : 8 + size], DTYPES)
    header += b" " * (-len(header) % 8)
    said = len(header) + chance.choice((0, 0, 0, 0, 0, 0, 1, -1, 2**63))
    return struct.pack("<Q", said % 2**64) + header + content[8 + size :]


SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9


def gguf_file(chance: Random, content: bytes) -> bytes:
    """Bytes of the header, or one of its keys or tensors."""
    if chance.random() < 0.4:
        return mutated_bytes(chance, content, 2500)
    reader = _Reader(content)
    keys, tensors = reader.header()
    data = content[-(-reader.at // 32) * 32 :]
    for _ in range(chance.randint(1, 2)):
        (_change_key if chance.random() < 0.7 else _change_tensor)(chance, keys, tensors)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    head += b"".join(_text(name) + struct.pack("<I", kind) + value for name, kind, value in keys)
    for name, shape, kind, offset in tensors:
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += _text(name) + sizes + struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % 32) + data


class _Reader:
    """A whole file's header: keys as (name, type, bytes), tensors as the format lists them."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 4

    def take(self, form: str) -> tuple:
        values = struct.unpack_from(f"<{form}", self.content, self.at)
        self.at += struct.calcsize(f"<{form}")
        return values

    def text(self) -> bytes:
        (size,) = self.take("Q")
        self.at += size
        return self.content[self.at - size : self.at]

    def skip(self, kind: int) -> None:
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            inner, count = self.take("IQ")
            for _ in range(count):
                self.skip(inner)
        else:
            self.take(SCALARS[kind])

    def header(self) -> tuple[list, list]:
        _, tensors, count = self.take("IQQ")
        keys, table = [], []
        for _ in range(count):
            name, (kind,) = self.text(), self.take("I")
            start = self.at
            self.skip(kind)
            keys.append((name, kind, self.content[start : self.at]))
        for _ in range(tensors):
            name, (dimensions,) = self.text(), self.take("I")
            shape = list(self.take(f"{dimensions}Q"))
            table.append((name, shape, *self.take("IQ")))
        return keys, table


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _change_key(chance: Random, keys: list, tensors: list) -> None:
    at = chance.randrange(len(keys))
    name, kind, value = keys[at]
    match chance.randrange(6):
        case 0:
            del keys[at]
        case 1:
            keys.insert(at, keys[at])
        case 2:
            keys[at] = (mutated_bytes(chance, name), kind, value)
        case 3:
            keys[at] = (name, kind, mutated_bytes(chance, value))
        case 4:
            keys[at] = (name, *chance.choice(keys)[1:])
        case _:
            keys[at] = (name, *_random_value(chance))


def _random_value(chance: Random) -> tuple[int, bytes]:
    kind = chance.choice((*SCALARS, STRING, ARRAY))
    if kind == STRING:
        return kind, _text(chance.choice((b"", b"llama", b"linear", b"\xff", b"x" * 5000)))
    if kind == ARRAY:
        inner, count = chance.choice((*SCALARS, STRING, ARRAY)), chance.choice((0, 1, 2**60))
        return kind, struct.pack("<IQ", inner, count) + bytes(16)
    form = SCALARS[kind]
    if form == "?":
        return kind, chance.choice((b"\0", b"\1", b"\7"))
    if form in "fd":
        return kind, struct.pack(
            f"<{form}", chance.choice((0, -1, 1e-30, 1e30, float("inf"), float("nan")))
        )
    size = struct.calcsize(form)
    return kind, (chance.choice(INTEGERS[:-2]) % 2 ** (8 * size)).to_bytes(size, "little")


def _change_tensor(chance: Random, keys: list, tensors: list) -> None:
    at = chance.randrange(len(tensors))
    name, shape, kind, offset = tensors[at]
    numbers = [number % 2**64 for number in INTEGERS[:-2]]
    match chance.randrange(6):
        case 0:
            del tensors[at]
        case 1:
            tensors.append(tensors[at])
        case 2:
            tensors[at] = (chance.choice(tensors)[0], shape, kind, offset)
        case 3:
            tensors[at] = (name, shape, chance.choice([*gguf.GGMLQuantizationType, 4, 99]), offset)
        case 4:
            tensors[at] = (name, shape, kind, chance.choice([*numbers, offset + 1]))
        case _:
            changed = mutated(chance, shape)
            changed = changed if isinstance(changed, list) else []
            sizes = [size for size in changed if isinstance(size, int)]
            tensors[at] = (name, [size % 2**64 for size in sizes], kind, offset)


def pickle(chance: Random, content: bytes) -> bytes:
    """Bytes of the zip file, of the pickle inside it, or tensors of another kind."""
    kind = chance.random()
    if kind < 0.3 or not content.startswith(b"PK"):
        return mutated_bytes(chance, content, 2000)
    if kind < 0.8:
        return _repacked(chance, content)
    return _odd_state(chance, content)


def _repacked(chance: Random, content: bytes) -> bytes:
    """The same archive, whole, whose pickle says something else."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            inside = old.read(entry)
            if entry.filename.endswith("data.pkl") or chance.random() < 0.03:
                inside = mutated_bytes(chance, inside)
            if chance.random() > 0.005:
                new.writestr(entry, inside)
    return made.getvalue()


def _odd_state(chance: Random, content: bytes) -> bytes:
    state = torch.load(io.BytesIO(content), weights_only=True)
    names = list(state)
    for name in chance.sample(names, chance.randint(1, 2)):
        tensor = state[name]
        shape = chance.choice(
            (list(tensor.shape), [2**20] * 2, [0], [], [2**40], tensor.shape[::-1])
        )
        dtype = chance.choice((torch.float16, torch.int64, torch.complex64, torch.bool,
                               torch.float8_e4m3fn, torch.float64))  # fmt: skip
        state[name] = chance.choice((
            lambda t=tensor, d=dtype: t.to(d),
            lambda s=shape: torch.tensor(0.0).expand(s),  # any size, without memory for it
            lambda s=shape, t=tensor: t.flatten()[0].expand(s),
            lambda t=tensor: t.to_sparse(),
            lambda t=tensor: t.t() if t.ndim == 2 else t,
            lambda t=tensor: torch.nn.Parameter(t),
            lambda t=tensor: t[::2],
            lambda t=tensor: torch.full_like(t, float("nan")),
            lambda t=tensor: torch.empty_like(t, device="meta"),
            lambda t=tensor: [t],
            lambda t=tensor: {"x": t},
            lambda: "text",
            lambda: 2**70,
        ))()  # fmt: skip
    if chance.random() < 0.2:
        state[chance.choice([7, "model", "", "x" * 1000, None, ("a",)])] = state.pop(names[0])
    if chance.random() < 0.1:
        state = chance.choice([[state], {"model": state}, {"state_dict": state}, None, 3])
    made = io.BytesIO()
    torch.save(state, made)
    return made.getvalue()
