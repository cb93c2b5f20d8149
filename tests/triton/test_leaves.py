"""Rules with leaves: kernels around them, and what a wave of stacks is."""

import copy

import pytest
import torch

import polyak
from polyak.engine.triton import bucket as buckets
from polyak.engine.triton.live import LiveBucket
from tests.contract.comparison import assert_same_training
from tests.contract.harness import argument_sets, case_of, make, ours, parameters
from tests.contract.harness import give_gradients as contract_gradients
from tests.engine.support import probe, state_of

from .support import give_gradients, in_kernels, made, pair, params_of, steps_alike

SHAPES = ((3, 4), (4, 3), (0, 2), (3, 4), (40, 30), (2, 3, 2), (40, 30))


@polyak.leaf
def unit(x):
    """x over its norm, which is that of one parameter."""
    return x / torch.linalg.vector_norm(x).clamp(min=1e-6)


@polyak.leaf
def rows(x, weight, *, bias=0.0):
    """A value for each row."""
    return weight * x.sum(-1, keepdim=True) + bias


@polyak.leaf(batched=True)
def flipped(x):
    return x.flip(1)


@polyak.leaf
def gram(x):
    """No tensor of a parameter's shape: it goes to another leaf."""
    return x.flatten(1) @ x.flatten(1).mT


@polyak.leaf
def times(matrix, x):
    return (matrix @ x.flatten(1)).view_as(x)


def one(param, grad, buffer, *, lr, momentum):
    buffer = momentum * buffer + grad
    return param - lr * unit(buffer), buffer


def two(param, grad, *, lr, momentum):
    return param - lr * unit(grad) * rows(param, lr, bias=1 - momentum)


def nested(param, grad, buffer, *, lr, momentum):
    buffer = momentum * buffer + unit(2 * grad)
    return param - lr * flipped(buffer + param) + unit(param), buffer


def handed_on(param, grad, *, lr, momentum):
    return param - lr * times(gram(grad), momentum * grad)


def counted(param, grad, buffer, *, step, lr, momentum):
    buffer = momentum * buffer + unit(grad) / step
    return param - lr * flipped(buffer), buffer


RULES = (one, two, nested, handed_on, counted)
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str
)


def optimizer_of(rule, dtype=torch.float32, **more):
    """In two groups with rates of their own."""
    params = made(dtype, SHAPES)
    groups = [{"params": params[:4]}, {"params": params[4:], "lr": 0.02}]
    return probe(rule)(groups, lr=0.1, momentum=0.9, **more)


def slower(optimizer, step):
    if step == 2:
        optimizer.param_groups[1]["lr"] *= 0.5


@every_rule
@every_dtype
def test_rules_with_leaves(rule, dtype):
    """Shapes and groups in one bucket; what leaves take may be scalars, too."""
    fused = steps_alike(lambda: optimizer_of(rule, dtype), between=slower, ulps=16)
    assert len(fused._plan.buckets) == 1


@every_rule
def test_waves_are_as_one(rule, monkeypatch):
    """However many stacks there are in a wave."""
    monkeypatch.setattr(buckets, "TOGETHER", 100)
    fused = steps_alike(lambda: optimizer_of(rule, maximize=True), ulps=16)
    (bucket,) = fused._plan.buckets
    assert len(bucket._around.waves) > 3


@every_rule
def test_scalars_on_the_device(rule):
    """The step counter, where no leaf takes what is made of it."""
    steps_alike(
        lambda: optimizer_of(rule, capturable=True),
        between=slower,
        ulps=16,
        kind=LiveBucket if rule is counted else buckets.TritonBucket,
    )


@pytest.mark.parametrize("arguments", argument_sets("Muon").items(), ids=lambda a: a[0])
def test_muon(arguments):
    """All that the contracts ask of it, and torch's results by way of theirs."""
    layouts = ("matrix", "transposed", "empty", "images")
    fused, eager = pair(
        lambda: make(ours("Muon"), parameters("Muon", layouts), arguments[1])
    )
    scales = {}
    for step in range(3):
        for optimizer in (fused, eager):
            contract_gradients("Muon", params_of(optimizer), step)
            optimizer.step()
        ulps = case_of("Muon").ulps * (step + 1)
        assert_same_training(fused, eager, ulps, scales)
    assert fused._plan.buckets


@pytest.mark.parametrize(
    "arguments",
    [
        {"ema_decay": 0.9},
        {"clip_grad_norm": 0.5},
        {"clip_grad_value": 0.3, "nonfinite": "skip"},
        {"lr": torch.tensor(0.1)},
    ],
    ids=str,
)
def test_stages_and_tensors_go_with_muon(arguments):
    kind = buckets.TritonBucket if "ema_decay" in arguments else LiveBucket
    steps_alike(
        lambda: polyak.Muon(made(sizes=SHAPES), **copy.deepcopy(arguments)),
        kind=kind,
        ulps=64,
    )


