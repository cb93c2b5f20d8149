"""FSDP2: two processes, each with half of every parameter, gradient and state."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_

import polyak
from tests.integration.harness import (
    OPTIMIZERS,
    POLYAK,
    TORCH,
    Run,
    batches,
    build,
    check,
    loss_of,
    network,
    same,
)
from tests.integration.processes import in_two_processes, mean_of, part_of

LIMIT = 0.1


def whole(value):
    """A tensor with the parts of all processes."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def train(library, name, clip=False, **arguments):
    """A run, sharded where there are several processes."""
    model, run = network(bias=name != "Muon"), Run()
    if dist.is_initialized():
        for layer in (model[0], model[2], model):
            fully_shard(layer)
    optimizer = build(library, name, model.parameters(), **arguments)
    scheduler = polyak.lr_scheduler.LinearLR(optimizer, 0.2, total_iters=6)
    for batch in batches(12):
        optimizer.zero_grad()
        loss = loss_of(model, part_of(batch))
        loss.backward()
        if clip:
            clip_grad_norm_(model.parameters(), LIMIT)
        optimizer.step()
        scheduler.step()
        run.note(mean_of(loss), optimizer)
    run.finish(model, optimizer)
    run.weights = [whole(weight) for weight in run.weights]
    run.state = [{k: whole(v) for k, v in each.items()} for each in run.state]
    return run


def test_two_processes_are_one():
    """Their parts together are the run that saw whole batches."""
    calls = [
        (library, name, clip)
        for name in OPTIMIZERS
        for clip in (False, True)
        for library in (TORCH, POLYAK)
    ]
    for (_, *call), ranks in zip(calls, in_two_processes(train, calls), strict=True):
        alone = check(train, *call)
        for rank in ranks:
            same(rank, alone)


# L-BFGS needs parameters that split evenly, and no gradients here are sparse.
RULES = {
    name: {}
    for name in polyak.optimizers.all_optimizers()
    if name not in ("LBFGS", "SparseAdam")
}
STAGES = {
    "clip_grad_norm": {"clip_grad_norm": LIMIT},
    "clip_grad_value": {"clip_grad_value": 0.01},
    "ema_decay": {"ema_decay": 0.9},
}


def train_ours(name, arguments):
    """A run of polyak's."""
    return train(POLYAK, name, **arguments)


def test_every_rule_and_stage():
    """Adafactor and Rprop too, which torch's cannot do."""
    calls = [*RULES.items(), *[("AdamW", stage) for stage in STAGES.values()]]
    results = in_two_processes(train_ours, calls)
    for call, ranks in zip(calls, results, strict=True):
        alone = train_ours(*call)
        # Muon multiplies matrices in bfloat16, and their parts sum up otherwise.
        tolerance = {"atol": 1e-2, "rtol": 1e-2} if call[0] == "Muon" else {}
        for rank in ranks:
            same(rank, alone, **tolerance)


def test_a_limit_is_of_the_whole_gradient():
    """``clip_grad_norm=`` in the step is torch's function before it."""
    clipped = train(POLYAK, "AdamW", clip=True)
    same(train_ours("AdamW", STAGES["clip_grad_norm"]), clipped)
    with pytest.raises(AssertionError):
        same(train(POLYAK, "AdamW"), clipped)


def with_a_nan(nonfinite):
    """Three steps, in the second of which one process has a gradient with a NaN."""
    model = network()
    for layer in (model[0], model[2], model):
        fully_shard(layer)
    optimizer = polyak.SGD(model.parameters(), lr=0.1, nonfinite=nonfinite)
    errors = []
    for step, batch in enumerate(batches(3)):
        optimizer.zero_grad()
        loss_of(model, part_of(batch)).backward()
        if step == 1 and dist.get_rank() == 0:
            model[2].weight.grad.to_local()[0, 0] = float("nan")
        try:
            optimizer.step()
        except RuntimeError as error:
            errors.append(str(error))
    weights = [whole(param.detach()) for param in model.parameters()]
    return optimizer.steps, optimizer.skipped_steps, errors, weights


def test_one_process_with_a_nan():
    """All leave the step out, or raise the same error."""
    skipped, raised = in_two_processes(with_a_nan, [("skip",), ("raise",)])
    for one, other in (skipped, raised):
        assert one[:3] == other[:3]
        torch.testing.assert_close(one[3], other[3], rtol=0, atol=0)
        assert all(weight.isfinite().all() for weight in one[3])
    assert skipped[0][:3] == (2, 1, [])
    assert raised[0][:2] == (2, 0)
    assert "the gradient of parameter 2 is not finite" in raised[0][2][0]
    torch.testing.assert_close(skipped[0][3], raised[0][3], rtol=0, atol=0)


def averaged(keeper):
    """The average of the weights in a run, by the optimizer or beside it."""
    model = network()
    if dist.is_initialized():
        for layer in (model[0], model[2], model):
            fully_shard(layer)
    optimizer = polyak.AdamW(model.parameters(), lr=0.01, ema_decay=0.9)
    beside = polyak.swa_utils.WeightAverage(model, decay=0.9)
    for batch in batches(6):
        optimizer.zero_grad()
        loss_of(model, part_of(batch)).backward()
        optimizer.step()
        beside.update()
    last = [whole(param.detach()).clone() for param in model.parameters()]
    with (optimizer if keeper == "optimizer" else beside).swapped():
        average = [whole(param.detach()).clone() for param in model.parameters()]
    assert not any(map(torch.equal, average, last))
    return average


def test_averages():
    """Without a copy of the model, which FSDP2 does not allow."""
    calls = [("optimizer",), ("beside",)]
    results = in_two_processes(averaged, calls)
    for call, ranks in zip(calls, results, strict=True):
        alone = averaged(*call)
        for average in ranks:
            torch.testing.assert_close(average, alone)
