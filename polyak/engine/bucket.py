"""A bucket: the parameters that one launch of one kernel serves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..extent import Extent
from ..slot import number
from . import around, jit, team, torch_abi
from .around import Around, Scalars, Stack, Wave, stacks
from .formats import Format
from .kernel import Kernel
from .norm import squares
from .passes import Passes
from .reading import Reading
from .rows import Rows
from .survey import Member, Numbers
from .table import CHUNK, NONE, Table
from .walk import HOLDS, PART, walk
from .workspace import lay_out

__all__ = ["Bucket", "sizes_of"]

ROWS = 16  # at least so many in a chunk that sums up columns


class Bucket:
    """A kernel, and the table of what it works on.

    Members of one group with the same step stay together from step to step; they form a
    *cell*. Cells whose hyperparameters and steps are equal share a row of scalars: a
    thousand groups that differ in nothing cost what one group costs.

    Args:
        reading: the rule's graph, for all members.
        kernel: the kernel made from it.
        formats: the storage of each tensor.
        members: parameters of these formats, with the same rule and slots.

    Attributes:
        scalars_stay: a step reads nothing from a device.
    """

    scalars_stay = False

    def __init__(
        self,
        reading: Reading,
        kernel: Kernel,
        formats: Mapping[str, Format],
        members: Sequence[Member],
    ) -> None:
        self.schema, self.reading, self.kernel = members[0].schema, reading, kernel
        self.formats, self.members = formats, list(members)
        self.number_names = self._held_numbers()

        cells: dict[tuple[int, Numbers], int] = {}
        cell_of = [
            cells.setdefault((member.group, self._numbers(member)), len(cells))
            for member in self.members
        ]
        if kernel.calls:  # those that can share a stack are neighbours
            order = sorted(range(len(members)), key=lambda i: self._kind(cell_of, i))
            self.members = [members[i] for i in order]
            cell_of = [cell_of[i] for i in order]
        self._cell_of = np.array(cell_of, np.int64)
        self._cell_groups = [group for group, _ in cells]
        self._cell_states = [state for _, state in cells]
        self._row_of_cell: list[int] = []
        self._threads = 0
        self._part = False  # some step counters stay behind in the next step
        self._assigned: Sequence[Numbers] = ()
        self._groups_of_row: dict[int, set[int]] = {}
        self._rows_of_group: dict[int, set[int]] = {}
        self.table = self._tabulate()
        self._looks_at(state=True)
        self._around: Around | None = None
        if kernel.calls:
            wide = kernel.real == np.float64
            self._around = Around(
                kernel.calls,
                self.table,
                self._waves(),
                self.members[0].param.device,
                torch.float64 if wide else torch.float32,
            )

    def _kind(self, cell_of: Sequence[int], index: int) -> Any:
        return cell_of[index], tuple(self.members[index].param.shape)

    def _waves(self) -> list[Wave]:
        """Which parameters go through the leaves together: one stack after another."""
        return [Wave(stack) for stack in self._stacks(around.BYTES)]

    def _stacks(self, most: int) -> list[Stack]:
        return stacks([m.param for m in self.members], self._cell_of.tolist(), most)

    def _held_numbers(self) -> tuple[str, ...]:
        """The numbers of the state that the host keeps."""
        return self.schema.numbers(self.members[0].present)

    def _entry(self) -> int:
        """The native function that works off the table."""
        self.library = jit.compile_ir(self.kernel.ir)
        if self.kernel.evaluates:
            self.rows.evaluate_with(self.library["prepare"])
        regions = range(len(self.kernel.calls) + 1)
        self._regions = [self.library[f"member{index}"] for index in regions]
        return self._regions[0]

    def _numbers(self, member: Member) -> Numbers:
        return tuple(number(member.state[name]) for name in self.number_names)

    # The table

    def _tabulate(self) -> Table:
        """Write down all that stays as it is from step to step."""
        members, roles = self.members, self.kernel.roles
        params = [member.param for member in members]
        written = [params]
        written += [[member.state[name] for member in members] for name in roles[1:-1]]
        grads = [member.gradient() for member in members]
        numbers = [
            [member.state[name] for member in members] for name in self.number_names
        ]
        columns, cells = len(members), len(self._cell_groups)
        rows = len(roles) + len(self.kernel.memory)
        pointers = np.zeros((rows, columns), np.int64)
        pointers[: len(written)] = [[t.data_ptr() for t in role] for role in written]
        handles = [[torch_abi.handle(t) for t in role] for role in (*written, *numbers)]
        dtypes = [role[0].dtype for role in (*written, grads, *numbers)]
        spans = np.array([[t.nbytes for t in role] for role in (*written, grads)])
        # A gradient lies like its parameter, and so does a slot that is as large.
        small = [extent is not Extent.NUMBER for extent in members[0].extents()]
        slots = zip(small, written[1:], strict=True)
        forms = [params, *(slot if is_small else params for is_small, slot in slots)]
        shapes, shape_at = _shapes([*forms, params])
        sizes = sizes_of(params, self.kernel.passes.has_rows)
        chunks = _chunks(sizes, self.kernel.passes)
        self._arguments = self.reading.graph.arguments()
        ends = np.arange(len(members) + 1)
        self._chunk_at = np.searchsorted(chunks[0], ends).tolist()

        table = Table()
        table.array("handles", np.array(handles, np.int64))
        table.array("pointers", pointers)
        table.array("number_pointers", np.zeros((len(numbers), columns), np.int64))
        table.array("dtypes", np.array([*map(torch_abi.dtype_code, dtypes)], np.int64))
        table.array("bytes", spans.astype(np.int64))
        table.array("shapes", shapes)
        table.array("shape_at", shape_at)
        table.array("row", np.zeros(columns, np.int64))
        table.array("chunk", chunks)
        table.array("sums", np.zeros(chunks.shape[1]))
        table.array("next_unit", np.zeros(1, np.int64))
        units = chunks.shape[1]
        if not self.kernel.passes.is_single:
            units = self._lay_out(table, sizes, chunks)
        self._gradient_bytes = int(spans[-1].sum())
        self._traffic = 2 * int(spans.sum()) - self._gradient_bytes
        kinds = [column[0].dtype for column in numbers]
        self.rows = Rows(
            table, self.reading, self.schema, kinds, cells, self.kernel.real
        )
        entry = self._entry()
        table.set(
            tensors=columns,
            written=len(written),
            numbers=len(numbers),
            chunks=chunks.shape[1],
            units=units,
            grain=team.grain(self._traffic, units),
            waits=bool(entry) and not self.kernel.calls,
            kernel=entry,
            pow=jit.pow_address(),
            parallel=team.parallel_entry(),
            number_is_double=torch_abi.dtype_code(torch.float64),
            device=torch_abi.device_code(params[0].device.type),
            **torch_abi.functions(),
        )
        return table

    def _lay_out(
        self, table: Table, sizes: npt.NDArray[Any], chunks: npt.NDArray[Any]
    ) -> int:
        """Write down the units of a kernel of several passes; how many there are."""
        return lay_out(table, self.kernel, sizes, chunks)

    # One step

    def assign(self, hyperparameters: Sequence[Numbers]) -> None:
        """Give each cell its row, for hyperparameters by index of the group."""
        self._assigned = hyperparameters
        self._groups_of_row, self._rows_of_group = {}, {}
        states = self._states_of_cells()
        rows: dict[tuple[Numbers, Numbers], int] = {}
        row_of_cell = [
            rows.setdefault((hyperparameters[group], state), len(rows))
            for group, state in zip(self._cell_groups, states, strict=True)
        ]
        self.rows.assign(list(rows))
        if row_of_cell != self._row_of_cell:
            self._row_of_cell = row_of_cell
            self.table.arrays["row"][:] = np.array(row_of_cell)[self._cell_of]

    def reassign(self, hyperparameters: Sequence[Numbers], changed: list[int]) -> None:
        """Do the same, where floats in some groups are others.

        Rows stay as they are, if all groups that share one still agree.

        Args:
            hyperparameters: the new ones, by index of the group.
            changed: the indices of the groups.
        """
        if not self._groups_of_row:
            for group, row in zip(self._cell_groups, self._row_of_cell, strict=True):
                self._groups_of_row.setdefault(row, set()).add(group)
                self._rows_of_group.setdefault(group, set()).add(row)
        self._assigned = hyperparameters
        rows = {row for group in changed for row in self._rows_of_group.get(group, ())}
        numbers: dict[int, Numbers] = {}
        for row in rows:
            now = {hyperparameters[group] for group in self._groups_of_row[row]}
            if len(now) > 1:
                self.assign(hyperparameters)
                return
            numbers[row] = now.pop()
        self.rows.reassign(numbers)

    def _states_of_cells(self) -> list[Numbers]:
        if self._row_of_cell:
            self._cell_states = [*map(self.rows.state, self._row_of_cell)]
        return self._cell_states

    def holds(self, is_sole: bool = False) -> bool:
        """Whether the table is true of the tensors as they are now.

        The gradients' addresses are written into it on the way. Members without one are
        left out of the next step, if native code runs the kernel, and it has no leaves.

        Args:
            is_sole: nobody else holds the state: it is as it was.
        """
        if is_sole is not self._is_sole:
            self._looks_at(state=not is_sole)
        found = walk().check(self.table.address)
        self._part = found == PART
        return found in (HOLDS, PART)

    @property
    def found_sole(self) -> bool:
        """Whether the last look has found that nobody else refers to the state."""
        return self.table.get("sole") == 1

    def held(self) -> list[Any]:
        """The objects of the state that it refers to, each as often as it does."""
        return [member.state for member in self.members]

    def _looks_at(self, state: bool) -> None:
        """Let looks, and what autograd is told, cover the state or not."""
        self._is_sole = not state
        objects = len(self.table.arrays["handles"])
        self.table.set(objects=objects if state else 1)

    def squares(self) -> float:
        """The sum of the squared gradients."""
        self._use(team.threads_for(self._gradient_bytes))
        return squares(self.formats["grad"])(self.table.address)

    def prepare(self, injected: Numbers) -> bool:
        """Evaluate the rows of scalars; False if the rule would branch otherwise.

        Args:
            injected: the numbers of the step itself.
        """
        return self.rows.prepare(injected)

    def launch(self) -> None:
        """Advance the members' numbers and run the kernel."""
        if self._around is None:
            self._use(team.threads_for(self._traffic))
            before = [*map(self.rows.state, self._row_of_cell)] if self._part else []
            walk().launch(self.table.address)
            if self._part:
                self._divide(before)
        else:
            self._around.run(self._scalars(), self._run_region)
            self.rows.advance()

    def _divide(self, before: Sequence[Numbers]) -> None:
        """Part those that had no gradient from those that had, and so advanced.

        Args:
            before: the numbers of each cell before the step.
        """
        stayed = (self.table.arrays["pointers"][-1] == NONE).astype(int)
        ends = [*map(self.rows.state, self._row_of_cell)], before
        cells: dict[tuple[int, Numbers], int] = {}
        cell = np.full((len(before), len(ends)), -1)
        cell[self._cell_of, stayed] = 0  # those that there will be
        for old, end in np.argwhere(cell == 0).tolist():
            key = self._cell_groups[old], ends[end][old]
            cell[old, end] = cells.setdefault(key, len(cells))
        self._cell_of = cell[self._cell_of, stayed]
        self._cell_groups = [group for group, _ in cells]
        self._cell_states = [state for _, state in cells]
        self._row_of_cell = []
        self.assign(self._assigned)

    def native(self) -> tuple[int, int] | None:
        """What native code needs to do a step: the table, and what evaluates its rows.

        None where Python has a part in it, or where it is for a team of threads.
        """
        is_alone = self.table.get("kernel") and not self._around
        evaluator = self.rows.evaluator()
        if not is_alone or evaluator is None or team.is_large(self._traffic):
            return None
        return self.table.address, evaluator

    def _use(self, threads: int) -> None:
        """Have as many threads in the next run."""
        if threads != self._threads:
            self.table.set(threads=threads)
            self._threads = threads

    def _scalars(self) -> list[Scalars]:
        """The scalars that each row has, for leaves."""
        return [
            dict(zip(self._arguments, row.scalars, strict=True)) for row in self.rows
        ]

    def _run_region(
        self, region: int, wave: Wave, memory: Mapping[str, Tensor]
    ) -> None:
        """Run the kernel of a region on a stack."""
        pointers, count = self.table.arrays["pointers"], wave.last - wave.first
        for name, whole in memory.items():
            row = len(self.kernel.roles) + self.kernel.memory.index(name)
            places = whole.nbytes // count * np.arange(count)
            pointers[row, wave.first : wave.last] = whole.data_ptr() + places
        chunks = self._chunk_at[wave.first], self._chunk_at[wave.last]
        share = (chunks[1] - chunks[0]) / self._chunk_at[-1]
        self._use(team.threads_for(int(self._traffic * share)))
        walk().run(self.table.address, self._regions[region], *chunks)


