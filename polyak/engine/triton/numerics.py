"""What generated kernels call: mathematics that Triton's language has no word for.

Triton's interpreter has no libdevice, and it cuts off bits where it should round to
bfloat16: there NumPy does the former, and integers the latter.
"""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl
from triton.language.extra import libdevice

__all__ = [
    "copysign",
    "cosine",
    "exponential",
    "logarithm",
    "number_at",
    "power",
    "put_number",
    "rounded_to_bfloat16",
    "sine",
    "tanh",
]


@triton.jit
def number_at(address, keep):
    """Numbers as float64; bit 0 of an address says that float32 is stored there."""
    narrow = (address & 1) == 1
    singles = (address & -2).to(tl.pointer_type(tl.float32))
    doubles = (address & -2).to(tl.pointer_type(tl.float64))
    single = tl.load(singles, mask=keep & narrow, other=0.0).to(tl.float64)
    double = tl.load(doubles, mask=keep & ~narrow, other=0.0)
    return tl.where(narrow, single, double)


@triton.jit
def put_number(address, value, keep):
    """Store numbers where `number_at` finds them."""
    narrow = (address & 1) == 1
    singles = (address & -2).to(tl.pointer_type(tl.float32))
    doubles = (address & -2).to(tl.pointer_type(tl.float64))
    tl.store(singles, value.to(tl.float32), mask=keep & narrow)
    tl.store(doubles, value, mask=keep & ~narrow)


if triton.knobs.runtime.interpret:
    from triton.runtime.interpreter import TensorHandle

    def _by_numpy(function):
        def call(*operands):
            blocks = [x for x in operands if isinstance(x, tl.tensor)]
            arrays = [
                x.handle.data if isinstance(x, tl.tensor) else x for x in operands
            ]
            kind = blocks[0].type.scalar
            data = function(*arrays).astype(blocks[0].handle.data.dtype)
            shaped = tl.block_type(kind, list(data.shape)) if data.ndim else kind
            return tl.tensor(TensorHandle(data, kind), shaped)

        return call

    power, tanh, copysign = map(_by_numpy, (np.power, np.tanh, np.copysign))
    exponential, logarithm = map(_by_numpy, (np.exp, np.log))
    sine, cosine = map(_by_numpy, (np.sin, np.cos))

    @triton.jit
    def rounded_to_bfloat16(x):
        bits = x.to(tl.uint32, bitcast=True)
        nearest = (bits + 32767 + ((bits >> 16) & 1)) >> 16
        chosen = tl.where(x != x, 32704, nearest).to(tl.uint16)
        return chosen.to(tl.bfloat16, bitcast=True)

else:

    @triton.jit
    def power(x, y):
        return libdevice.pow(x, y)

    @triton.jit
    def tanh(x):
        return libdevice.tanh(x)

    @triton.jit
    def copysign(x, y):
        return libdevice.copysign(x, y)

    @triton.jit
    def exponential(x):
        return libdevice.exp(x)

    @triton.jit
    def logarithm(x):
        return libdevice.log(x)

    @triton.jit
    def sine(x):
        return libdevice.sin(x)

    @triton.jit
    def cosine(x):
        return libdevice.cos(x)

    @triton.jit
    def rounded_to_bfloat16(x):
        return x.to(tl.bfloat16)
