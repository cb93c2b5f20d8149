"""The plan of a step: which engine runs which parameter, kept while nothing changes.

A plan is made from what an optimizer and its tensors are at one moment. Before each
step it is asked whether it still holds. That question is where a fused step on small
tensors spends its time, so it is asked in several ways, each cheap for what it covers:

- Python objects (the groups and the state, with all that is in them) are compared by
  identity with those the plan was made from: :class:`.watch.Watch`;
- tensors are looked at by native code, which leaves out parameters that have state and
  no gradient: :meth:`.bucket.Bucket.holds`;
- of state that nobody else can have changed it is not asked at all:
  :mod:`polyak.custody`;
- where a value in a group is another, it is compared by what it means. A learning rate
  that changed touches the scalars alone (:meth:`Plan._follows`), not the plan;
- where nothing changes from step to step, native code asks all of it and does the step:
  :class:`.repeat.Repeat`.

Whatever else changes, the plan is made anew: it costs a tenth of a millisecond a
parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..slot import number
from .bucket import Bucket
from .eager import watched
from .fitness import form, refusal
from .inspection import inspect_gradients
from .reading import Reading
from .repeat import Repeat
from .stacks import Stack, gathered
from .survey import Hyperparameters, Member, Verdict, kernel_for, survey
from .triton.captures import bucket_kind, keep_captured
from .triton.skips import counting
from .watch import OTHER, OTHER_VALUES, SAME, Watch

if TYPE_CHECKING:
    from ..optimizer import Optimizer

__all__ = ["EagerMember", "Plan"]


@dataclass(eq=False)
class EagerMember:
    """A parameter that the eager engine runs.

    Attributes:
        reason: why.
        sparse: the gradient is sparse.
        by_rows: only its rows are updated.
        passing: it is the gradient that stands apart, and the next one may not.
        forms: of the tensors, if others in their place could have a kernel.
    """

    member: Member
    reading: Reading
    reason: str
    sparse: bool
    by_rows: bool
    passing: bool
    forms: list[Any] | None

    def holds(self) -> bool:
        """Whether the parameter must run eagerly still."""
        grad = self.member.param.grad
        return (
            grad is not None
            and grad.is_sparse == self.sparse
            and not self.passing
            and (self.forms is None or self.forms == _forms(self.member))
        )


class Plan:
    """Which engine runs which parameter of an optimizer, and all that is cached.

    State that parameters lack is made on the way; where making the plan fails, it is
    taken back.

    Attributes:
        buckets: what kernels run, on the CPU or on a GPU.
        eager: what the eager engine runs.
        on_device: nothing that a step needs is read back from a device.
        injected: what the rules want injected, all of them the same.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.buckets: list[Bucket] = []
        self.eager: list[EagerMember] = []
        self._idle: list[Tensor] = []
        self._made: list[tuple[Tensor, list[str]]] = []  # until a step has used it
        self._hyperparameters = Hyperparameters.of(optimizer)
        schemas = self._hyperparameters.schemas
        self.injected = schemas[0].injected if schemas else ()
        self._unscales = "grad_factor" in self.injected
        self._inspects = bool(self.injected) or optimizer.nonfinite != "ignore"
        try:
            members = list(self._collect(optimizer))
            self._assign(optimizer, members)
            groups = optimizer.param_groups
            self._stacks = gathered(groups, self.eager)
            self.on_device = bool(self.buckets) and not self.eager
            self.on_device &= all(bucket.scalars_stay for bucket in self.buckets)
            if self.on_device:
                counting(optimizer, self.buckets[0].members[0].param.device)
        except BaseException:
            self._take_back(optimizer)
            raise
        self._is_plain = not (self._idle or self.eager or self._stacks)  # buckets only
        begins = any(m.first and m.schema.wants_first for m in members)
        self._brief = begins or bool(watched())
        self._is_steady = False  # it was as it is, and the state is in custody
        self._repeat: Repeat | None = None
        for member in members:
            member.grad = None  # or it would outlive zero_grad()
        held = (bucket.held() for bucket in self.buckets)
        self._watch = Watch(optimizer, chain.from_iterable(held))
        self._makes_objects = any(
            not isinstance(value, Tensor)
            for entry in self.eager
            for value in entry.member.numbers()
        )

    # Making

    def _collect(self, optimizer: Optimizer) -> Iterator[Member]:
        """The parameters with gradients, their state completed.

        And those without, if they have state, or need none: their bucket leaves them
        out until they have one.
        """
        seen: set[Tensor] = set()
        schemas = self._hyperparameters.schemas
        for index, group in enumerate(optimizer.param_groups):
            schema, owner = schemas[index], optimizer.in_charge(group)
            for param in group["params"]:
                if param in seen:
                    continue
                seen.add(param)
                grad = param.grad
                if grad is not None:
                    owner.check_gradient(param, grad, group)
                present = schema.present(group, param)
                missing = owner.missing_state(param, group, present)
                first = schema.begins(present, missing) or param in optimizer._fresh
                if grad is None and (missing or first):
                    self._idle.append(param)
                    continue
                if missing:
                    new = owner.initial_state(param, group, missing)
                    self._made.append((param, missing))
                    optimizer.state.setdefault(param, {}).update(new)
                state = optimizer.state.get(param, {})
                yield Member(param, grad, index, schema, state, present, first)

    def _assign(self, optimizer: Optimizer, members: list[Member]) -> None:
        shelves: dict[Any, list[Verdict]] = {}
        for verdict in survey(optimizer, members, self._hyperparameters):
            if verdict.why is not None:
                self._set_apart(optimizer, verdict, verdict.why)
                continue
            kernel, _ = kernel_for(optimizer, verdict)
            key = (verdict.reading, verdict.live, id(kernel), *_dtypes(verdict.member))
            shelves.setdefault(key, []).append(verdict)
        for shelf in shelves.values():
            kernel, formats = kernel_for(optimizer, shelf[0])
            fellows = [verdict.member for verdict in shelf]
            bucket = bucket_kind(shelf[0])(shelf[0].reading, kernel, formats, fellows)
            bucket.assign(self._hyperparameters.numbers)
            if bucket.holds():
                self.buckets.append(bucket)
                continue
            for verdict in shelf:
                self._set_apart(optimizer, verdict, "native code sees other tensors")

    def _set_apart(self, optimizer: Optimizer, verdict: Verdict, why: str) -> None:
        """Have the eager engine run a member, once it has a gradient."""
        member = verdict.member
        if member.grad is None:
            self._idle.append(member.param)
            return
        sparse = member.gradient().is_sparse
        group = optimizer.param_groups[member.group]
        by_rows = sparse and optimizer.in_charge(group).on_sparse(group) == "rows"
        passing = why.startswith("the gradient") and not sparse
        forms = None if sparse or refusal(group) else _forms(member)
        self.eager.append(
            EagerMember(member, verdict.reading, why, sparse, by_rows, passing, forms)
        )

    # Holding

    def holds(self, optimizer: Optimizer) -> bool:
        """Whether the plan is true of the optimizer and its tensors as they are now."""
        custody = optimizer._custody
        is_sole = custody.keeper is self
        if not is_sole:
            custody.keeper, custody.looker = None, self
        holds = (
            not self._brief
            and not watched()
            and (self._unscales or vars(optimizer).get("grad_scale") is None)
            and self._same_objects(optimizer, is_sole)
            and (self._is_plain or self._others_hold())
            and all(bucket.holds(is_sole) for bucket in self.buckets)
        )
        self._is_steady = self._is_steady and is_sole
        if not self._is_steady:
            self._repeat = None
        if not is_sole and holds and self._found_sole():
            custody.keeper = custody.looker  # nobody, if somebody has read it meanwhile
        return holds

    def _found_sole(self) -> bool:
        """Whether the look has found that nobody else refers to the state."""
        found = not (self.eager or self._stacks) and self._watch.found_sole
        return found and all(bucket.found_sole for bucket in self.buckets)

    def _others_hold(self) -> bool:
        """Whether what is in no bucket is as it was."""
        return (
            all(param.grad is None for param in self._idle)
            and all(map(EagerMember.holds, self.eager))
            and all(map(self._reads_the_same, self._stacks))
        )

    @property
    def begins(self) -> bool:
        """Whether state begins with this step, and goes again if it is left out."""
        return bool(self._made) or self._brief

    def takes(self, now: Hyperparameters) -> bool:
        """Whether other hyperparameters differ from the plan's in numbers alone."""
        return now.structure == self._hyperparameters.structure

    def _same_objects(self, optimizer: Optimizer, only_groups: bool) -> bool:
        seen = self._watch.look(optimizer, only_groups)
        same = seen == SAME and self._hyperparameters.fixed
        self._is_steady = same or (seen == OTHER_VALUES and self._follows())
        if self._is_steady or seen == OTHER:
            return self._is_steady
        self._repeat = None  # it points into the watch
        now = Hyperparameters.of(optimizer)
        if not self.takes(now):
            return False
        known, self._hyperparameters = self._hyperparameters, now
        if now.numbers != known.numbers:
            for bucket in self.buckets:
                bucket.assign(now.numbers)
        return seen == SAME or self._watch.renew(optimizer)

    def _follows(self) -> bool:
        """Take over floats that groups have in place of others, if no more changed."""
        changes = self._watch.changes() if self._hyperparameters.fixed else None
        if not changes:
            return False
        now = self._hyperparameters.after(changes, self._watch.groups)
        if now is None:
            return False
        self._watch.accept(changes)
        self._hyperparameters = now
        changed = [place for place, _ in changes]
        for bucket in self.buckets:
            bucket.reassign(now.numbers, changed)
        return True

    def _reads_the_same(self, stack: Stack) -> bool:
        """Whether the rule reads as it did for the numbers that there are now."""
        graph, program = stack.reading.graph, stack.reading.program
        if not (graph.leaves and graph.guards):
            return True
        known = self._hyperparameters.numbers[stack.group]
        inputs = (stack.schema.inputs(known, state) for state in set(stack.states()))
        return all(program.evaluate(*values) is not None for values in inputs)

    # Running

    def repeat(self, optimizer: Optimizer) -> bool:
        """Do a step like the last one; False, with nothing done, if it is another."""
        repeat, own = self._repeat, vars(optimizer)
        if (
            repeat is None
            or not repeat.is_native
            or repeat.groups is not optimizer.param_groups
            or optimizer._custody.keeper is not self
            or "found_inf" in own
            or own.get("grad_scale") is not None
            or watched()
            or not (self._is_plain or self._others_hold())
        ):
            return False
        if repeat.step(repeat.address) == 0:
            return True
        follows = self._follows() and repeat.fits(self.buckets)
        return follows and repeat.step(repeat.address) == 0

    def run(self, optimizer: Optimizer) -> bool:
        """Do one step; False, with nothing done, if the plan must be made anew.

        A step that the gradients forbid is done by doing nothing but counting it.
        """
        numbers: tuple[Any, ...] | None = ()
        if self._inspects or "found_inf" in vars(optimizer):
            numbers = self._look_at_gradients(optimizer)
        if numbers is None:
            optimizer._skipped += 1
            optimizer._counts = False
            return True
        floats = numbers if self.on_device else tuple([number(n) for n in numbers])
        for bucket in self.buckets:
            if not bucket.prepare(floats):
                return False
        self._made.clear()
        if optimizer._fresh:
            idle = (param for param in optimizer._fresh if param.grad is None)
            optimizer._fresh = frozenset(idle)
        for stack in self._stacks:
            stack.update(optimizer.param_groups[stack.group], numbers)
        for bucket in self.buckets:
            bucket.launch()
        if self.on_device:
            keep_captured(optimizer, self.buckets)
        if self._makes_objects:  # of numbers that are no tensors
            self._watch = Watch(optimizer)
        if self._is_steady and self._repeat is None and not self._inspects:
            self._repeat = Repeat(self._watch, self.buckets)
        return True

    def _look_at_gradients(self, optimizer: Optimizer) -> tuple[Any, ...] | None:
        try:
            numbers = inspect_gradients(optimizer, self)
        except BaseException:
            self._take_back(optimizer)
            raise
        if numbers is None:
            self._take_back(optimizer)
        return numbers

    def _take_back(self, optimizer: Optimizer) -> None:
        """Remove the state that was made for a step that was not done."""
        if self._made:
            optimizer._plan = None
        for param, names in self._made:
            for name in names:
                optimizer.state[param].pop(name, None)
            if not optimizer.state[param]:
                del optimizer.state[param]
        self._made.clear()


def _forms(member: Member) -> list[Any]:
    return [form(tensor) for tensor in (member.param, *member.slots())]


def _dtypes(member: Member) -> Iterator[Any]:
    """What must be equal, beyond the kernel, for members to share a table."""
    yield member.param.device
    yield member.param.dtype
    yield member.gradient().dtype
    for name, value in member.state.items():
        yield name, getattr(value, "dtype", None)
