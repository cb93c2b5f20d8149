"""The native functions of a step, around the kernel.

``check(table)`` looks at every tensor of a bucket through torch's own functions
(:mod:`.torch_abi`) and writes the addresses of the gradients into the table. It answers
:data:`HOLDS`, or the column of the first tensor that is no longer what the table was
made for: gone or moved, another dtype, shape, stride or device, a gradient that
overlaps what will be written, a step counter that was changed. It answers :data:`PART`
where the table holds, and step counters part: some of the tensors have no gradient, and
are left out. It notes whether somebody else refers to the state, and changes nothing
else. Where that is known, it looks at parameters, gradients and the values of step
counters alone (:mod:`polyak.custody`).

``launch(table)`` advances the scalar slots, tells autograd of what it writes
(``bump_version``), runs the kernel, in a team of threads where the table says so, and
expects in the rows what the slots have become. Two of its parts are there for some of
the tensors too: ``advance`` and ``run``.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass

from . import jit
from .ahead import BLOCK, PREFETCH, before_advance, before_check
from .code import ATTRIBUTES
from .table import NONE, at, begin, loads, record_type

__all__ = ["HOLDS", "PART", "Walk", "library", "walk"]

# What `check` answers, unless a column does not hold.
HOLDS, PART = -1, -2


@dataclass(frozen=True)
class Walk:
    """``check`` keeps the interpreter's lock, the others give it up.

    All take the address of a table's record: ``advance`` then the first column and the
    one after the last, ``run`` the address of a kernel, and units in this way.
    """

    check: Callable[[int], int]
    launch: Callable[[int], None]
    advance: Callable[[int, int, int], None]
    run: Callable[[int, int, int, int], None]


@functools.cache
def walk() -> Walk:
    """The functions, for Python to call."""
    native, pointer, whole = library(), ctypes.c_void_p, ctypes.c_int64
    return Walk(
        ctypes.PYFUNCTYPE(whole, pointer)(native["check"]),
        ctypes.CFUNCTYPE(None, pointer)(native["launch"]),
        ctypes.CFUNCTYPE(None, pointer, whole, whole)(native["advance"]),
        ctypes.CFUNCTYPE(None, pointer, pointer, whole, whole)(native["run"]),
    )


def library() -> jit.Library:
    """Their addresses."""
    return jit.compile_ir(_IR)


_IR = f"""; check and launch: what surrounds a kernel in a step
{record_type}

; Whether a 32-bit property of a tensor, read by @read, has the value @due.
define internal i1 @has(ptr %read, ptr %tensor, i32 %due) {{
  %out = alloca i32
  %failed = call i32 %read(ptr %tensor, ptr %out)
  %ok = icmp eq i32 %failed, 0
  %value = load i32, ptr %out
  %same = icmp eq i32 %value, %due
  %both = and i1 %ok, %same
  ret i1 %both
}}

