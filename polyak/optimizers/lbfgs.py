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
from ..linalg import Closure, Iterate, Objective, Point
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
    gradients are made dense, missing ones are zero. All parameters are in one group, on
    one device. The state takes the memory of ``2 * history_size`` copies of them.

    Args:
        params: tensors, (name, tensor) pairs, or one dict that defines the group.
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

    A step to where the loss or its gradient is not finite is taken back and ends the
    call with a warning; the next one begins with an empty history. A line search just
    tries a shorter step. When the closure raises, parameters and state are those of the
    last complete iteration.

    Raises:
        ValueError: a value out of its range, a second parameter group, or the state of
            other parameters or of another order.
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
        if len(self.param_groups) > 1:
            self.param_groups.pop()
            raise ValueError(
                "LBFGS doesn't support per-parameter options (parameter groups): give "
                "it one list of parameters"
            )

    def check_state(self, param: Tensor, label: str, name: str, value: Any) -> None:
        vectors = {"d": [value], "prev_flat_grad": [value]}.get(name, [])
        if name in ("old_dirs", "old_stps"):
            vectors = value or []
        size = sum(
            p.numel() * (1 + p.is_complex()) for p in _params(self.param_groups[0])
        )
        for vector in vectors:
            if vector is not None and vector.shape != (size,):
                raise ValueError(
                    f"loaded state dict has {name} of shape {tuple(vector.shape)} for "
                    f"{label}, where it is {(size,)}, all parameters together. Is it "
                    "the checkpoint of another model? Nothing was loaded."
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
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
        super().load_state_dict(state_dict)

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
        (group,) = self.param_groups
        self.check_group(group)
        params = _params(group)
        objective = Objective(params, closure)
        loss, here = objective.evaluate()
        if here.grad.numel() == 0:
            return loss
        state = self.state[params[0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        state["func_evals"] += 1
        if not here.is_finite:
            _warn(
                "the loss or its gradient is not finite where the step begins, so "
                "nothing was changed: the cause is in the parameters or the data"
            )
        elif here.largest > group["tolerance_grad"]:
            latest: State = {}
            try:
                for done in _iterations(objective, here, group, state):
                    latest = done
            finally:
                state.update(latest)
            if state["n_iter"] == 0:
                _warn(
                    "the last move led to where the loss or its gradient is not "
                    "finite, and was taken back: try a smaller lr, or "
                    "line_search_fn='strong_wolfe'"
                )
        return loss


def _warn(problem: str) -> None:
    warnings.warn(f"LBFGS: {problem}", RuntimeWarning, stacklevel=6)


def _iterations(
    objective: Objective, here: Iterate, group: Group, state: State
) -> Iterator[State]:
    """Iterate until a limit is reached (Nocedal & Wright, algorithm 7.5).

    Yields:
        The state after each iteration. ``n_iter`` is 0 if it found nothing finite: then
        the next iteration begins with an empty history.
    """
    iterations, evaluations = 0, 1
    while True:
        iterations += 1
        plan = _next_direction(here, group, state)
        direction, t = plan["d"], plan["t"]
        slope = here.grad.dot(direction).cpu()
        if slope > -group["tolerance_change"]:
            yield plan
            return
        last = iterations >= group["max_iter"]
        there: Iterate | None
        if not slope.isfinite():
            there, calls = None, 0
        elif group["line_search_fn"] is not None:
            start = Point(0, here.loss, here.grad, slope)
            budget = group["max_eval"] - evaluations
            there, calls = objective.search(t, direction, start, budget)
        elif last:
            # Nobody asks for the loss there: the next step may see other data.
            objective.move(t, direction)
            there, calls = Iterate(here.loss, here.grad, t), 0
        else:
            there, calls = objective.jump(t, direction), 1
        evaluations += calls
        plan["func_evals"] += calls
        if there is None:
            yield state | {"n_iter": 0, "func_evals": plan["func_evals"]}
            return
        state = plan | {"t": there.t}
        yield state
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


def _next_direction(here: Iterate, group: Group, state: State) -> State:
    """The direction and the step length to try: the state to be if the step is made."""
    lr = _as_it_is(group["lr"])
    counts = {"n_iter": state["n_iter"] + 1, "func_evals": state["func_evals"]}
    origin = {"prev_flat_grad": here.grad, "prev_loss": here.loss}
    if state["n_iter"] == 0:
        # The curvature is not known. The changes of all parameters sum to lr at most.
        shrink = 1.0 / here.grad.abs().sum().cpu()
        t = (shrink if shrink < 1.0 else 1.0) * lr
        empty = _History([], [], [], 1)
        return counts | {"d": here.grad.neg(), "t": t} | vars(empty) | origin
    history = _History(*(state[name] for name in _History.__dataclass_fields__))
    y = here.grad - state["prev_flat_grad"]
    s = state["d"] * state["t"]
    history = history.extended(y, s, group["history_size"])
    direction, alphas = _two_loops(here.grad, history)
    al = alphas + [None] * (group["history_size"] - len(alphas))
    return counts | {"al": al, "d": direction, "t": lr} | vars(history) | origin


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
        H_diag: :math:`h`, where the matrix begins: the inverse of the curvature along
            the last step.
    """

    old_dirs: list[Tensor]
    old_stps: list[Tensor]
    ro: list[Tensor]
    H_diag: float | Tensor

    def extended(self, y: Tensor, s: Tensor, size: int) -> _History:
        """With one more step, and the oldest of more than ``size`` forgotten.

        A step along which the loss is not convex is left out: with it, the matrix would
        not be positive definite, and the direction might not descend.
        """
        ys = y.dot(s)
        if not ys > 1e-10:
            return self
        return _History(
            [*self.old_dirs, y][-size:],
            [*self.old_stps, s][-size:],
            [*self.ro, 1.0 / ys][-size:],
            ys / y.dot(y),
        )


def _two_loops(grad: Tensor, history: _History) -> tuple[Tensor, list[Tensor]]:
    r"""The direction :math:`-H \nabla f`, and the :math:`\alpha` (algorithm 7.4).

    The first loop applies the right factors :math:`I - \rho y s^T`, newest first; the
    second the left ones on the way back, and adds the terms :math:`\rho s s^T`.
    """
    pairs = list(zip(history.old_dirs, history.old_stps, history.ro, strict=True))
    alphas = []
    q = grad.neg()
    for y, s, rho in reversed(pairs):
        alpha = s.dot(q) * rho
        _add_multiple(q, y, alpha, sign=-1)
        alphas.append(alpha)
    alphas.reverse()
    r = q * history.H_diag
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


def _params(group: Group) -> list[Tensor]:
    """The parameters of a group, each once."""
    return list(dict.fromkeys(group["params"]))