def _shapes(
    roles: Sequence[Sequence[Tensor]],
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Records of (dimensions, (size, stride) each), and where each tensor's starts.

    The record of a 0-d tensor comes first: it serves the numbers.
    """
    records: list[int] = [0]
    starts: dict[tuple[int, ...], int] = {(0,): 0}
    start_of: dict[int, list[int]] = {}
    for role in roles:
        if id(role) in start_of:
            continue
        start_of[id(role)] = places = []
        for tensor in role:
            pairs = zip(tensor.shape, tensor.stride(), strict=True)
            record = (tensor.dim(), *itertools.chain(*pairs))
            if record not in starts:
                starts[record] = len(records)
                records.extend(record)
            places.append(starts[record])
    rows = [start_of[id(role)] for role in roles]
    return np.array(records, np.int64), np.array(rows, np.int64)


def sizes_of(params: Sequence[Tensor], has_rows: bool) -> npt.NDArray[Any]:
    """Real numbers of each tensor; of a matrix, its rows and its columns."""
    sizes = np.ones((3, len(params)), np.int64)
    for index, param in enumerate(params):
        sizes[0, index] = sizes[2, index] = param.numel() * (1 + param.is_complex())
        if has_rows:
            rows, columns = param.shape[-2:]
            sizes[1:, index] = rows, columns * (1 + param.is_complex())
    return sizes


def _chunks(sizes: npt.NDArray[Any], passes: Passes) -> npt.NDArray[Any]:
    """Rows (tensor, first number, count of numbers), one column a chunk.

    Where rows are told apart, a chunk has whole rows, and several of them if it has
    memory of its own for a sum of each column. Of small matrices it has whole ones.
    """
    has_rows, least = passes.has_rows, ROWS if passes.sums_columns else 1
    columns = []
    for tensor, (length, rows, row) in enumerate(sizes.T.tolist()):
        size = max(least, CHUNK // max(1, row)) * row if has_rows else CHUNK
        if has_rows and 0 < rows * row < size:
            size -= size % (rows * row)
        elif passes.needs_matrices:
            size = rows * row
        columns += [
            (tensor, first, min(size, length - first))
            for first in range(0, length, max(1, size))
        ]
    return np.array(columns, np.int64).reshape(-1, 3).T.copy()