; The address of a tensor's data, or -1 if the tensor has not the given dtype and shape,
; or is to be negated or conjugated when read. A shape is (dimensions, (size, stride)
; each); the stride of a dimension of size 1 says nothing about where the numbers are,
; and is not compared. Where the address is then compared with that of known memory, the
; tensor need not be asked for its device and layout.
define internal i64 @find(ptr %table, ptr %tensor, i64 %code, ptr %shape) {{
entry:
{loads("data_ptr dtype dim sizes strides")}
{loads("is_neg is_conj")}
  %out = alloca i64
  %negated = call zeroext i1 %is_neg(ptr %tensor)
  %conjugated = call zeroext i1 %is_conj(ptr %tensor)
  %lazy = or i1 %negated, %conjugated
  br i1 %lazy, label %fail, label %ask.dtype
ask.dtype:
  %due = trunc i64 %code to i32
  %typed = call i1 @has(ptr %dtype, ptr %tensor, i32 %due)
  br i1 %typed, label %ask.dim, label %fail
ask.dim:
  %dim.failed = call i32 %dim(ptr %tensor, ptr %out)
  %dims = load i64, ptr %out
  %dims.due = load i64, ptr %shape
  %dims.same = icmp eq i64 %dims, %dims.due
  br i1 %dims.same, label %compare.dims, label %fail
compare.dims:
  %has.dims = icmp sgt i64 %dims, 0
  br i1 %has.dims, label %ask.shape, label %ask.data
ask.shape:
  %sizes.failed = call i32 %sizes(ptr %tensor, ptr %out)
  %size.list = load ptr, ptr %out
  %strides.failed = call i32 %strides(ptr %tensor, ptr %out)
  %stride.list = load ptr, ptr %out
  br label %dimension
dimension:
  %d = phi i64 [0, %ask.shape], [%d.next, %dimension.same]
  %d.more = icmp slt i64 %d, %dims
  br i1 %d.more, label %compare.size, label %ask.data
compare.size:
  %d.twice = mul i64 %d, 2
  %size.index = add i64 %d.twice, 1
  %stride.index = add i64 %d.twice, 2
  %size.at = getelementptr i64, ptr %size.list, i64 %d
  %size = load i64, ptr %size.at
  %size.due.at = getelementptr i64, ptr %shape, i64 %size.index
  %size.due = load i64, ptr %size.due.at
  %size.same = icmp eq i64 %size, %size.due
  br i1 %size.same, label %compare.stride, label %fail
compare.stride:
  %stride.at = getelementptr i64, ptr %stride.list, i64 %d
  %stride = load i64, ptr %stride.at
  %stride.due.at = getelementptr i64, ptr %shape, i64 %stride.index
  %stride.due = load i64, ptr %stride.due.at
  %stride.same = icmp eq i64 %stride, %stride.due
  %one = icmp eq i64 %size, 1
  %stride.fits = or i1 %stride.same, %one
  br i1 %stride.fits, label %dimension.same, label %fail
dimension.same:
  %d.next = add i64 %d, 1
  br label %dimension
ask.data:
  %data.failed = call i32 %data_ptr(ptr %tensor, ptr %out)
  %data.ok = icmp eq i32 %data.failed, 0
  %data = load i64, ptr %out
  %answer = select i1 %data.ok, i64 %data, i64 -1
  ret i64 %answer
fail:
  ret i64 -1
}}

; The same of a tensor whose memory is not known: it must be strided, and on this kind
; of device.
define internal i64 @inspect(ptr %table, ptr %tensor, i64 %code, ptr %shape,
                             i64 %kind) {{
entry:
{loads("device_type layout")}
  %strided = call i1 @has(ptr %layout, ptr %tensor, i32 0)
  br i1 %strided, label %ask.device, label %fail
ask.device:
  %kind.due = trunc i64 %kind to i32
  %there = call i1 @has(ptr %device_type, ptr %tensor, i32 %kind.due)
  br i1 %there, label %ask.rest, label %fail
ask.rest:
  %answer = call i64 @find(ptr %table, ptr %tensor, i64 %code, ptr %shape)
  ret i64 %answer
fail:
  ret i64 -1
}}

; Note in the table if something refers to a tensor that is not its Python object: to
; torch's record of it, to its storage, or to that one's Python object.
define internal void @count(ptr %table, ptr %tensor) {{
entry:
{loads("storage_offset count_offset record_count storage_count shown_count")}
{loads("object_offset")}
  %record = load ptr, ptr %tensor
  %record.count.at = getelementptr i8, ptr %record, i64 %count_offset
  %record.count.is = load i64, ptr %record.count.at
  %storage.at = getelementptr i8, ptr %record, i64 %storage_offset
  %storage = load ptr, ptr %storage.at
  %alone = icmp eq i64 %record.count.is, %record_count
  %stored = icmp ne ptr %storage, null
  %both = and i1 %alone, %stored
  br i1 %both, label %ask.storage, label %held
ask.storage:
  %storage.count.at = getelementptr i8, ptr %storage, i64 %count_offset
  %storage.count.is = load i64, ptr %storage.count.at
  %unseen = icmp eq i64 %storage.count.is, %storage_count
  br i1 %unseen, label %done, label %ask.shown
ask.shown:
  %shown = icmp eq i64 %storage.count.is, %shown_count
  br i1 %shown, label %ask.object, label %held
ask.object:
  %object.at = getelementptr i8, ptr %storage, i64 %object_offset
  %object = load ptr, ptr %object.at
  %references = load i32, ptr %object
  %free = icmp eq i32 %references, 1
  br i1 %free, label %done, label %held
held:
  %sole.field = getelementptr %Table, ptr %table, i32 0, i32 {at("sole")}
  store i64 0, ptr %sole.field
  ret void
done:
  ret void
}}

