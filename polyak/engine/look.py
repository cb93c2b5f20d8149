"""The native look at Python's objects: are they those that a stream of words tells?

The stream is written by :class:`.watch.Watch`. It has, in this order,

- a head (:data:`HEAD`): the functions of CPython, where a dictionary has its version,
  the addresses of the list of groups and of the dictionary of the state, how many
  references there are to that one if nobody else has one, where in the stream the part
  of the state begins, and the number of groups;
- for each group: it, its list of parameters, their number, these, its version, and
  where in the stream its entries are;
- the entries of each group: their number, then (key, value, 0) each;
- the state: its number of keys, then for each of them (key, value, references to the
  value), and the entries of the value, (key, value, references to the value) each.

An object is told by its address; no references, but 0, where they are not counted. What
is read in every step is close together, for the processor reads ahead in it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from torch import Tensor

from . import jit
from .ahead import PREFETCH, before_look
from .code import ATTRIBUTES, words

__all__ = ["HEAD", "OTHERS_HOLD", "UNKNOWN", "library", "look"]

HEAD = (
    *("dict_next", "list_size", "list_item", "version_offset"),
    *("groups", "state", "state_references", "state_at", "group_count"),
)
UNKNOWN = 0  # the version of a group that has not been looked into
OTHERS_HOLD = 4  # added to an answer: somebody else refers to the state


@functools.cache
def look() -> Callable[[int, int, bool], int]:
    """``look(stream, objects, only_groups)``, for Python to call.

    It answers 0 where all are the same, 1 where groups have other entries, 2 where
    parameters or state are others; and adds :data:`OTHERS_HOLD`, unless it was asked of
    the groups alone. The objects are those that are looked into, in turn, to read ahead
    (:func:`.ahead.before_look`).
    """
    address, whole = ctypes.c_void_p, ctypes.c_int64
    prototype = ctypes.PYFUNCTYPE(whole, address, address, whole)
    return prototype(library()["look"])


def library() -> jit.Library:
    """Its address."""
    return jit.compile_ir(_IR)


_IR = f"""; look: are these the objects of the stream?
{before_look()}
{PREFETCH}
{ATTRIBUTES}

; Whether there are other references to an object than so many.
define internal i1 @held(ptr %object, i64 %references) {{
  %count = load i32, ptr %object
  %count.wide = zext i32 %count to i64
  %more = icmp ne i64 %count.wide, %references
  ret i1 %more
}}

; The entries of a dictionary: their number, then (key, value, references) each.
; Gives the end of the stream's entries, with bit 0 set where they differ, and bit 1
; where somebody else refers to one of the values, be it weakly.
define internal i64 @entries(ptr %dict, ptr %expected, ptr %dict_next) {{
entry:
  %position = alloca i64
  %key = alloca ptr
  %value = alloca ptr
  store i64 0, ptr %position
  %count = load i64, ptr %expected
  %first = getelementptr i64, ptr %expected, i64 1
  %words = mul i64 %count, 3
  %last = getelementptr i64, ptr %first, i64 %words
  %end = ptrtoint ptr %last to i64
  %other.end = or i64 %end, 1
  br label %next
next:
  %at = phi ptr [%first, %entry], [%at.next, %counted]
  %held = phi i64 [0, %entry], [%held.next, %counted]
  %due = icmp ult ptr %at, %last
  %more = call i32 %dict_next(ptr %dict, ptr %position, ptr %key, ptr %value)
  %there = icmp ne i32 %more, 0
  %both = and i1 %due, %there
  br i1 %both, label %compare, label %over
compare:
  %key.is = load ptr, ptr %key
  %key.due = load ptr, ptr %at
  %key.same = icmp eq ptr %key.is, %key.due
  br i1 %key.same, label %same.key, label %other
same.key:
  %value.is = load ptr, ptr %value
  %value.at = getelementptr i64, ptr %at, i64 1
  %value.due = load ptr, ptr %value.at
  %value.same = icmp eq ptr %value.is, %value.due
  br i1 %value.same, label %same.value, label %other
same.value:
  %references.at = getelementptr i64, ptr %at, i64 2
  %references = load i64, ptr %references.at
  %is.counted = icmp ne i64 %references, 0
  br i1 %is.counted, label %ask.count, label %counted
ask.count:
  %held.strongly = call i1 @held(ptr %value.is, i64 %references)
  %weak.at = getelementptr i8, ptr %value.is, i64 {Tensor.__weakrefoffset__}
  %weak = load ptr, ptr %weak.at
  %held.weakly = icmp ne ptr %weak, null
  %is.held = or i1 %held.strongly, %held.weakly
  br label %counted
counted:
  %mark = phi i1 [false, %same.value], [%is.held, %ask.count]
  %mark.bit = select i1 %mark, i64 2, i64 0
  %held.next = or i64 %held, %mark.bit
  %at.next = getelementptr i64, ptr %at, i64 3
  br label %next
over:
  %as.many = icmp eq i1 %due, %there
  br i1 %as.many, label %same, label %other
same:
  %same.end = or i64 %end, %held
  ret i64 %same.end
other:
  ret i64 %other.end
}}

