"""The norm of a bucket's gradients: one pass that reads them, and nothing else.

Each chunk's sum of squares is computed in float64 and kept by itself, and the sums are
added in the order of the chunks: threads that share the work do not change a bit.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from . import jit
from .code import ATTRIBUTES
from .formats import Format
from .table import NONE, begin, chunk, loads, member, record_type

__all__ = ["squares"]


@functools.cache
def squares(format: Format) -> Callable[[int], float]:
    """The native sum of the squared gradients of a table, given its address.

    Args:
        format: how the gradients are stored.
    """
    entry = jit.compile_ir(_module(format))["total"]
    return ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_void_p)(entry)


def _module(format: Format) -> str:
    lines: list[str] = []

    def emit(text: str) -> str:
        lines.append(f"  %v{len(lines)} = {text}")
        return f"%v{len(lines) - 1}"

    offset = emit(f"mul nuw nsw i64 %i, {format.itemsize}")
    address = emit(f"getelementptr i8, ptr %grad, i64 {offset}")
    value = format.load(emit, "double", address)
    square = emit(f"fmul contract double {value}, {value}")
    body = "\n".join(lines)
    return f"""; the sum of the squared gradients
{record_type}

define internal double @sum(i64 %n, ptr noalias readonly %grad) #0 {{
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %loop, label %exit
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
  %before = phi double [0.0, %entry], [%after, %loop]
{body}
  %after = fadd reassoc contract double %before, {square}
  %next = add nuw nsw i64 %i, 1
  %done = icmp eq i64 %next, %n
  br i1 %done, label %exit, label %loop
exit:
  %result = phi double [0.0, %entry], [%after, %loop]
  ret double %result
}}

; The sum of a chunk is kept: 0 where there is no gradient.
define internal void @chunk(ptr %table, i64 %c) {{
{loads("tensors chunks written pointers chunk sums")}
{chunk}
  %grad.row = mul i64 %tensors, %written
  %grad.entry = add i64 %grad.row, %tensor
  %grad.at = getelementptr i64, ptr %pointers, i64 %grad.entry
  %base = load ptr, ptr %grad.at
  %offset = mul i64 %first, {format.itemsize}
  %grad = getelementptr i8, ptr %base, i64 %offset
  %address = ptrtoint ptr %base to i64
  %is.none = icmp eq i64 %address, {NONE}
  %count = select i1 %is.none, i64 0, i64 %n
  %sum = call double @sum(i64 %count, ptr %grad)
  %sum.at = getelementptr double, ptr %sums, i64 %c
  store double %sum, ptr %sum.at
  ret void
}}

{member("member", "chunk")}

define double @total(ptr %table) {{
entry:
{loads("chunks next_unit threads parallel sums")}
{begin("0", "%chunks")}
  %alone = icmp sle i64 %threads, 1
  br i1 %alone, label %run.alone, label %run.team
run.alone:
  call void @member(ptr %table)
  br label %add
run.team:
  %team = trunc i64 %threads to i32
  call void %parallel(ptr @member, ptr %table, i32 %team, i32 0)
  br label %add
add:
  %c = phi i64 [0, %run.alone], [0, %run.team], [%c.next, %more]
  %total = phi double [0.0, %run.alone], [0.0, %run.team], [%total.next, %more]
  %some = icmp slt i64 %c, %chunks
  br i1 %some, label %more, label %exit
more:
  %sum.at = getelementptr double, ptr %sums, i64 %c
  %sum = load double, ptr %sum.at
  %total.next = fadd double %total, %sum
  %c.next = add nuw nsw i64 %c, 1
  br label %add
exit:
  ret double %total
}}

{ATTRIBUTES}"""