{PREFETCH}
{ATTRIBUTES}

{before_check()}
{before_advance()}
define i64 @check(ptr %table) {{
entry:
{loads("tensors written numbers objects handles pointers number_pointers dtypes bytes")}
{loads("shapes shape_at row expected undefined grad number_is_double device waits")}
  %grad.code.at = getelementptr i64, ptr %dtypes, i64 %written
  %grad.code = load i64, ptr %grad.code.at
  %grad.row = mul i64 %written, %tensors
  %numbers.first = add i64 %written, 1
  %is_sole = icmp eq i64 %objects, 1
  %roles = select i1 %is_sole, i64 1, i64 %written
  %sole.field = getelementptr %Table, ptr %table, i32 0, i32 {at("sole")}
  store i64 1, ptr %sole.field
  %waiting.field = getelementptr %Table, ptr %table, i32 0, i32 {at("waiting")}
  store i64 0, ptr %waiting.field
  %may.wait = icmp ne i64 %waits, 0
  br label %column
column:
  %t = phi i64 [0, %entry], [%t.next, %column.holds]
  %t.more = icmp slt i64 %t, %tensors
  br i1 %t.more, label %open, label %holds
open:
  %in.block = urem i64 %t, {BLOCK}
  %block.begins = icmp eq i64 %in.block, 0
  br i1 %block.begins, label %ahead, label %look
ahead:
  call void @fetch.tensors(ptr %table, i64 %t)
  br label %look
look:
  %grad.entry = add i64 %grad.row, %t
  %grad.shape.at = getelementptr i64, ptr %shape_at, i64 %grad.entry
  %grad.shape.index = load i64, ptr %grad.shape.at
  %grad.shape = getelementptr i64, ptr %shapes, i64 %grad.shape.index
  %grad.bytes.at = getelementptr i64, ptr %bytes, i64 %grad.entry
  %grad.bytes = load i64, ptr %grad.bytes.at
  %param.at = getelementptr ptr, ptr %handles, i64 %t
  %param = load ptr, ptr %param.at
  %impl = load ptr, ptr %param
  %gradient = call ptr %grad(ptr %impl)
  %gradient.impl = load i64, ptr %gradient
  %grad.at = getelementptr i64, ptr %pointers, i64 %grad.entry
  %has.none = icmp eq i64 %gradient.impl, %undefined
  br i1 %has.none, label %ask.waits, label %ask.gradient
ask.waits:
  br i1 %may.wait, label %wait, label %broken
wait:
  store i64 {NONE}, ptr %grad.at
  %waiting = load i64, ptr %waiting.field
  %waiting.next = add i64 %waiting, 1
  store i64 %waiting.next, ptr %waiting.field
  br label %role.head
ask.gradient:
  %from = call i64 @inspect(ptr %table, ptr %gradient, i64 %grad.code,
                            ptr %grad.shape, i64 %device)
  %unfit = icmp eq i64 %from, -1
  br i1 %unfit, label %broken, label %ask.memory
ask.memory:
  %nowhere = icmp eq i64 %from, 0
  %some = icmp ne i64 %grad.bytes, 0
  %without = and i1 %nowhere, %some
  br i1 %without, label %broken, label %keep.gradient
keep.gradient:
  store i64 %from, ptr %grad.at
  %to = add i64 %from, %grad.bytes
  br label %role.head

; The parameter and its slots: where they were, and apart from the gradient.
role.head:
  %grad.first = phi i64 [%from, %keep.gradient], [0, %wait]
  %grad.last = phi i64 [%to, %keep.gradient], [0, %wait]
  br label %role
role:
  %r = phi i64 [0, %role.head], [%r.next, %role.holds]
  %r.more = icmp slt i64 %r, %roles
  br i1 %r.more, label %ask.role, label %number
ask.role:
  %r.row = mul i64 %r, %tensors
  %r.entry = add i64 %r.row, %t
  %r.handle.at = getelementptr ptr, ptr %handles, i64 %r.entry
  %r.handle = load ptr, ptr %r.handle.at
  %r.code.at = getelementptr i64, ptr %dtypes, i64 %r
  %r.code = load i64, ptr %r.code.at
  %r.shape.at = getelementptr i64, ptr %shape_at, i64 %r.entry
  %r.shape.index = load i64, ptr %r.shape.at
  %r.shape = getelementptr i64, ptr %shapes, i64 %r.shape.index
  %r.data = call i64 @find(ptr %table, ptr %r.handle, i64 %r.code, ptr %r.shape)
  %r.due.at = getelementptr i64, ptr %pointers, i64 %r.entry
  %r.due = load i64, ptr %r.due.at
  %r.same = icmp eq i64 %r.data, %r.due
  br i1 %r.same, label %ask.overlap, label %broken
ask.overlap:
  %r.bytes.at = getelementptr i64, ptr %bytes, i64 %r.entry
  %r.bytes = load i64, ptr %r.bytes.at
  %r.end = add i64 %r.data, %r.bytes
  %before = icmp ule i64 %grad.last, %r.data
  %after = icmp ule i64 %r.end, %grad.first
  %apart = or i1 %before, %after
  br i1 %apart, label %role.apart, label %broken
role.apart:
  %is.param = icmp eq i64 %r, 0
  br i1 %is.param, label %role.holds, label %count.role
count.role:
  call void @count(ptr %table, ptr %r.handle)
  br label %role.holds
role.holds:
  %r.next = add i64 %r, 1
  br label %role

; The scalar slots: 0-d tensors with the value that the row of scalars stands on.
number:
  %s = phi i64 [0, %role], [%s.next, %number.holds]
  %s.more = icmp slt i64 %s, %numbers
  br i1 %s.more, label %open.number, label %column.holds
open.number:
  %s.code.index = add i64 %numbers.first, %s
  %s.code.at = getelementptr i64, ptr %dtypes, i64 %s.code.index
  %s.code = load i64, ptr %s.code.at
  %s.keep.row = mul i64 %s, %tensors
  %s.keep.entry = add i64 %s.keep.row, %t
  %s.keep.at = getelementptr ptr, ptr %number_pointers, i64 %s.keep.entry
  br i1 %is_sole, label %read.number, label %ask.number
ask.number:
  %s.role = add i64 %written, %s
  %s.row = mul i64 %s.role, %tensors
  %s.entry = add i64 %s.row, %t
  %s.handle.at = getelementptr ptr, ptr %handles, i64 %s.entry
  %s.handle = load ptr, ptr %s.handle.at
  %s.data = call i64 @inspect(ptr %table, ptr %s.handle, i64 %s.code, ptr %shapes,
                              i64 0)
  %s.gone = icmp eq i64 %s.data, -1
  br i1 %s.gone, label %broken, label %keep.number
keep.number:
  store i64 %s.data, ptr %s.keep.at
  call void @count(ptr %table, ptr %s.handle)
  br label %read.number
read.number:
  %s.pointer = load ptr, ptr %s.keep.at
  %s.wide = icmp eq i64 %s.code, %number_is_double
  br i1 %s.wide, label %read.double, label %read.float
read.double:
  %s.double = load double, ptr %s.pointer, align 1
  br label %compare.number
read.float:
  %s.float = load float, ptr %s.pointer, align 1
  %s.widened = fpext float %s.float to double
  br label %compare.number
compare.number:
  %s.value = phi double [%s.double, %read.double], [%s.widened, %read.float]
  %row.at = getelementptr i64, ptr %row, i64 %t
  %row.of = load i64, ptr %row.at
  %expected.row = mul i64 %row.of, %numbers
  %expected.entry = add i64 %expected.row, %s
  %expected.at = getelementptr double, ptr %expected, i64 %expected.entry
  %expected.value = load double, ptr %expected.at
  %s.same = fcmp oeq double %s.value, %expected.value
  br i1 %s.same, label %number.holds, label %broken
number.holds:
  %s.next = add i64 %s, 1
  br label %number

column.holds:
  %t.next = add i64 %t, 1
  br label %column
holds:
  %some.wait.count = load i64, ptr %waiting.field
  %some.wait = icmp ne i64 %some.wait.count, 0
  %are.counted = icmp ne i64 %numbers, 0
  %part = and i1 %some.wait, %are.counted
  %answer = select i1 %part, i64 {PART}, i64 {HOLDS}
  ret i64 %answer
broken:
  ret i64 %t
}}