# What is launched


def launched(optimizer, monkeypatch):
    """The names of the kernels that a step launches, in order."""
    seen = []
    (bucket,) = optimizer._plan.buckets
    kernels, run = (*bucket.kernel.before, bucket.kernel), bucket._run_region

    def noted(region, wave, memory):
        seen.append(kernels[region].name)
        run(region, wave, memory)

    monkeypatch.setattr(bucket, "_run_region", noted)
    return seen


def test_one_launch_a_region(monkeypatch):
    """For all stacks together, with their leaves between."""
    optimizer = optimizer_of(nested)
    give_gradients(params_of(optimizer), 0)
    optimizer.step()
    seen = launched(optimizer, monkeypatch)
    give_gradients(params_of(optimizer), 1)
    optimizer.step()
    assert seen == ["probe_region0", "probe_region1", "probe_region2"]


def test_waves_are_bounded(monkeypatch):
    """As much memory as some stacks take; a larger parameter is alone."""
    monkeypatch.setattr(buckets, "TOGETHER", 4 * 1300)
    optimizer = polyak.Muon(made(sizes=SHAPES))
    give_gradients(params_of(optimizer), 0)
    optimizer.step()
    (bucket,) = optimizer._plan.buckets
    sizes = [sum(wave.sizes) for wave in bucket._around.waves]
    assert sum(sizes) == sum(param.numel() for param in params_of(optimizer))
    assert len(sizes) > 1
    assert max(sizes) <= 1300


def test_chunks_are_those_of_a_wave(monkeypatch):
    """Each has its own part of the wave's memory; they are as many as serve a wave."""
    monkeypatch.setattr(buckets, "TOGETHER", 4 * 3000)
    optimizer = polyak.Muon(made(sizes=[(40, 30)] * 5))
    give_gradients(params_of(optimizer), 0)
    optimizer.step()
    (bucket,) = optimizer._plan.buckets
    records = bucket.work.words
    assert [wave.sizes for wave in bucket._around.waves] == [[2400], [2400], [1200]]
    assert records[:, 2].tolist() == [0, 1024, 1200, 2224] * 2 + [0, 1024]


def test_what_a_leaf_gives_may_begin_anywhere():
    """Kernels move 16 bytes at a time only where all memory is aligned."""

    @polyak.leaf(batched=True)
    def shifted(x):
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)

    def rule(param, grad, *, lr):
        return param - lr * shifted(grad)

    steps_alike(lambda: probe(rule)(made(sizes=[(5000,)]), lr=0.1))


def test_explain_shows_each_region():
    (kernel,) = polyak.explain(optimizer_of(two)).kernels
    text = kernel.listing
    assert text.count("@triton.jit") == 4
    assert "# unit0 = unit(unit0_in0)\n" in text
    assert "# rows1 = rows(rows1_in0, lr, bias=1.0 - momentum)\n" in text
    before, after = text.split("# Probe.region1: ")
    assert "param_at" in before  # for it is what a leaf takes
    assert "momentum" not in after


def test_what_no_leaf_takes_is_not_read():
    (kernel,) = polyak.explain(polyak.Muon(made(sizes=[(3, 4)]))).kernels
    (first,) = kernel.before
    assert "param_at" not in first.source
    assert first.rooms == ("orthogonalized0_in0",)
    assert kernel.rooms == ("orthogonalized0",)


# What is refused


def test_a_leaf_that_takes_a_number_on_the_device():
    """It would be a tensor to it, or be waited for."""

    def rule(param, grad, *, step, lr):
        return param - lr * rows(grad, 1 / step)

    params = made(sizes=SHAPES[:2])
    optimizer = probe(rule)(params, lr=0.1, capturable=True)
    give_gradients(params, 0)
    optimizer.step()
    (why,) = {entry.reason for entry in optimizer._plan.eager}
    assert why == "a leaf takes what is made of step, which is on the device"
    steps_alike(lambda: probe(rule)(made(sizes=SHAPES[:2]), lr=0.1), ulps=16)


def test_leaves_with_sums_run_eagerly():
    def rule(param, grad, *, lr):
        return param - lr * unit(grad / grad.norm())

    (served,) = polyak.explain(probe(rule)(made(sizes=[(3, 4)]), lr=0.1)).served
    assert served.why == "the rule calls unit, a leaf, and takes sums"


def test_a_result_of_another_shape():
    @polyak.leaf
    def halved(x):
        return x[:1, :2]

    def rule(param, grad, *, lr):
        return param - lr * halved(grad)

    params = made(sizes=[(3, 4), (3, 4)])
    before = [param.detach().clone() for param in params]
    give_gradients(params, 0)
    with pytest.raises(
        RuntimeError, match=r"halved gave a tensor of shape \(2, 1, 2\)"
    ):
        probe(rule)(params, lr=0.1).step()
    assert all(map(torch.equal, params, before))


# Errors


