"""The table that native code reads: which tensors, where, and with which scalars.

One record of 64-bit fields, most of them the addresses of arrays. A *role* is what a
tensor is to the rule: the parameter, a slot, the gradient (last). Arrays by role and
tensor are stored role by role.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "CHUNK",
    "NONE",
    "Table",
    "at",
    "begin",
    "chunk",
    "loads",
    "member",
    "record_type",
]

CHUNK = (
    1 << 16
)  # numbers: a claim of work, large enough to amortise, small enough to share

_FIELDS = (
    # counts
    "tensors",  # columns
    "written",  # roles that are written: the parameter and the slots
    "numbers",  # scalar slots of each parameter
    "sole",  # 1 unless somebody else refers to a slot or a number
    "waits",  # 1 if a tensor without gradient is left out, else the table does not hold
    "waiting",  # tensors that are left out now
    "objects",  # rows of `handles` that are looked at: all, or the parameters alone
    "chunks",
    "units",  # of work: chunks, or a pass over a chunk
    "rows",  # of scalars
    "arguments",  # scalars of a row that the kernel takes
    "grain",  # units in one claim of work
    "stop",  # the first unit that is not to be claimed
    "threads",
    # arrays
    "handles",  # i64[written + numbers][tensors]: handles of Python tensors
    "pointers",  # i64[written + 1][tensors]: data of each role, gradients last; or NONE
    "number_pointers",  # i64[numbers][tensors]: data of the scalar slots
    "dtypes",  # i64[written + 1 + numbers]: torch's code of each role's dtype
    "bytes",  # i64[written + 1][tensors]: the memory that each role spans
    "shapes",  # i64[]: records of (dimensions, (size, stride) each)
    "shape_at",  # i64[written + 1][tensors]: where in `shapes` a record starts
    "row",  # i64[tensors]: which row of scalars serves a tensor
    "expected",  # double[rows][numbers]: the scalar slots as they must be now
    "updated",  # double[rows][numbers]: what they become
    "injected",  # double[injected]: numbers of the step itself
    "given",  # double[rows][given]: hyperparameters
    "inputs",  # i64[2][inputs]: where those of the scalar program are; a row's stride
    "values",  # real[rows][arguments]
    "chunk",  # i64[3][chunks]: tensor, first number, count of numbers
    "sums",  # double[chunks]: of the squared gradients
    "next_unit",  # i64: the first unit that nobody has claimed
    # arrays of kernels that make several passes (:mod:`.passes`)
    "passes",  # i64[2][units]: a chunk, and the pass over it; -1 for all passes
    "extents",  # i64[3][tensors]: real numbers; rows of a matrix, and columns
    "chunks_of",  # i64[2][tensors]: the first chunk of a tensor, and their count
    "kept_at",  # ptr[tensors]: where a tensor has what interludes compute
    "parts_at",  # ptr[chunks]: where a chunk has its parts of sums
    "memory",  # real[]: all of it
    "left",  # i64[tensors]: chunks that the pass has not done
    "done",  # i64[tensors]: passes that have ended
    # functions
    "kernel",
    "pow",
    "parallel",
    "undefined",
    "grad",
    "bump_version",
    "is_neg",
    "is_conj",
    "data_ptr",
    "dtype",
    "device_type",
    "layout",
    "dim",
    "sizes",
    "strides",
    "storage_offset",  # where a tensor's record has the address of its storage
    "version_offset",  # and that of its counter of versions
    "count_offset",  # where a record and a storage have their count of references
    "record_count",  # that of a record to which its Python object alone refers
    "storage_count",  # that of a storage to which one record alone refers
    "shown_count",  # the same after Python has seen the storage
    "object_offset",  # where a storage then has the address of its Python object
    "number_is_double",  # torch's code of float64: other scalar slots are float32
    "device",  # torch's code of the kind of device that the tensors are on
)
NONE = -1  # the address of a gradient that is not there
_PLAIN = {
    "undefined",
    "storage_offset",
    "version_offset",
    "count_offset",
    "record_count",
    "storage_count",
    "shown_count",
    "object_offset",
    "number_is_double",
    "device",
}
_AT = {name: index for index, name in enumerate(_FIELDS)}

record_type = "%Table = type {" + ", ".join("i64" for _ in _FIELDS) + "}"


def at(field: str) -> int:
    """The index of a field in the record."""
    return _AT[field]


def loads(names: str, table: str = "%table") -> str:
    """LLVM that loads fields: ``%name`` for a count, ``%name`` as a pointer else."""
    lines = []
    for name in names.split():
        index = _AT[name]
        lines.append(
            f"  %{name}.field = getelementptr %Table, ptr {table}, i32 0, i32 {index}"
        )
        kind = "i64" if index <= _AT["threads"] or name in _PLAIN else "ptr"
        lines.append(f"  %{name} = load {kind}, ptr %{name}.field")
    return "\n".join(lines)


def begin(first: str, stop: str) -> str:
    """LLVM that makes the units from ``first`` on, before ``stop``, to be claimed."""
    return f"""
  store i64 {first}, ptr %next_unit
  %stop.field = getelementptr %Table, ptr %table, i32 0, i32 {_AT["stop"]}
  store i64 {stop}, ptr %stop.field
"""


def member(name: str, work: str) -> str:
    """LLVM that each thread of a team runs: claim units of work, and do them.

    Args:
        name: of the function.
        work: the name of the function that does one, given the table and its number.
    """
    return f"""define void @{name}(ptr %table) {{
entry:
{loads("grain next_unit stop")}
  br label %claim
claim:
  %start = atomicrmw add ptr %next_unit, i64 %grain monotonic
  %limit = add i64 %start, %grain
  %whole = icmp slt i64 %limit, %stop
  %end = select i1 %whole, i64 %limit, i64 %stop
  %some = icmp slt i64 %start, %end
  br i1 %some, label %work, label %exit
work:
  %u = phi i64 [%start, %claim], [%u.next, %work]
  call void @{work}(ptr %table, i64 %u)
  %u.next = add nuw nsw i64 %u, 1
  %finished = icmp eq i64 %u.next, %end
  br i1 %finished, label %claim, label %work
exit:
  ret void
}}"""


# What a function knows of its chunk `%c`: `%n` numbers of `%tensor`, from `%first` on.
chunk = """
  %tensor.at = getelementptr i64, ptr %chunk, i64 %c
  %tensor = load i64, ptr %tensor.at
  %first.row = add i64 %c, %chunks
  %first.at = getelementptr i64, ptr %chunk, i64 %first.row
  %first = load i64, ptr %first.at
  %n.row = add i64 %first.row, %chunks
  %n.at = getelementptr i64, ptr %chunk, i64 %n.row
  %n = load i64, ptr %n.at
"""


class Table:
    """The record and the arrays that it points to, kept alive together."""

    def __init__(self) -> None:
        self.record = np.zeros(len(_FIELDS), np.int64)
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.address = self.record.ctypes.data

    def set(self, **fields: int) -> None:
        """Set fields that are numbers or addresses of functions."""
        for name, value in fields.items():
            self.record[_AT[name]] = value

    def get(self, field: str) -> int:
        """A field that is a number."""
        return int(self.record[_AT[field]])

    def array(self, name: str, content: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Point a field at an array, which the table keeps alive."""
        content = np.ascontiguousarray(content)
        self.arrays[name] = content
        self.record[_AT[name]] = content.ctypes.data
        return content
