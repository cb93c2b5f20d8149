"""A user's own optimizer: ten lines, fused at once."""

import inspect

import pytest
import torch

import polyak
from polyak import Optimizer, RuleError, Slot, ema
from polyak.engine import torch_abi

from .support import assert_close, engines, parameter, random_gradients, state_of, three


class Lion(Optimizer):
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @staticmethod
    def rule(param, grad, exp_avg, *, lr, betas, weight_decay):
        update = torch.sign(ema(exp_avg, grad, betas[0]))
        param = (1 - lr * weight_decay) * param - lr * update
        return param, ema(exp_avg, grad, betas[1])


class Cooling(Optimizer):
    """A slot that is a number: a temperature that falls with every step."""

    slots = {"heat": Slot(lambda param, group: group["lr"] * 10, number=True)}

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @staticmethod
    def rule(param, grad, heat, *, lr):
        if heat > lr:
            return param - heat * grad, heat * 0.5
        return param - lr * grad, lr


class Smooth(Optimizer):
    """A rule that asks for the first step."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @staticmethod
    def rule(param, grad, mean, *, first, lr):
        mean = grad if first else ema(mean, grad, 0.5)
        return param - lr * mean, mean


class Capped(Optimizer):
    """A slot for some groups only, which begins with ones."""

    slots = {
        "largest": Slot(lambda param, group: torch.ones_like(param), when="capped")
    }

    def __init__(self, params, lr=0.1, capped=True):
        super().__init__(params, dict(lr=lr, capped=capped))

    @staticmethod
    def rule(param, grad, largest=None, *, lr):
        if largest is None:
            return param - lr * grad, None
        largest = torch.maximum(largest, abs(grad))
        return param - lr * grad / largest, largest


class NAG(Optimizer):
    """The step, and slots under any name."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @staticmethod
    def rule(param, grad, n, v, *, step, lr):
        n = n + grad * grad
        v = (1 - 1 / step) * v - lr / step**0.5 * grad / (n.sqrt() + 1e-8)
        return param + v, n, v


OWN = [Lion, Cooling, Smooth, Capped, NAG]


def steps(kind, count=5, **options):
    """The tensors after each step: the parameters, then their state."""
    params, record = three(), []
    optimizer = kind(params, lr=0.05, **options)
    for step in range(count):
        random_gradients(params, step)
        optimizer.step()
        record.append(state_of(optimizer, params))
    return optimizer, record


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_an_own_optimizer_is_fused_at_once(kind, monkeypatch):
    """One kernel for all parameters, which does what the rule says on tensors."""
    optimizer, fused = steps(kind)
    assert engines(optimizer) == "kernel"
    assert len(optimizer._plan.buckets) == 1
    monkeypatch.setattr(torch_abi, "symbols", lambda: None)
    optimizer, eager = steps(kind)
    assert engines(optimizer) == "eager"
    assert_close(fused, eager)


def test_lion_is_the_papers():
    """Against its loop, written by hand."""
    params = three()
    expected = [param.detach().clone() for param in params]
    momenta = [torch.zeros_like(param) for param in expected]
    optimizer = Lion(params, lr=0.1, weight_decay=0.5)
    for step in range(4):
        random_gradients(params, step)
        optimizer.step()
        for param, momentum, source in zip(expected, momenta, params, strict=True):
            update = (0.9 * momentum + 0.1 * source.grad).sign()
            param.mul_(1 - 0.1 * 0.5).sub_(0.1 * update)
            momentum.mul_(0.99).add_(source.grad, alpha=0.01)
    assert_close([param.detach() for param in params], expected)


def test_a_number_is_kept_as_a_tensor():
    """In the state it is 0-d, and goes through a checkpoint."""
    optimizer, _ = steps(Cooling, 3)
    (param, *_) = optimizer.param_groups[0]["params"]
    heat = optimizer.state[param]["heat"]
    assert heat.shape == ()
    assert heat.item() == pytest.approx(0.5 * 0.5**3)
    other = Cooling(three(), lr=0.3)
    other.load_state_dict(optimizer.state_dict())
    assert all(state["heat"] == heat for state in other.state.values())


def test_first_is_the_first_of_each_parameter():
    """A parameter that joins later has a first step of its own."""
    early, late = parameter([0.0]), parameter([0.0])
    optimizer = Smooth([early, late], lr=1.0)
    for grads in ((1.0, None), (3.0, 5.0), (2.0, 7.0)):
        for param, value in zip((early, late), grads, strict=True):
            param.grad = None if value is None else torch.tensor([value])
        optimizer.step()
    assert early.item() == -(1 + 2 + 2)
    assert late.item() == -(5 + 6)


