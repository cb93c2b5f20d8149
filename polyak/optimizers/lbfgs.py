"""L-BFGS: Newton's method, with the curvature learnt from the steps."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..bounds import at_least
from ..checkpoint import LoadReport
from ..linalg import Closure, Iterate, Objective
from ..optimizer import Optimizer
from ..slot import Group

__all__ = ["LBFGS"]

State = dict[str, Any]


def _whole_number(owner: str, name: str, value: Any) -> None:
    at_least(1)(owner, name, value)
    try:
        operator.index(value)
    except TypeError:
        raise TypeError(
            f"{owner} needs a whole number for {name}, got {value!r}: write int({name})"
        ) from None


def _line_search(owner: str, name: str, value: Any) -> None:
    if value not in (None, "strong_wolfe"):
        raise RuntimeError(
            f"only 'strong_wolfe' is supported: {owner} got {name}={value!r}; choose "
            "'strong_wolfe', or None to take every step at full length"
        )


class LBFGS(Optimizer, torch.optim.LBFGS):
    r"""Limited-memory BFGS (`Liu and Nocedal, 1989 <https://doi.org/10.1007/BF01589116>`_).

    Newton's method divides the gradient by the curvature. L-BFGS learns the curvature
    from each step :math:`s` that it made and the change :math:`y` of the gradient that
    came of it: of the matrices that map :math:`y` to :math:`s`, as the inverse of the
    Hessian does, it takes the one nearest to the last.

    .. math::
        \theta_{k+1} &= \theta_k + t_k\,d_k, \qquad d_k = -H_k \nabla f(\theta_k) \\
        s_k &= \theta_{k+1} - \theta_k, \qquad
            y_k = \nabla f(\theta_{k+1}) - \nabla f(\theta_k), \qquad
            \rho_k = 1 / y_k^T s_k \\
        H_{k+1} &= (I - \rho_k s_k y_k^T)\,H_k\,(I - \rho_k y_k s_k^T)
            + \rho_k s_k s_k^T

    :math:`H_k` is never formed: it is :math:`h_k I` after the last :math:`m` updates,
    where :math:`h_k = s_{k-1}^T y_{k-1} / y_{k-1}^T y_{k-1}`. The step length
    :math:`t_k` is :math:`\gamma`, or what a line search finds from there. In the very
    first iteration, with :math:`H_0 = I`, it is :math:`\min(1, 1 / \|\nabla f\|_1)` of
    that.

    One ``step`` makes up to ``max_iter`` iterations and calls the closure in each. It
    works on one real vector of all the parameters: complex numbers are pairs, sparse
    gradients are made dense, missing ones are zero. All parameters are on one device.
    The state takes the memory of ``2 * history_size`` copies of them.

    The parameters of several groups are still one vector with one history. Only ``lr``
    may differ: :math:`\gamma` is the largest, and the parameters of group :math:`i` are
    measured in units of :math:`\sqrt{\gamma_i / \gamma}`. In the parameters themselves
    that is a diagonal matrix :math:`R` of the ratios :math:`\gamma_i / \gamma`:

    .. math::
        d_0 = -R\,\nabla f(\theta_0), \qquad
        H_k \text{ begins as } h_k R, \qquad
        h_k = s_{k-1}^T y_{k-1} / y_{k-1}^T R\,y_{k-1}.

    So each group follows the gradient with its own rate where nothing else is known. A
    ratio is a guess of the scale, which the curvature corrects as it is learnt, and no
    bound of the step. With 0 a group stands still. The matrix is positive definite
    whatever the rates are, and a line search can follow the direction. The pairs know
    nothing of the rates: schedulers may change each of them between steps. A group that
    is added later makes the method begin anew, without state.

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define groups.
        lr: step length :math:`\gamma \ge 0`.
        max_iter: iterations in a step at most, from 1.
        max_eval: calls of the closure in a step at most, from 1; a line search may
            exceed it by one. None is ``max_iter * 5 // 4``.
        tolerance_grad: end the step when no component of the gradient is larger.
        tolerance_change: end the step when no parameter changed by more, or the loss
            changed by less.
        history_size: pairs :math:`s, y` that are kept, :math:`m \ge 1`.
        line_search_fn: ``"strong_wolfe"``, or None to take every step at full length.

    State, kept with the first parameter: ``func_evals`` and ``n_iter``, calls and
    iterations so far; ``d`` and ``t``, the last direction and step length; ``old_dirs``
    (:math:`y`) and ``old_stps`` (:math:`s`), lists of vectors, and ``ro``
    (:math:`\rho`), a list of numbers, oldest first; ``H_diag`` (:math:`h_k`), a number;
    ``al`` (:math:`\alpha` of the two loops), a list of ``history_size`` numbers or
    None; ``prev_flat_grad`` and ``prev_loss``, the gradient and the loss where ``d``
    began. A vector has an entry for each real number in the parameters; a number is a
    0-d tensor where it was computed from vectors.

    A line search takes a loss or a gradient that is not finite for a step that was too
    long. Without one, a move to such a place ends the call with a warning, and so does
    a direction that overflows. Then, and when the closure raises, the parameters are
    those with the lowest loss among the iterations of this call, its start included.
    The next call begins there with an empty history; but if the closure raised right
    after the best iteration, it goes on with the history of that. Where a call begins
    with nothing finite, it changes nothing.

    Raises:
        ValueError: a value out of its range, groups that differ in more than ``lr``, or
            the state of other parameters or of another order.
        RuntimeError: an unknown ``line_search_fn``.
        TypeError: a step without closure, or a closure that returns no loss.

    >>> w = torch.tensor([-1.5, 2.0], requires_grad=True)
    >>> optimizer = LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     rosenbrock = (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2
    ...     rosenbrock.backward()
    ...     return rosenbrock
    >>> optimizer.step(closure).item()
    12.5
    >>> w
    tensor([1.0000, 1.0000], requires_grad=True)
    """

    bounds = {
        "lr": at_least(0, "learning rate"),
        "max_iter": at_least(1),
        "max_eval": at_least(1),
        "tolerance_grad": at_least(0),
        "tolerance_change": at_least(0),
        "history_size": _whole_number,
        "line_search_fn": _line_search,
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        if max_eval is None:
            max_eval = max_iter * 5 // 4
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        try:
            self._check_agreement()
        except ValueError:
            self.param_groups.pop()
            raise
        # A vector of the state has an entry for each parameter: it is too short now.
        self.state.clear()

    def _check_agreement(self) -> None:
        """Raise where groups differ in what belongs to the method as a whole."""
        first = self.param_groups[0]
        for index, group in enumerate(self.param_groups):
            for name in self.defaults:
                if name != "lr" and group[name] != first[name]:
                    raise ValueError(
                        "LBFGS is one method for all parameters, and its groups may "
                        f"differ in lr alone: {name} is {first[name]!r} in group 0 and "
                        f"{group[name]!r} in group {index}"
                    )

    def check_state(
        self, param: Tensor, group: Group, label: str, name: str, value: Any
    ) -> None:
        vectors = {"d": [value], "prev_flat_grad": [value]}.get(name, [])
        if name in ("old_dirs", "old_stps"):
            vectors = value or []
        size = sum(map(_size, self.param_groups))
        for vector in vectors:
            if vector is not None and vector.shape != (size,):
                raise ValueError(
                    f"loaded state dict has {name} of shape {tuple(vector.shape)} for "
                    f"{label}, where it is {(size,)}, all parameters together. Is it "
                    "the checkpoint of another model? Nothing was loaded."
                )

    def load_state_dict(  # type: ignore[override]
        self, state_dict: dict[str, Any], **how: Any
    ) -> LoadReport:
        names, saved = (
            [name for group in groups for name in group.get("param_names", ())]
            for groups in (self.param_groups, state_dict.get("param_groups", ()))
        )
        if names != saved and sorted(names) == sorted(saved):
            raise ValueError(
                f"loaded state dict has the parameters in the order {saved}. The state "
                f"of LBFGS is of all of them end to end, here in the order {names}: "
                "give them to LBFGS in the other order. Nothing was loaded."
            )
        return super().load_state_dict(state_dict, **how)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Make up to ``max_iter`` iterations.

        Args:
            closure: clears the gradients, computes the loss, calls ``backward()`` on it
                and returns it.

        Returns:
            The loss before the first iteration, as the closure returned it.
        """
        if closure is None:
            raise TypeError(
                "LBFGS.step() needs a closure that clears the gradients, computes the "
                "loss, calls backward() on it and returns it"
            )
        for group in self.param_groups:
            self.check_group(group)
        self._check_agreement()
        params = [param for group in self.param_groups for param in _params(group)]
        objective = Objective(params, closure)
        loss, here = objective.evaluate()
        if here.grad.numel() == 0:
            return loss
        state = self.state[params[0]]
        direction = state.get("d")
        if direction is not None and direction.shape != here.grad.shape:
            state.clear()  # A group was taken out.
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        state["func_evals"] += 1
        if not here.is_finite:
            _warn(
                "the loss or its gradient is not finite where the step begins, so "
                "nothing was changed: the cause is in the parameters or the data"
            )
        elif here.largest > self.param_groups[0]["tolerance_grad"]:
            method = _Method.of(self.param_groups, objective, here.grad)
            if not _minimize(method, here, state):
                _warn(
                    "a move led to where the loss or its gradient is not finite, and "
                    "all after the lowest loss of this step was taken back: try a "
                    "smaller lr, or line_search_fn='strong_wolfe'"
                )
        return loss


def _warn(problem: str) -> None:
    warnings.warn(f"LBFGS: {problem}", RuntimeWarning, stacklevel=6)


@dataclass(frozen=True, eq=False)
class _Method:
    r"""What a step works with.

    Attributes:
        objective: the loss.
        group: the hyperparameters, of which ``lr`` is the largest of all groups.
        ratios: the diagonal of :math:`R`, or None where it is 1.
    """

    objective: Objective
    group: Group
    ratios: Tensor | None

    @classmethod
    def of(cls, groups: list[Group], objective: Objective, like: Tensor) -> _Method:
        """The method for several groups, with vectors like the given one."""
        group = max(groups, key=lambda group: float(group["lr"]))
        largest = float(group["lr"])
        if all(float(other["lr"]) == largest for other in groups):
            return cls(objective, group, None)
        ratios = [
            like.new_full((_size(other),), float(other["lr"]) / largest)
            for other in groups
        ]
        return cls(objective, group, torch.cat(ratios))

    def scaled(self, vector: Tensor) -> Tensor:
        """The product of :math:`R` and a vector."""
        return vector if self.ratios is None else vector * self.ratios

    def in_units(self, grad: Tensor) -> Tensor:
        """A gradient by the parameters as they are measured."""
        return grad if self.ratios is None else grad * self.ratios.sqrt()

    def moving(self, vector: Tensor) -> Tensor:
        """A vector without what belongs to groups that stand still."""
        return vector if self.ratios is None else vector * self.ratios.sign()


def _minimize(method: _Method, here: Iterate, state: State) -> bool:
    """Iterate, and go back to the best place when that is broken off.

    Returns:
        Whether all was finite.
    """
    best = reached = here
    latest: State = {}
    try:
        for done, reached in _iterations(method, here, state):
            latest = done
            if reached.loss < best.loss:
                best = reached
    except BaseException:
        method.objective.put(best.place)
        if best is not reached:
            latest["n_iter"] = 0
        raise
    finally:
        state.update(latest)
    finite = bool(state["n_iter"] > 0)
    if not finite:
        method.objective.put(best.place)
    return finite


def _iterations(
    method: _Method, here: Iterate, state: State
) -> Iterator[tuple[State, Iterate]]:
    """Iterate until a limit is reached (Nocedal & Wright, algorithm 7.5).

    Yields:
        The state after each iteration, and the last place that was evaluated. If that
        is not finite, ``n_iter`` is 0: the next iteration begins with an empty history.
    """
    objective, group = method.objective, method.group
    iterations, evaluations = 0, 1
    while True:
        iterations += 1
        plan = _next_direction(method, here, state)
        direction, t = plan["d"], plan["t"]
        slope = here.grad.dot(direction).cpu()
        if slope > -group["tolerance_change"]:
            yield plan, here
            return
        last = iterations >= group["max_iter"]
        if not slope.isfinite():
            yield state | {"n_iter": 0}, here
            return
        if group["line_search_fn"] is not None:
            budget = group["max_eval"] - evaluations
            there, calls = objective.search(t, direction, here, slope, budget)
        elif last:
            # Nobody asks for the loss there: the next step may see other data.
            objective.move(t, direction)
            yield plan, here
            return
        else:
            there, calls = objective.jump(t, direction), 1
        evaluations += calls
        plan["func_evals"] += calls
        if not there.is_finite:
            yield state | {"n_iter": 0, "func_evals": plan["func_evals"]}, here
            return
        state = plan | {"t": there.t}
        yield state, there
        if last or evaluations >= group["max_eval"]:
            return
        if _converged(here, there, direction, group):
            return
        here = there


def _converged(here: Iterate, there: Iterate, direction: Tensor, group: Group) -> bool:
    tolerance = group["tolerance_change"]
    return bool(
        there.largest <= group["tolerance_grad"]
        or direction.abs().max() * float(there.t) <= tolerance
        or abs(there.loss - here.loss) < tolerance
    )


def _next_direction(method: _Method, here: Iterate, state: State) -> State:
    """The direction and the step length to try: the state to be if the step is made."""
    group = method.group
    lr = _as_it_is(group["lr"])
    counts = {"n_iter": state["n_iter"] + 1, "func_evals": state["func_evals"]}
    origin = {"prev_flat_grad": here.grad, "prev_loss": here.loss}
    if state["n_iter"] == 0:
        # The curvature is not known. The changes of all parameters sum to lr at most.
        direction = method.scaled(here.grad.neg())
        shrink = 1.0 / method.in_units(here.grad).abs().sum().cpu()
        t = (shrink if shrink < 1.0 else 1.0) * lr
        empty = _History([], [], [], 1)
        return counts | {"d": direction, "t": t} | vars(empty) | origin
    history = _History(*(state[name] for name in _History.__dataclass_fields__))
    y = here.grad - state["prev_flat_grad"]
    s = state["d"] * state["t"]
    history = history.extended(y, s, method)
    product, alphas = _two_loops(method.moving(here.grad.neg()), history, method)
    al = alphas + [None] * (group["history_size"] - len(alphas))
    found = {"al": al, "d": method.moving(product), "t": lr}
    return counts | found | vars(history) | origin


def _as_it_is(lr: float | Tensor) -> float | Tensor:
    """The learning rate of now: schedulers change a tensor in place."""
    return lr.detach().reshape(()).cpu().clone() if isinstance(lr, Tensor) else lr


@dataclass(frozen=True, eq=False)
class _History:
    r"""The last steps, oldest first, by the names that they have in the state.

    Attributes:
        old_dirs: :math:`y`, the changes of the gradient.
        old_stps: :math:`s`, the steps.
        ro: :math:`\rho = 1 / y^T s`.
        H_diag: :math:`h`: the matrix begins as :math:`h R`, with the inverse of the
            curvature along the last step.
    """

    old_dirs: list[Tensor]
    old_stps: list[Tensor]
    ro: list[Tensor]
    H_diag: float | Tensor

    def extended(self, y: Tensor, s: Tensor, method: _Method) -> _History:
        """With one more step, and the oldest forgotten if they are too many.

        A step along which the loss is not convex is left out: with it, the matrix would
        not be positive definite, and the direction might not descend. Likewise one that
        tells nothing of the groups that move now.
        """
        ys, yy = y.dot(s), y.dot(method.scaled(y))
        if not ys > 1e-10 or (method.ratios is not None and not yy > 0):
            return self
        size = method.group["history_size"]
        return _History(
            [*self.old_dirs, y][-size:],
            [*self.old_stps, s][-size:],
            [*self.ro, 1.0 / ys][-size:],
            ys / yy,
        )


def _two_loops(
    vector: Tensor, history: _History, method: _Method
) -> tuple[Tensor, list[Tensor]]:
    r"""The product of :math:`H` and a vector, and the :math:`\alpha` (algorithm 7.4).

    The first loop applies the right factors :math:`I - \rho y s^T`, newest first; the
    second the left ones on the way back, and adds the terms :math:`\rho s s^T`.
    """
    pairs = list(zip(history.old_dirs, history.old_stps, history.ro, strict=True))
    alphas = []
    q = vector.clone()
    for y, s, rho in reversed(pairs):
        alpha = s.dot(q) * rho
        _add_multiple(q, y, alpha, sign=-1)
        alphas.append(alpha)
    alphas.reverse()
    r = method.scaled(q) * history.H_diag
    for (y, s, rho), alpha in zip(pairs, alphas, strict=True):
        beta = y.dot(r) * rho
        _add_multiple(r, s, alpha - beta)
    return r, alphas


def _add_multiple(total: Tensor, vector: Tensor, factor: Tensor, sign: int = 1) -> None:
    if total.is_cpu:
        total.add_(vector, alpha=sign * factor.item())
    else:
        # The factor stays on the device, and nothing waits for it.
        total.addcmul_(vector, factor, value=sign)


def _size(group: Group) -> int:
    """How many real numbers the parameters of a group have."""
    return sum(param.numel() * (1 + param.is_complex()) for param in _params(group))


def _params(group: Group) -> list[Tensor]:
    """The parameters of a group, each once."""
    return list(dict.fromkeys(group["params"]))
