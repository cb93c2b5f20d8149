"""Parameters and groups that come, go and change places between steps."""

import torch

from .support import compared


@compared()
def test_a_parameter_is_replaced(run):
    """group["params"][i] = p: the new one has a state of its own."""
    run.steps()
    run.params[1] = run.groups[0]["params"][1] = torch.ones(7, requires_grad=True)
    run.steps()
    assert float(run.state(1).get("step", 2)) == 2


@compared()
def test_a_parameter_is_replaced_by_a_larger_one(run):
    """Nothing of the old one's size is kept."""
    run.steps()
    run.params[1] = run.groups[0]["params"][1] = torch.ones(70, requires_grad=True)
    run.steps()


@compared()
def test_the_list_is_another_one(run):
    """group["params"] = [...]: as long, longer, shorter, and in another order."""
    run.steps()
    a, b, c = run.params
    d = torch.ones(5, requires_grad=True)
    for params in ([a, d, c], [a, b, c, d], [c, a], [a, c], [a, b, c]):
        run.groups[0]["params"] = params
        run.params = [*params, *(p for p in (a, b, c, d) if p not in set(params))]
        run.steps()


@compared()
def test_the_list_is_changed_in_place(run):
    """append, pop, insert, reverse."""
    run.steps()
    params = run.groups[0]["params"]
    params.append(torch.ones(5, requires_grad=True))
    run.params.append(params[-1])
    run.steps()
    params.insert(0, params.pop())
    run.steps()
    params.reverse()
    run.steps()
    params.pop()
    run.steps()
    params.clear()
    run.step("")


@compared()
def test_a_parameter_moves_to_another_group(run):
    """It gets that group's hyperparameters and keeps its state."""
    extra = torch.ones(3, requires_grad=True)
    run.optimizer.add_param_group({"params": [extra], "lr": 0.01})
    run.params.append(extra)
    run.steps()
    first, second = (group["params"] for group in run.groups)
    second.insert(0, first.pop())  # the order of all parameters is as before
    run.steps()
    second.append(first.pop(0))
    run.steps()


@compared()
def test_groups_are_added(run):
    """Unfreezing layers in the middle of training."""
    run.steps()
    for lr in (0.5, 0.1):
        param = torch.ones(7, requires_grad=True)
        run.optimizer.add_param_group({"params": [param], "lr": lr})
        run.params.append(param)
        run.steps()
    if run.engine == "kernel":
        assert len(run.optimizer._plan.buckets) == 1


@compared()
def test_groups_are_removed_and_reordered(run):
    """param_groups is a list, and may be changed and replaced like one."""
    for lr in (0.5, 0.01):
        run.params.append(torch.ones(7, requires_grad=True))
        run.optimizer.add_param_group({"params": [run.params[-1]], "lr": lr})
    run.steps()
    run.groups.reverse()
    run.steps()
    run.groups[0], run.groups[1] = run.groups[1], run.groups[0]
    run.steps()
    run.groups.pop()
    run.steps()
    run.optimizer.param_groups = [dict(group) for group in run.groups[::-1]]
    run.steps()


@compared()
def test_groups_exchange_their_parameters(run):
    """Lists of one length."""
    run.params.append(torch.ones(3, requires_grad=True))
    run.optimizer.add_param_group({"params": [run.params[-1]] * 1, "lr": 0.5})
    run.groups[0]["params"] = run.params[:1]
    run.steps()
    first, second = run.groups
    first["params"], second["params"] = second["params"], first["params"]
    run.steps()
    first["lr"], second["lr"] = second["lr"], first["lr"]
    run.steps()
