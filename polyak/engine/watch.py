"""Whether the Python objects that a plan was made from are the same objects still.

They are the groups with what is in them, the lists of parameters, and the state with
what is in it. From Python a look at one of them costs 0.03 microseconds or more, and
there are ten and more for each parameter; tensors cannot be compared with ``==``, which
would compare their numbers. Native code walks the same dictionaries and lists through
CPython's stable interface, and compares addresses.
"""

from __future__ import annotations

import ctypes
import functools
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from . import jit
from .ahead import AHEAD, PREFETCH, before_look
from .code import ATTRIBUTES

if TYPE_CHECKING:
    from ..optimizer import Optimizer

__all__ = ["OTHER", "OTHER_VALUES", "SAME", "Watch"]

SAME = 0
OTHER_VALUES = 1  # in the groups, something else than the parameters
OTHER = 2
_HELD = 4  # added to the others: somebody else refers to the state

_MOST_LINES = 8  # the processor itself reads ahead in what is longer


class Watch:
    """What an optimizer is made of, at the moment when the watch is made.

    Args:
        optimizer: what is watched.
        held: objects of the state to which the plan refers, each as often as it does.

    Attributes:
        found_sole: the last look at all of it found no other reference to the state.
    """

    def __init__(self, optimizer: Optimizer, held: Iterable[Any] = ()) -> None:
        self.found_sole = False
        self._held = Counter(map(id, held))
        self._record(optimizer)

    def _record(self, optimizer: Optimizer) -> None:
        self._opaque = _is_opaque(optimizer)
        self._countable = _counts_references()
        self._groups, self._state = optimizer.param_groups, optimizer.state
        # The objects are kept: another at the same address would pass for them.
        self._objects: list[Any] = []
        self._values: list[dict[str, Any]] = []
        self._values_at: list[int] = []
        self._params = [group["params"] for group in optimizer.param_groups]
        self._order: list[int] = []  # what is looked into, in turn, to read ahead
        stream = [*_interface(), id(self._groups), id(self._state)]
        stream.append(self._references(self._state))
        self._add_groups(stream, optimizer)
        self._add_state(stream, optimizer)
        last = [id(self._groups), 0, 0] * AHEAD
        self._ahead = np.array([*self._order, *last], np.int64)
        self._expected = np.array(stream, np.int64)
        self._addresses = self._expected.ctypes.data, self._ahead.ctypes.data

    def look(self, optimizer: Optimizer, only_groups: bool = False) -> int:
        """``SAME``, ``OTHER_VALUES`` or ``OTHER``; of the groups alone, if so asked."""
        # No variable for the state: it would be a reference more.
        same = optimizer._custody.state is self._state
        if self._opaque or not same or optimizer.param_groups is not self._groups:
            return OTHER
        seen = _compiled()(*self._addresses, only_groups)
        if not only_groups:
            self.found_sole = self._countable and not seen & _HELD
        return seen & ~_HELD

    def renew(self, optimizer: Optimizer) -> bool:
        """Expect the values that the groups have now; False if more is another."""
        groups = optimizer.param_groups
        if any(
            group["params"] is not params
            for group, params in zip(groups, self._params, strict=True)
        ):
            return False
        if [*map(len, groups)] != [*map(len, self._values)]:
            self._record(optimizer)
            return True
        self._values = [dict(group) for group in groups]
        for at, group in zip(self._values_at, groups, strict=True):
            words = self._entries(group, counted=False)
            self._expected[at : at + len(words)] = words
        return True

    def _add_groups(self, stream: list[int], optimizer: Optimizer) -> None:
        stream.append(len(optimizer.param_groups))
        for group in optimizer.param_groups:
            self._add(stream, group, group["params"])
            self._order += [*_record(group), *_record(group["params"])]
            stream.append(len(group["params"]))
            self._add(stream, *group["params"])
            stream.append(len(group))
            self._values_at.append(len(stream))
            self._values.append(dict(group))
            stream += self._entries(group, counted=False)

    def _add_state(self, stream: list[int], optimizer: Optimizer) -> None:
        stream.append(len(optimizer.state))
        for key, value in optimizer.state.items():
            self._add(stream, key, value)
            stream.append(self._references(value))
            self._countable &= type(value) is dict
            self._order += _record(value if isinstance(value, dict) else self._groups)
            entries = value if isinstance(value, dict) else {}
            self._objects += chain.from_iterable(entries.items())
            stream.append(len(entries))
            stream += self._entries(entries, counted=True)

    def _entries(self, entries: dict[Any, Any], *, counted: bool) -> list[int]:
        """The words of a dictionary's entries: key, value, references to the value.

        No references, but 0, where they are not to be counted: of what is not looked
        into, and so is as it was while it is the same object.
        """
        words = []
        for key, value in entries.items():
            is_tensor = counted and isinstance(value, Tensor)
            self._countable &= not is_tensor or type(value) is Tensor
            words += [id(key), id(value), self._references(value) if is_tensor else 0]
        return words

    def _references(self, value: Any) -> int:
        """How many there are to an object of the state, if nobody else has one.

        One is of the object that it is in, and one of this watch.
        """
        return 2 + self._held[id(value)]

    def _add(self, stream: list[int], *objects: Any) -> None:
        self._objects.extend(objects)
        stream.extend(map(id, objects))


