"""Whatever is done to an optimizer, in any order: as torch, or as the eager engine."""

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .support import HYPERPARAMETERS, Run, assert_close, state_of


def four():
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (7,), (7,), ()]
    return [
        torch.randn(shape, generator=generator).requires_grad_() for shape in shapes
    ]


def values(run, param, low=-1.0):
    """Numbers that differ from action to action, the same in every run."""
    start = low + 0.01 * (run.count % 50)
    return torch.linspace(start, 1.0, max(param.numel(), 2))[: param.numel()].view(
        param.shape
    )


def initialised(run, index):
    return run.slot in run.optimizer.state.get(run.params[index], {})


# Each action takes the run and the index of a parameter.


def move_data(run, index):
    run.params[index].data = run.params[index].data.clone()


def replace_data(run, index):
    run.params[index].data = values(run, run.params[index])


def fill_data(run, index):
    with torch.no_grad():
        run.params[index].copy_(values(run, run.params[index]))


def transpose_data(run, index):
    if run.params[index].dim() == 2 and not initialised(run, index):
        run.params[index].data = run.params[index].data.t().contiguous().t()


def swap_data(run, index):
    torch.utils.swap_tensors(
        run.params[index], values(run, run.params[index]).requires_grad_()
    )


def replace_param(run, index):
    new = values(run, run.params[index]).requires_grad_()
    for group in run.groups:
        group["params"] = [
            new if param is run.params[index] else param for param in group["params"]
        ]
    run.optimizer.state.pop(run.params[index], None)
    run.params[index] = new


def reverse_params(run, index):
    run.groups[0]["params"].reverse()


def move_to_other_group(run, index):
    source, target = run.groups if index % 2 else reversed(run.groups)
    if source["params"]:
        target["params"].insert(0, source["params"].pop())


def exchange_groups(run, index):
    run.groups.reverse()


def replace_slot(run, index):
    if initialised(run, index):
        run.state(index)[run.slot] = values(run, run.params[index], 0.1)


def move_slot(run, index):
    if initialised(run, index):
        slot = run.state(index)[run.slot]
        slot.data = slot.data.clone()


def fill_slot(run, index):
    if initialised(run, index):
        run.state(index)[run.slot].copy_(values(run, run.params[index], 0.1))


def exchange_slots(run, index):
    if initialised(run, 1) and initialised(run, 2):
        a, b = run.state(1), run.state(2)
        a[run.slot], b[run.slot] = b[run.slot], a[run.slot]


def exchange_states(run, index):
    state, (_, a, b, _) = run.optimizer.state, run.params
    if a in state and b in state:
        state[a], state[b] = state[b], state[a]


def delete_state(run, index):
    run.optimizer.state.pop(run.params[index], None)


def clear_state(run, index):
    run.optimizer.state.clear()


def change_step(run, index):
    if "step" in run.optimizer.state.get(run.params[index], {}):
        run.state(index)["step"].fill_(3.0 + run.count % 5)


def replace_step(run, index):
    if "step" in run.optimizer.state.get(run.params[index], {}):
        run.state(index)["step"] = torch.tensor(4.0 + run.count % 5)


def reload(run, index):
    run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))


def change_lr(run, index):
    run.groups[index % 2]["lr"] = 0.01 * (1 + run.count % 7)


def tensor_lr(run, index):
    run.groups[index % 2]["lr"] = torch.tensor(0.01 * (1 + run.count % 7))


def fill_lr(run, index):
    lr = run.groups[index % 2]["lr"]
    if isinstance(lr, torch.Tensor):
        lr.fill_(0.02 * (1 + run.count % 7))


def toggle_weight_decay(run, index):
    group = run.groups[index % 2]
    group["weight_decay"] = 0.1 if not group["weight_decay"] else 0.0


def toggle_maximize(run, index):
    group = run.groups[index % 2]
    group["maximize"] = not group["maximize"]


def toggle_foreach(run, index):
    if run.engine == "kernel":
        group = run.groups[index % 2]
        group["foreach"] = None if group["foreach"] is False else False


def step(run, index):
    run.gradients()
    run.optimizer.step()
    run.record.append(state_of(run.optimizer, run.params))


def step_without_one(run, index):
    run.gradients()
    run.params[index].grad = None
    run.optimizer.step()
    run.record.append(state_of(run.optimizer, run.params))


def step_with_strides(run, index):
    run.gradients()
    run.params[0].grad = run.params[0].grad.t().contiguous().t()
    run.optimizer.step()
    run.record.append(state_of(run.optimizer, run.params))


def step_with_itself(run, index):
    run.gradients()
    run.params[index].grad = run.params[index].data
    run.optimizer.step()
    run.record.append(state_of(run.optimizer, run.params))


def step_lazily(run, index):
    run.gradients()
    run.params[index].grad = torch._neg_view(run.params[index].grad)
    run.optimizer.step()
    run.record.append(state_of(run.optimizer, run.params))


def step_twice(run, index):
    step(run, index)
    run.optimizer.step()
    run.record.append(state_of(run.optimizer, run.params))


CHANGES = [move_data, replace_data, fill_data, transpose_data, swap_data, replace_param]
CHANGES += [reverse_params, move_to_other_group, exchange_groups, replace_slot]
CHANGES += [move_slot, fill_slot, exchange_slots, exchange_states, delete_state]
CHANGES += [clear_state, change_step, replace_step, reload, change_lr, tensor_lr]
CHANGES += [fill_lr, toggle_weight_decay, toggle_maximize, toggle_foreach]
STEPS = [step, step_without_one, step_with_strides, step_with_itself, step_lazily]
STEPS += [step_twice]

moments = st.tuples(
    st.lists(st.sampled_from(CHANGES), max_size=3), st.sampled_from(STEPS)
)
histories = st.lists(st.tuples(moments, st.integers(0, 3)), min_size=2, max_size=8)


@settings(max_examples=80)
@given(histories, st.sampled_from(["Adam", "SGD"]))
def test_any_history(history, kind):
    """Changes of all kinds between steps of all kinds: all tensors agree throughout."""
    records = {}
    for engine in ("kernel", "eager", "torch"):
        run = Run(engine, kind, four(), HYPERPARAMETERS[kind])
        groups = [{"params": run.params[:2]}, {"params": run.params[2:], "lr": 0.05}]
        run.optimizer = run.new_optimizer(groups)
        run.params = list(run.params)
        for (changes, do_step), index in history:
            for change in changes:
                change(run, index)
            do_step(run, index)
        records[engine] = run.record
    assert_close(records["kernel"], records["eager"])
    assert_close(records["kernel"], records["torch"])
