"""Compiles generated kernels for GPUs that need not be there; a process of its own.

    python tests/triton/compiling.py 90 float32 Passes

prints a line for each kernel but those named: optimizer, kernel, registers of a
thread, and the bytes of its stack, which spilled registers would need.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import polyak
from polyak import Slot
from polyak.engine.triton import chunks, units
from polyak.engine.triton.devices import KERNELS
from polyak.engine.triton.modules import function
from polyak.engine.triton.source import FORMATS
from polyak.engine.triton.tiles import tiling

RULES = {
    "SGD": dict(lr=0.1, momentum=0.9, weight_decay=0.1),
    "ASGD": dict(weight_decay=0.1),
    "Rprop": {},
    "Adagrad": dict(weight_decay=0.1),
    "Adadelta": dict(weight_decay=0.1),
    "RMSprop": dict(momentum=0.9, centered=True),
    "Adam": dict(amsgrad=True, weight_decay=0.1),
    "AdamW": {},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
}
TABLE = {"table": "*i64", "skip": "constexpr", "tensors": "i32", "BLOCK": "constexpr"}
RULE = TABLE | {"chunks_at": "i32", "chunk": "i32"}
SCALARS = TABLE | {"inputs_at": "i32"}
SUMS = TABLE | {"counters": "*i32", "memory": "*fp32", "shapes_at": "i32"}
SUMS |= {"units_at": "i32", "TILES": "constexpr"}
# Matrices, rows and columns of tensors that have tiles of their own.
MATRIX, FILTERS, TALL = (1, 4096, 4096), (9999, 3, 3), (1, 1 << 20, 3)


class Mathematics(polyak.Optimizer):
    """Every function that the engine knows, in a rule."""

    def __init__(self, params, lr=0.1, power=1.5, capturable=False):
        super().__init__(params, dict(lr=lr, power=power, capturable=capturable))

    @staticmethod
    def rule(param, grad, slot, *, step, lr, power):
        slot = torch.tanh(grad) + torch.exp(-grad.abs()) + torch.log(param.abs() + 1)
        waves = torch.sin(slot) * torch.cos(param) + torch.floor(grad)
        grown = torch.where(slot > 0.5, slot.abs() ** power, 0.25 * waves)
        lr = lr * (step // 2 + step % 3)
        return param - lr * torch.copysign(grown, grad) / slot.sqrt(), slot


class Passes(polyak.Optimizer):
    """Sums of all extents, and many passes."""

    slots = {"rows": Slot(per="row"), "columns": Slot(per="column")}

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @staticmethod
    def rule(param, grad, rows, columns, *, step, lr):
        grad = grad - grad.mean(-1, keepdim=True)
        grad = grad / (grad.norm(dim=-2, keepdim=True) + 1)
        rows = rows + (grad * param).mean(-1, keepdim=True) / step
        columns = columns + rows.sum(-2, keepdim=True) * grad.sum(-2, keepdim=True)
        grad = grad * rows / (1 + (columns * grad).square().mean().sqrt())
        size = (grad * grad).mean((-2, -1), keepdim=True) + columns.mean()
        return param - lr * grad / size, rows, columns


def kernels(dtype):
    """Each optimizer's kernel, and the program of scalars where it can have one."""
    made = {name: (getattr(polyak, name), more) for name, more in RULES.items()}
    made["Mathematics"] = (Mathematics, {})
    for name, (kind, more) in made.items():
        params = [torch.zeros(8, dtype=dtype, requires_grad=True)]
        yield name, explained(kind(params, **more))
        params[0].grad = torch.zeros(8, dtype=dtype)
        if "capturable" in kind.__init__.__annotations__ or kind is Mathematics:
            optimizer = kind(params, **more, capturable=True)
            yield f"{name}.capturable", explained(optimizer)
            yield f"{name}.scalars", program(optimizer)
    params = [torch.zeros(8, 8, dtype=dtype, requires_grad=True)]
    (kernel,) = polyak.explain(polyak.Muon(params)).kernels
    for region in (*kernel.before, kernel):
        yield region.name, made_of(region, dtype)
    yield "Adafactor", with_sums(polyak.Adafactor(params), MATRIX)
    yield "Adafactor.filters", with_sums(polyak.Adafactor(params), FILTERS, TALL)
    yield "Passes", with_sums(Passes(params), MATRIX)


def explained(optimizer):
    (kernel,) = polyak.explain(optimizer).kernels
    (dtype,) = {param.dtype for param in optimizer.param_groups[0]["params"]}
    return made_of(kernel, dtype)


def made_of(kernel, dtype):
    """A kernel with one pass."""
    real = {"float32": "*fp32", "float64": "*fp64"}[kernel.real.name]
    signature = RULE | dict.fromkeys(kernel.rooms, real)
    constants = {"BLOCK": chunks.block_of({"param": FORMATS[dtype]})}
    return function(kernel.source, kernel.name), signature, constants, chunks.WARPS


def with_sums(optimizer, *shapes):
    """A kernel with sums, for tensors of so many matrices, rows and columns."""
    (kernel,) = polyak.explain(optimizer).kernels
    block = units.block_of(kernel.real)
    made = [tiling(block, *shape, has_rows=True).tile for shape in shapes]
    tiles = tuple(sorted({*made, *(tile._replace(align=1) for tile in made)}))
    constants = {"BLOCK": block, "TILES": tiles}
    return function(kernel.source, kernel.name), SUMS, constants, units.WARPS


def program(optimizer):
    plan = optimizer._make_plan()
    (bucket,) = plan.buckets
    return function(bucket.program.source, "scalars"), SCALARS, {"BLOCK": 128}, 4


def compiled(kernel, signature, constants, warps, target):
    """The machine code of a kernel."""
    source = ASTSource(
        kernel,
        signature={name: signature[name] for name in kernel.arg_names},
        constexprs={"skip": None, **constants},
        attrs={
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(kernel.arg_names)
            if name == "table" or (name not in SUMS and signature[name][0] == "*")
        },
    )
    options = {"num_warps": warps, "enable_fp_fusion": True}
    return triton.compile(source, target=target, options=options)


def usage(machine_code):
    """Registers and bytes of stack, as CUDA's tools say."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        said = subprocess.run(
            [tool, "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said))
    return int(found["REG"]), int(found["STACK"]) + int(found["LOCAL"])


def access(ptx):
    """The bytes of its widest loads."""
    wide = re.findall(r"ld\.global\.v(\d)\.b(\d+)", ptx)
    return max((int(count) * int(bits) // 8 for count, bits in wide), default=0)


def main(capability, dtype, *without):
    KERNELS["cpu"] = "triton"
    target = GPUTarget("cuda", int(capability), 32)
    for name, kernel in kernels(getattr(torch, dtype)):
        if name in without:
            continue
        code = compiled(*kernel, target)
        print(name, *usage(code.asm["cubin"]), access(code.asm["ptx"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