def test_first_in_a_rule_without_slots():
    """The state is new where only the counter is in it, too."""

    class Jump(Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        @staticmethod
        def rule(param, grad, *, first, step):
            return param - (10.0 if first else 1.0) * step * grad

    param = parameter([0.0], [1.0])
    optimizer = Jump([param])
    for expected in (-10, -12, -15):
        optimizer.step()
        assert param.item() == expected


def test_a_slot_for_some_groups():
    """Groups with and without it step together."""
    a, b = parameter([0.0], [4.0]), parameter([0.0], [4.0])
    optimizer = Capped([{"params": [a]}, {"params": [b], "capped": False}], lr=1.0)
    optimizer.step()
    assert (a.item(), b.item()) == (-1.0, -4.0)
    assert "largest" not in optimizer.state.get(b, {})
    assert engines(optimizer) == "kernel"


def test_a_subclass_may_have_another_rule():
    """All else is AdamW's: arguments, bounds, state dicts."""

    class SignedAdamW(polyak.AdamW):
        @staticmethod
        def rule(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq=None, *, lr, betas):
            exp_avg = ema(exp_avg, grad, betas[0])
            return param - lr * exp_avg.sign(), exp_avg, exp_avg_sq, max_exp_avg_sq

    param, twin = parameter([1.0, 2.0], [3.0, -4.0]), parameter([1.0, 2.0], [3.0, -4.0])
    optimizer, usual = SignedAdamW([param], lr=0.5), polyak.AdamW([twin], lr=0.5)
    optimizer.step()
    usual.step()
    assert param.tolist() == [0.5, 2.5]
    assert engines(optimizer) == "kernel"
    assert twin.tolist() != param.tolist()
    with pytest.raises(ValueError, match="SignedAdamW"):
        SignedAdamW([param], lr=-1.0)


def test_a_subclass_may_override_step():
    """It calls the one it overrides; hooks run once, around the outer one."""
    seen = []

    class Halved(polyak.SGD):
        def step(self, closure=None):
            seen.append("begin")
            for group in self.param_groups:
                for param in group["params"]:
                    param.grad *= 0.5
            loss = super().step(closure)
            seen.append("end")
            return loss

    param = parameter([1.0], [2.0])
    optimizer = Halved([param], lr=0.25)
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    optimizer.step()
    assert param.item() == 0.75
    assert seen == ["pre", "begin", "end", "post"]
    assert engines(optimizer) == "kernel"


def test_a_step_without_a_rule_is_the_users_own():
    """A subclass with no rule at all, as L-BFGS is."""

    class Plain(Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.5})

        def step(self, closure=None):
            for param in self.param_groups[0]["params"]:
                param.data -= 0.5 * param.grad

    param = parameter([1.0], [2.0])
    Plain([param]).step()
    assert param.item() == 0.0


def test_no_rule_and_no_step():
    """Says what is missing."""

    class Empty(Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

    with pytest.raises(NotImplementedError, match="Empty has no rule"):
        Empty([parameter([1.0], [1.0])]).step()


def test_two_classes_of_one_name():
    """A notebook's cell run again: the new rule holds, the old one is intact."""

    def make(factor):
        class Mine(Optimizer):
            def __init__(self, params):
                super().__init__(params, {"unused": None})

            @staticmethod
            def rule(param, grad):
                return param - factor * grad

        return Mine

    kinds = [make(0.25), make(0.5), make(0.25)]
    for _ in range(2):
        for kind, factor in zip(kinds, (0.25, 0.5, 0.25), strict=True):
            param = parameter([1.0], [1.0])
            optimizer = kind([param])
            optimizer.step()
            assert param.item() == 1 - factor
            assert engines(optimizer) == "kernel"


def test_one_rule_for_two_classes():
    """A function may be the rule of several classes, with slots made differently."""

    def shared(param, grad, total, *, lr):
        total = total + grad
        return param - lr * total, total

    def make(value):
        class Mine(Optimizer):
            slots = {"total": Slot(lambda param, group: torch.full_like(param, value))}
            rule = staticmethod(shared)

            def __init__(self, params):
                super().__init__(params, {"lr": 1.0})

        return Mine

    for value in (0.0, 5.0):
        param = parameter([0.0], [1.0])
        make(value)([param]).step()
        assert param.item() == -(value + 1)


def test_a_number_for_one_class_and_a_tensor_for_another():
    """What a slot is belongs to the class, not to the rule."""

    def shared(param, grad, scale):
        return param - scale * grad, scale * 2

    def make(number):
        def init(param, group):
            return 3.0 if number else torch.full_like(param, 3.0)

        class Mine(Optimizer):
            slots = {"scale": Slot(init, number=number)}
            rule = staticmethod(shared)

            def __init__(self, params):
                super().__init__(params, {})

        return Mine

    for number in (True, False, True):
        param = parameter([0.0, 0.0], [1.0, 1.0])
        optimizer = make(number)([param])
        optimizer.step()
        optimizer.step()
        assert param.tolist() == [-9.0, -9.0]
        assert optimizer.state[param]["scale"].dim() == (0 if number else 1)


# Rules without source

CELL = """
class Mine(Optimizer):
    def __init__(self, params):
        super().__init__(params, dict(lr=0.5))

    @staticmethod
    def rule(param, grad, *, lr):
        {body}
"""


def in_a_repl(body):
    """A class as a REPL makes it: there is no file with its source."""
    namespace = {"Optimizer": Optimizer, "torch": torch, "__name__": "__main__"}
    exec(compile(CELL.format(body=body), "<stdin>", "exec"), namespace)
    with pytest.raises(OSError, match="source"):
        inspect.getsource(namespace["Mine"].rule)
    return namespace["Mine"]


def test_a_rule_in_a_repl_is_fused():
    """Rules are run, not parsed: no source is needed."""
    param = parameter([1.0], [1.0])
    optimizer = in_a_repl("return param - lr * grad")([param])
    optimizer.step()
    assert param.item() == 0.5
    assert engines(optimizer) == "kernel"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("return param if grad > 0 else grad", "branches on a tensor"),
        ("return param - grad.sort()", "uses sort"),
        ("return param, grad", "returns 2 values"),
        ("param += grad; return param", "mutates"),
    ],
)
def test_errors_in_a_repl_are_readable(body, what):
    """Without the line's text: its number, what is wrong and the remedy."""
    with pytest.raises(RuleError, match=what) as error:
        in_a_repl(body)([parameter([1.0], [1.0])]).step()
    message = str(error.value)
    assert "``" not in message
    assert "<stdin>" in message
    assert "line " in message
    assert "Remedy: " in message