define i64 @look(ptr %stream, ptr %objects, i64 %only_groups) {{
entry:
  %position = alloca i64
  %key = alloca ptr
  %value = alloca ptr
  store i64 0, ptr %position
{words("%stream", HEAD)}
  %versioned = icmp ne i64 %version_offset, 0
  %group.first = getelementptr i64, ptr %stream, i64 {len(HEAD)}
  %group.count.is = call i64 %list_size(ptr %groups)
  %group.as.many = icmp eq i64 %group_count, %group.count.is
  br i1 %group.as.many, label %group, label %other

; A group: itself, its list of parameters, these, its version and its entries. They are
; walked unless the version is the one that they had when they were found the same.
group:
  %g = phi i64 [0, %entry], [%g.next, %group.done]
  %g.at = phi ptr [%group.first, %entry], [%g.at.next, %group.done]
  %changed = phi i64 [0, %entry], [%changed.next, %group.done]
  %g.more = icmp slt i64 %g, %group_count
  br i1 %g.more, label %compare.group, label %groups.same
compare.group:
  %g.dict = mul i64 %g, 2
  %g.list = add i64 %g.dict, 1
  call void @fetch.objects(ptr %objects, i64 %g.dict)
  call void @fetch.objects(ptr %objects, i64 %g.list)
  %g.is = call ptr %list_item(ptr %groups, i64 %g)
  %g.due = load ptr, ptr %g.at
  %g.same = icmp eq ptr %g.is, %g.due
  br i1 %g.same, label %params.head, label %other
params.head:
  %params.at = getelementptr i64, ptr %g.at, i64 1
  %params = load ptr, ptr %params.at
  %param.count.at = getelementptr i64, ptr %g.at, i64 2
  %param.count = load i64, ptr %param.count.at
  %param.first = getelementptr i64, ptr %g.at, i64 3
  %param.count.is = call i64 %list_size(ptr %params)
  %param.as.many = icmp eq i64 %param.count, %param.count.is
  br i1 %param.as.many, label %param, label %other
param:
  %p = phi i64 [0, %params.head], [%p.next, %same.param]
  %p.at = getelementptr i64, ptr %param.first, i64 %p
  %p.more = icmp slt i64 %p, %param.count
  br i1 %p.more, label %compare.param, label %group.entries
compare.param:
  %p.is = call ptr %list_item(ptr %params, i64 %p)
  %p.due = load ptr, ptr %p.at
  %p.same = icmp eq ptr %p.is, %p.due
  br i1 %p.same, label %same.param, label %other
same.param:
  %p.next = add i64 %p, 1
  br label %param
group.entries:
  %g.at.next = getelementptr i64, ptr %p.at, i64 2
  br i1 %versioned, label %ask.version, label %walk.entries
ask.version:
  %version.at = getelementptr i8, ptr %g.is, i64 %version_offset
  %version.is = load i64, ptr %version.at
  %version.due = load i64, ptr %p.at
  %version.same = icmp eq i64 %version.is, %version.due
  br i1 %version.same, label %group.done, label %walk.entries
walk.entries:
  %version = phi i64 [{UNKNOWN}, %group.entries], [%version.is, %ask.version]
  %g.entries.word.at = getelementptr i64, ptr %p.at, i64 1
  %g.entries.word = load i64, ptr %g.entries.word.at
  %g.entries.at = getelementptr i64, ptr %stream, i64 %g.entries.word
  %g.walked = call i64 @entries(ptr %g.is, ptr %g.entries.at, ptr %dict_next)
  %g.differs = and i64 %g.walked, 1
  %g.as.due = icmp eq i64 %g.differs, 0
  %version.known = select i1 %g.as.due, i64 %version, i64 {UNKNOWN}
  store i64 %version.known, ptr %p.at
  br label %group.done
group.done:
  %g.changed = phi i64 [0, %ask.version], [%g.differs, %walk.entries]
  %changed.next = or i64 %changed, %g.changed
  %g.next = add i64 %g, 1
  br label %group

; The state: for each key, it, its value and the references to this one, then the
; value's entries.
groups.same:
  %enough = icmp ne i64 %only_groups, 0
  br i1 %enough, label %same, label %state.head
state.head:
  %objects.before = mul i64 %group_count, 2
  %state.part = getelementptr i64, ptr %stream, i64 %state_at
  %state.count = load i64, ptr %state.part
  %state.first = getelementptr i64, ptr %state.part, i64 1
  %state.is.held = call i1 @held(ptr %state, i64 %state_references)
  %state.mark = select i1 %state.is.held, i64 2, i64 0
  br label %state.entry
state.entry:
  %s = phi i64 [0, %state.head], [%s.next, %state.entries]
  %s.at = phi ptr [%state.first, %state.head], [%s.at.next, %state.entries]
  %marks = phi i64 [%state.mark, %state.head], [%marks.next, %state.entries]
  %s.due = icmp slt i64 %s, %state.count
  %more = call i32 %dict_next(ptr %state, ptr %position, ptr %key, ptr %value)
  %there = icmp ne i32 %more, 0
  %both = and i1 %s.due, %there
  br i1 %both, label %compare.key, label %over
compare.key:
  %s.object = add i64 %objects.before, %s
  call void @fetch.objects(ptr %objects, i64 %s.object)
  %key.is = load ptr, ptr %key
  %key.due = load ptr, ptr %s.at
  %key.same = icmp eq ptr %key.is, %key.due
  br i1 %key.same, label %compare.value, label %other
compare.value:
  %value.is = load ptr, ptr %value
  %value.at = getelementptr i64, ptr %s.at, i64 1
  %value.due = load ptr, ptr %value.at
  %value.same = icmp eq ptr %value.is, %value.due
  br i1 %value.same, label %inside, label %other
inside:
  %references.at = getelementptr i64, ptr %s.at, i64 2
  %references = load i64, ptr %references.at
  %is.held = call i1 @held(ptr %value.is, i64 %references)
  %mark = select i1 %is.held, i64 2, i64 0
  %inside.at = getelementptr i64, ptr %s.at, i64 3
  %s.after = call i64 @entries(ptr %value.is, ptr %inside.at, ptr %dict_next)
  %s.changed = and i64 %s.after, 1
  %s.same = icmp eq i64 %s.changed, 0
  br i1 %s.same, label %state.entries, label %other
state.entries:
  %s.end = and i64 %s.after, -4
  %s.at.next = inttoptr i64 %s.end to ptr
  %s.marks = or i64 %s.after, %mark
  %s.bit = and i64 %s.marks, 2
  %marks.next = or i64 %marks, %s.bit
  %s.next = add i64 %s, 1
  br label %state.entry
over:
  %as.many = icmp eq i1 %s.due, %there
  br i1 %as.many, label %all.same, label %other
all.same:
  %held = shl i64 %marks, 1
  %answer = or i64 %changed, %held
  ret i64 %answer
same:
  ret i64 %changed
other:
  ret i64 2
}}
"""
