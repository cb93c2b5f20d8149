"""Hyperparameters that change between steps, in every way that Python has."""

import pytest
import torch

import polyak
from polyak import Slot

from .support import Run, compare, compared, engines, parameter, probe, three


@compared()
def test_the_learning_rate_changes(run):
    """To another float, to zero, to an int, and back."""
    for lr in (0.1, 0.05, 0.0, 1, 0.1, 0.1):
        run.groups[0]["lr"] = lr
        run.step()


@compared()
def test_the_learning_rate_becomes_a_tensor(run):
    """A float, a 0-d tensor, another one, and a float again."""
    for lr in (0.1, torch.tensor(0.2), torch.tensor(0.3), 0.1):
        run.groups[0]["lr"] = lr
        run.step()


@compared()
def test_a_tensor_learning_rate_is_filled_in_place(run):
    """Schedulers fill tensors."""
    run.groups[0]["lr"] = torch.tensor(0.1)
    run.steps()
    for lr in (0.2, 0.0, 0.05):
        run.groups[0]["lr"].fill_(lr)
        run.steps()
    run.groups[0]["lr"].data = torch.tensor(0.3)
    run.steps()


@compared("Adam")
def test_a_scheduler_changes_the_learning_rate(run):
    """torch's own, on both libraries' optimizers."""
    scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 2, gamma=0.5)
    for _ in range(5):
        run.step()
        scheduler.step()


@compared()
def test_weight_decay_comes_and_goes(run):
    """The branch in the rule flips, and the old kernel is not used."""
    for weight_decay in (0.0, 0.1, 0.1, 0, 0.2, 0.0):
        run.groups[0]["weight_decay"] = weight_decay
        run.steps()


@compared("SGD")
def test_momentum_comes_and_goes(run):
    """A slot that is made when it is first wanted, and rests when it is not."""
    for momentum in (0, 0.9, 0.5, 0.0, 0.9):
        run.groups[0]["momentum"] = momentum
        run.steps()


@compared("SGD")
def test_nesterov_is_switched(run):
    """A boolean of the rule."""
    for nesterov in (False, True, False):
        run.groups[0]["nesterov"] = nesterov
        run.steps()


@compared("SGD")
def test_dampening_changes(run):
    """A number of the rule that is in no branch."""
    for dampening in (0.0, 0.5, 0.1):
        run.groups[0]["dampening"] = dampening
        run.steps()


@compared("Adam", references=["eager"])
def test_amsgrad_is_switched_on(run):
    """The slot begins with zeros when it is first wanted."""
    for amsgrad in (False, True, False, True):
        run.groups[0]["amsgrad"] = amsgrad
        run.steps()
    assert "max_exp_avg_sq" in run.state()


@compared()
def test_maximize_is_switched(run):
    """Down, up, down."""
    for maximize in (False, True, False):
        run.groups[0]["maximize"] = maximize
        run.steps()


@compared("Adam")
def test_betas_change(run):
    """Another tuple."""
    for betas in ((0.9, 0.999), (0.8, 0.9), (0.0, 0.5)):
        run.groups[0]["betas"] = betas
        run.steps()


@compared("Adam")
def test_a_list_of_betas_changes_in_place(run):
    """The same list with other numbers in it, as loaded from JSON and YAML."""
    run.groups[0]["betas"] = [0.9, 0.999]
    run.steps()
    run.groups[0]["betas"][0] = 0.5
    run.steps()
    run.groups[0]["betas"][:] = (0.6, 0.7)
    run.steps()
    run.groups[0]["betas"] = tuple(run.groups[0]["betas"])
    run.steps()


@compared("Adam", references=["eager"])
def test_tensor_betas_change_in_place(run):
    """A tuple is the same, what is in it is not."""
    run.groups[0]["betas"] = (torch.tensor(0.9), torch.tensor(0.999))
    run.steps()
    run.groups[0]["betas"][0].fill_(0.5)
    run.steps()


def two_groups():
    return [*three(), torch.ones(5, requires_grad=True)]


@compared(params=two_groups)
def test_groups_become_different(run):
    """One group's hyperparameters change, and the other's do not."""
    first, last = run.params[:3], run.params[3:]
    run.optimizer = run.new_optimizer([{"params": first}, {"params": last}])
    run.steps()
    run.groups[0]["lr"] = 0.5
    run.steps()
    run.groups[1]["weight_decay"] = 0.0
    run.steps()
    run.groups[0]["lr"], run.groups[1]["weight_decay"] = 0.1, 0.01
    run.steps()
    run.groups[1]["lr"], run.groups[0]["lr"] = 0.3, 0.2
    run.steps()
    run.groups[0], run.groups[1] = run.groups[1], run.groups[0]
    run.steps()