class Faulty:
    """A leaf that fails at the shape that it is told of."""

    shape = None

    def optimizer(self, params, **more):
        @polyak.leaf
        def faulty(x):
            if x.shape == self.shape:
                raise torch.linalg.LinAlgError("singular")
            return x

        def rule(param, grad, buffer, *, step, lr):
            buffer = buffer + faulty(grad) * step
            return param - lr * faulty(buffer), buffer

        return probe(rule)(params, lr=0.1, **more)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("together", [48, 2**20])
def test_a_wave_whose_leaf_fails_is_as_before(monkeypatch, capturable, together):
    """Waves before it have taken the step, whole; those after it have not begun.

    And the next step goes on from there.
    """
    monkeypatch.setattr(buckets, "TOGETHER", together)
    done = 2 if together == 48 else 0
    shapes = [(2, 2), (2, 2), (3, 3), (3, 3), (4, 4)]
    params, expected = made(sizes=shapes), made(sizes=shapes)
    leaf = Faulty()
    optimizer = leaf.optimizer(params, capturable=capturable)
    reference = Faulty().optimizer(expected, foreach=False)
    for each, tensors in ((optimizer, params), (reference, expected)):
        give_gradients(tensors, 0)
        each.step()
    before = state_of(optimizer, params)
    leaf.shape = (3, 3)
    give_gradients(params, 1)
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        optimizer.step()
    steps = [int(optimizer.state[param]["step"]) for param in params]
    assert steps == [2] * done + [1] * (5 - done)
    kept = state_of(optimizer, params)
    for index, param in enumerate(params):
        assert torch.equal(kept[index], before[index]) == (index >= done), param.shape
    leaf.shape = None
    give_gradients(expected, 1)
    for param in expected[done:]:
        param.grad = None
    reference.step()
    for each, tensors in ((optimizer, params), (reference, expected)):
        give_gradients(tensors, 2)
        each.step()
    in_kernels(optimizer, LiveBucket if capturable else buckets.TritonBucket)
    assert_same_training(optimizer, reference, 8)


@pytest.mark.parametrize("kind", ["nonfinite", "found_inf"])
def test_a_step_that_is_left_out_calls_its_leaves_on_zeros(kind):
    """Nothing of it is kept, and no leaf has to bear a NaN, or what memory holds."""
    seen = []

    @polyak.leaf
    def watched(x):
        seen.append(x.clone())
        return x + 1

    def rule(param, grad, buffer, *, lr):
        return param - lr * watched(grad), buffer + grad

    params = made(sizes=[(3, 4)])
    optimizer = probe(rule)(params, lr=0.1)
    give_gradients(params, 0)
    optimizer.step()
    before = state_of(optimizer, params)
    give_gradients(params, 1)
    if kind == "nonfinite":
        optimizer.nonfinite = "skip"
        params[0].grad[1, 1] = float("nan")
    else:
        optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    in_kernels(optimizer)
    assert not seen[-1].any()
    assert all(map(torch.equal, state_of(optimizer, params), before))
    assert (optimizer.steps, optimizer.skipped_steps) == (1, 1)
    optimizer.found_inf = None
    give_gradients(params, 2)
    optimizer.step()
    assert torch.equal(seen[-1], params[0].grad)
    assert not torch.equal(params[0], before[0])


# Graphs


def captured(optimizer, monkeypatch):
    """The optimizer's only bucket, in a step that a graph captures."""
    monkeypatch.setattr(buckets, "capturing", lambda device: True)
    optimizer.step()
    monkeypatch.setattr(buckets, "capturing", lambda device: False)
    (bucket,) = optimizer._plan.buckets
    return bucket


def test_refresh_sends_numbers_to_replays_of_muon(monkeypatch):
    """Those that kernels read."""
    fused, eager = pair(lambda: polyak.Muon(made(sizes=SHAPES), lr=0.1))
    for optimizer in (fused, eager):
        for step in range(2):
            give_gradients(params_of(optimizer), step)
            optimizer.step()
    bucket = captured(fused, monkeypatch)
    eager.step()
    for lr in (0.05, 0.7):
        for optimizer in (fused, eager):
            optimizer.param_groups[0]["lr"] = lr
        fused.refresh()
        bucket._start()
        eager.step()
        assert_same_training(fused, eager, 64)


@pytest.mark.parametrize("live", [False, True])
def test_refresh_refuses_numbers_that_a_leaf_takes(live, monkeypatch):
    """The graph has them as they were."""
    lr = torch.tensor(0.1) if live else 0.1
    optimizer = polyak.Muon(made(sizes=SHAPES), lr=lr)
    for step in range(2):
        give_gradients(params_of(optimizer), step)
        optimizer.step()
    captured(optimizer, monkeypatch)
    optimizer.refresh()
    optimizer.param_groups[0]["ns_steps"] = 3
    with pytest.raises(RuntimeError, match="Muon: a number that a leaf takes"):
        optimizer.refresh()
