"""Codes to bytes and back, as ``MatMulNBits`` and ``GatherBlockQuantized`` read them.

The first code of a byte sits in its lowest bits (ONNX Runtime, contrib operator
``com.microsoft.MatMulNBits``).
"""

import numpy as np


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack uint8 codes (…, n) below 2**bits into bytes (…, ceil(n * bits / 8))."""
    per_byte = _per_byte(bits)
    if ragged := -codes.shape[-1] % per_byte:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, ragged)])
    packed = codes[..., ::per_byte].copy()
    for i in range(1, per_byte):
        packed |= codes[..., i::per_byte] << (bits * i)
    return packed


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first ``count`` codes of each row: bytes (…, m) to uint8 codes (…, count)."""
    per_byte = _per_byte(bits)
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * per_byte), np.uint8)
    for i in range(per_byte):
        codes[..., i::per_byte] = packed >> (bits * i) & (2**bits - 1)
    return codes[..., :count]


def _per_byte(bits: int) -> int:
    assert bits in (2, 4, 8), bits
    return 8 // bits