@compared(params=two_groups)
def test_groups_exchange_their_hyperparameters(run):
    """The same objects in the other group."""
    first, last = run.params[:3], run.params[3:]
    groups = [{"params": first, "lr": 0.5}, {"params": last, "lr": 0.01}]
    run.optimizer = run.new_optimizer(groups)
    run.steps()
    a, b = run.groups
    a["lr"], b["lr"] = b["lr"], a["lr"]
    run.steps()
    a["params"], b["params"] = b["params"], a["params"]
    run.steps()


def test_many_groups_share_one_launch():
    """Hyperparameters are rows of a table, not kernels."""

    def scenario(run):
        run.optimizer = run.new_optimizer(
            [{"params": [p], "lr": 0.001 * (i % 7)} for i, p in enumerate(run.params)]
        )
        run.steps(3)
        for i, group in enumerate(run.groups):
            group["lr"] = 0.002 * (i % 5)
        run.steps(3)
        if run.engine == "kernel":
            assert len(run.optimizer._plan.buckets) == 1

    def hundred():
        return [torch.full((i % 9,), 0.5, requires_grad=True) for i in range(100)]

    compare(scenario, ["Adam", "SGD"], hundred, ["eager", "torch"], {})


@compared(references=["eager"])
def test_engines_are_switched(run):
    """foreach=False runs eagerly, None uses kernels: at any step, for any group."""
    for foreach in (None, False, None):
        run.groups[0]["foreach"] = foreach
        run.steps(2, "kernel" if foreach is None else "eager")


def test_the_eager_engine_follows_as_well():
    """What runs eagerly is affected by every change, too."""

    def scenario(run):
        run.steps(2, "eager")
        run.groups[0]["lr"] = 0.5
        run.steps(2, "eager")
        run.groups[0]["weight_decay"] = 0.0
        run.steps(2, "eager")
        run.groups[0]["maximize"] = True
        run.steps(2, "eager")

    def gaps():
        return [torch.ones(4, 4)[:, ::2].requires_grad_()]

    compare(scenario, ["Adam", "SGD"], gaps, ["eager", "torch"], {})


@pytest.mark.parametrize("foreach", [None, False])
def test_keys_beyond_the_defaults(foreach):
    """A hyperparameter that only groups have is followed like the others."""
    polyak.allow_group_keys("gain")

    def rule(param, grad, *, lr, gain):
        return param - lr * gain * grad

    param = parameter([0.0], [1.0])
    optimizer = probe(rule)([{"params": [param], "gain": 1.0}], lr=1.0, foreach=foreach)
    for gain, expected in ((1.0, -1.0), (5.0, -6.0), (5.0, -11.0), (0.0, -11.0)):
        optimizer.param_groups[0]["gain"] = gain
        optimizer.step()
        assert param.item() == expected


@pytest.mark.parametrize("foreach", [None, False])
def test_a_slot_that_depends_on_a_number(foreach):
    """``when`` may be any function of the group; it is asked before each step."""

    def rule(param, grad, mean=None, *, lr, beta):
        if mean is None:
            return param - lr * grad, None
        mean = beta * mean + grad
        return param - lr * mean, mean

    slots = {"mean": Slot(when=lambda group: group["beta"] > 0.5)}
    param = parameter([0.0], [1.0])
    optimizer = probe(rule, slots)([param], lr=1.0, beta=0.0, foreach=foreach)
    for beta, expected in ((0.0, -1), (0.25, -2), (1.0, -3), (1.0, -5), (0.5, -6)):
        optimizer.param_groups[0]["beta"] = beta
        optimizer.step()
        assert param.item() == expected
        assert ("mean" in optimizer.state[param]) == (expected < -2)
    optimizer.param_groups[0]["beta"] = 1.0
    optimizer.step()
    assert param.item() == -9


def test_nan_hyperparameters():
    """NaN equals nothing, not even itself: it is used, and can be left again."""
    results = []
    for foreach in (None, False):
        param = parameter([1.0], [1.0])
        optimizer = polyak.SGD([param], lr=0.5, foreach=foreach)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = float("nan")
        optimizer.step()
        optimizer.step()
        assert param.isnan()
        param.data.fill_(1.0)
        optimizer.param_groups[0]["lr"] = 0.25
        optimizer.step()
        results.append(param.item())
    assert results == [0.75, 0.75]


def test_a_failing_step_changes_nothing():
    """What the rule cannot compute with is an error before anything is done."""
    run = Run("kernel", "Adam", three(), {"lr": 0.1})
    run.steps()
    for bad in ("0.1", None, (0.9,)):
        before = [tensor.clone() for tensor in run.record[-1]]
        good, run.groups[0]["lr"] = run.groups[0]["lr"], bad
        with pytest.raises((TypeError, ValueError)):
            run.optimizer.step()
        run.groups[0]["lr"] = good
        after = [param.detach() for param in run.params]
        assert all(map(torch.equal, after, before))
        run.step()
    assert engines(run.optimizer) == "kernel"
    assert run.state()["step"] == 5