def _is_opaque(optimizer: Optimizer) -> bool:
    """Whether something holds the objects that native code cannot look into."""
    groups, state = optimizer.param_groups, optimizer.state
    return (
        type(groups) is not list
        or not isinstance(state, dict)
        or any(not isinstance(group, dict) for group in groups)
        or any(type(group["params"]) is not list for group in groups)
        or any(
            isinstance(key, Tensor) and not isinstance(value, dict)
            for key, value in state.items()
        )
    )


def _record(value: dict[Any, Any] | list[Any]) -> tuple[int, int, int]:
    """An object, where CPython keeps the address of its items, and their cache lines.

    It is used to read ahead only.
    """
    if isinstance(value, dict):
        return id(value), 32, min(1 + len(value) // 2, _MOST_LINES)
    return id(value), 24, min(1 + len(value) // 8, _MOST_LINES)


@functools.cache
def _counts_references() -> bool:
    """Whether an object begins with the number of references to it, in 32 bits.

    It does in CPython with a global lock.
    """
    sample = Tensor()
    count = ctypes.c_uint32.from_address(id(sample))
    before, held = count.value, [sample] * 3
    return count.value == before + len(held) and before > 0


@functools.cache
def _interface() -> tuple[int, ...]:
    """Addresses of the functions of CPython that the native code calls."""
    names = ("PyDict_Next", "PyList_Size", "PyList_GetItem")
    functions = (getattr(ctypes.pythonapi, name) for name in names)
    return tuple(ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions)


@functools.cache
def _compiled() -> Callable[..., int]:
    address, whole = ctypes.c_void_p, ctypes.c_int64
    prototype = ctypes.PYFUNCTYPE(whole, address, address, whole)
    return prototype(jit.compile_ir(_IR)["look"])


# A stream of words, in the order in which Watch writes them: the functions of CPython,
# the list of groups, the dictionary of the state and how many references there are to
# it if nobody else has one, and what is due in these. Beside it the objects that are
# looked into, in turn, to read ahead.
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
  %dict_next = load ptr, ptr %stream
  %list_size.at = getelementptr i64, ptr %stream, i64 1
  %list_size = load ptr, ptr %list_size.at
  %list_item.at = getelementptr i64, ptr %stream, i64 2
  %list_item = load ptr, ptr %list_item.at
  %groups.at = getelementptr i64, ptr %stream, i64 3
  %groups = load ptr, ptr %groups.at
  %state.at = getelementptr i64, ptr %stream, i64 4
  %state = load ptr, ptr %state.at
  %state.references.at = getelementptr i64, ptr %stream, i64 5
  %state.references = load i64, ptr %state.references.at
  %group.count.at = getelementptr i64, ptr %stream, i64 6
  %group.count = load i64, ptr %group.count.at
  %group.first = getelementptr i64, ptr %stream, i64 7
  %group.count.is = call i64 %list_size(ptr %groups)
  %group.as.many = icmp eq i64 %group.count, %group.count.is
  br i1 %group.as.many, label %group, label %other

; A group: itself, its list of parameters, these, its entries.
group:
  %g = phi i64 [0, %entry], [%g.next, %group.entries]
  %g.at = phi ptr [%group.first, %entry], [%g.at.next, %group.entries]
  %changed = phi i64 [0, %entry], [%changed.next, %group.entries]
  %g.more = icmp slt i64 %g, %group.count
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
  %g.after = call i64 @entries(ptr %g.is, ptr %p.at, ptr %dict_next)
  %g.changed = and i64 %g.after, 1
  %changed.next = or i64 %changed, %g.changed
  %g.end = and i64 %g.after, -4
  %g.at.next = inttoptr i64 %g.end to ptr
  %g.next = add i64 %g, 1
  br label %group

; The state: for each key, it, its value and the references to this one, then the
; value's entries.
groups.same:
  %enough = icmp ne i64 %only_groups, 0
  br i1 %enough, label %same, label %state.head
state.head:
  %objects.before = mul i64 %group.count, 2
  %state.count = load i64, ptr %g.at
  %state.first = getelementptr i64, ptr %g.at, i64 1
  %state.is.held = call i1 @held(ptr %state, i64 %state.references)
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