; What is said of the tensors from @first on, before @last, but of those left out.
define void @advance(ptr %table, i64 %first, i64 %last) {{
entry:
{loads("tensors written numbers objects handles number_pointers dtypes row updated")}
{loads("bump_version number_is_double pointers")}
  %grad.row = mul i64 %written, %tensors
  %numbers.first = add i64 %written, 1
  br label %column
column:
  %t = phi i64 [%first, %entry], [%t.next, %column.done]
  %t.more = icmp slt i64 %t, %last
  br i1 %t.more, label %open, label %done
open:
  %since = sub i64 %t, %first
  %in.block = urem i64 %since, {BLOCK}
  %block.begins = icmp eq i64 %in.block, 0
  br i1 %block.begins, label %ahead, label %numbers.head
ahead:
  call void @fetch.counters(ptr %table, i64 %t, i64 %last)
  br label %numbers.head
numbers.head:
  %grad.entry = add i64 %grad.row, %t
  %grad.at = getelementptr i64, ptr %pointers, i64 %grad.entry
  %gradient = load i64, ptr %grad.at
  %is.left.out = icmp eq i64 %gradient, {NONE}
  br i1 %is.left.out, label %column.done, label %number
number:
  %s = phi i64 [0, %numbers.head], [%s.next, %number.done]
  %s.more = icmp slt i64 %s, %numbers
  br i1 %s.more, label %advance, label %version
advance:
  %row.at = getelementptr i64, ptr %row, i64 %t
  %row.of = load i64, ptr %row.at
  %updated.row = mul i64 %row.of, %numbers
  %updated.entry = add i64 %updated.row, %s
  %updated.at = getelementptr double, ptr %updated, i64 %updated.entry
  %value = load double, ptr %updated.at
  %s.row = mul i64 %s, %tensors
  %s.entry = add i64 %s.row, %t
  %s.at = getelementptr ptr, ptr %number_pointers, i64 %s.entry
  %s.pointer = load ptr, ptr %s.at
  %s.code.index = add i64 %numbers.first, %s
  %s.code.at = getelementptr i64, ptr %dtypes, i64 %s.code.index
  %s.code = load i64, ptr %s.code.at
  %s.wide = icmp eq i64 %s.code, %number_is_double
  br i1 %s.wide, label %write.double, label %write.float
write.double:
  store double %value, ptr %s.pointer, align 1
  br label %number.done
write.float:
  %narrow = fptrunc double %value to float
  store float %narrow, ptr %s.pointer, align 1
  br label %number.done
number.done:
  %s.next = add i64 %s, 1
  br label %number
version:
  %o = phi i64 [0, %number], [%o.next, %bump]
  %o.more = icmp slt i64 %o, %objects
  br i1 %o.more, label %bump, label %column.done
bump:
  %o.row = mul i64 %o, %tensors
  %o.entry = add i64 %o.row, %t
  %o.at = getelementptr ptr, ptr %handles, i64 %o.entry
  %o.handle = load ptr, ptr %o.at
  call void %bump_version(ptr %o.handle)
  %o.next = add i64 %o, 1
  br label %version
column.done:
  %t.next = add i64 %t, 1
  br label %column
done:
  ret void
}}

define void @run(ptr %table, ptr %kernel, i64 %first, i64 %last) {{
entry:
{loads("next_unit threads parallel")}
{begin("%first", "%last")}
  %alone = icmp sle i64 %threads, 1
  br i1 %alone, label %run.alone, label %run.team
run.alone:
  call void %kernel(ptr %table)
  ret void
run.team:
  %team = trunc i64 %threads to i32
  call void %parallel(ptr %kernel, ptr %table, i32 %team, i32 0)
  ret void
}}

define void @launch(ptr %table) {{
entry:
{loads("tensors units kernel rows numbers expected updated")}
  call void @advance(ptr %table, i64 0, i64 %tensors)
  call void @run(ptr %table, ptr %kernel, i64 0, i64 %units)
  %held = mul i64 %rows, %numbers
  %held.bytes = mul i64 %held, 8
  call void @llvm.memcpy.p0.p0.i64(ptr %expected, ptr %updated, i64 %held.bytes,
                                   i1 false)
  ret void
}}

declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""
