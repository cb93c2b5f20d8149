"""Averages of ``ema_decay`` are saved, copied, and put into the model for a while."""

import copy
import io
import pickle

import pytest
import torch
from torch.nn import Parameter, ParameterList

import polyak
from tests.contract.case import LAYOUTS, Case
from tests.contract.comparison import (
    assert_nothing_changed,
    assert_same,
    assert_same_training,
    everything,
)
from tests.contract.harness import (
    DENSE,
    NAMES,
    SMALL,
    advance,
    case_of,
    copies,
    find_case,
    give_gradients,
    make,
    ours,
    parameters,
    params_of,
    reference,
    train,
)

STEPS = 3
DECAY = 0.8
DTYPES = (torch.float32, torch.bfloat16, torch.complex64)

# Every optimizer takes two of them at least.
LABELS = (*SMALL, "transposed")

RULES = [name for name in NAMES if hasattr(ours(name), "rule")]
CASES = {name: find_case(name) or Case() for name in RULES}
every_rule = pytest.mark.parametrize("name", RULES)
every_dtype = pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for n in RULES for d in DTYPES if CASES[n].complex or not d.is_complex],
)


def build(name, held, ema_decay=DECAY):
    """An optimizer; with a decay of None it has no averages."""
    averages = {} if ema_decay is None else {"ema_decay": ema_decay}
    return make(ours(name), held, {**case_of(name).stateful, **averages})


def trained(name, ema_decay=DECAY, layouts=LABELS, dtype=torch.float32):
    """An optimizer after some steps."""
    optimizer = build(name, parameters(name, layouts, dtype), ema_decay)
    train(name, optimizer, params_of(optimizer), range(STEPS))
    return optimizer


def go_on(name, *all_of_them):
    """The next steps."""
    for optimizer in all_of_them:
        train(name, optimizer, params_of(optimizer), range(STEPS, 2 * STEPS))


def averages(optimizer):
    """The average of each parameter."""
    return [optimizer.state[param]["param_ema"] for param in params_of(optimizer)]


def detached(params):
    """What parameters hold, as plain copies."""
    return [param.detach().clone() for param in params]


# Checkpoints


@every_dtype
def test_a_checkpoint_continues_bit_for_bit(name, dtype):
    """Through a file, averages included."""
    source = trained(name, layouts=DENSE, dtype=dtype)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    other = build(name, copies(source), ema_decay=0.1)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same_training(other, source)
    go_on(name, source, other)
    assert_same_training(other, source)
    assert_same(other.state_dict(), source.state_dict())


@every_dtype
def test_without_averages_in_the_checkpoint_they_begin_with_the_weights(name, dtype):
    """As those of an optimizer that was given averages then."""
    source = trained(name, ema_decay=None, dtype=dtype)
    saved = copy.deepcopy(source.state_dict())
    other = build(name, copies(source))
    other.load_state_dict(saved)
    assert not any("param_ema" in state for state in other.state.values())
    source.param_groups[0]["ema_decay"] = DECAY
    go_on(name, source, other)
    assert_same_training(other, source)
    assert all(average is not None for average in averages(other))


@every_rule
def test_averages_that_were_are_gone_after_loading_a_checkpoint_without(name):
    """They were those of another run."""
    other = trained(name)
    other.load_state_dict(trained(name, ema_decay=None).state_dict())
    with pytest.raises(RuntimeError, match="has averaged nothing yet"):
        other.swapped().__enter__()
    began = detached(params_of(other))
    other.param_groups[0]["ema_decay"] = 1.0
    go_on(name, other)
    assert_same(averages(other), began)


@every_dtype
def test_averages_in_the_checkpoint_are_continued(name, dtype):
    """Also by an optimizer that was made without: the decay comes with them."""
    source = trained(name, dtype=dtype)
    other = build(name, copies(source), ema_decay=None)
    other.load_state_dict(source.state_dict())
    assert other.param_groups[0]["ema_decay"] == DECAY
    go_on(name, source, other)
    assert_same_training(other, source)


@every_rule
@pytest.mark.parametrize("ema_decay", [DECAY, None], ids=["averaging", "plain"])
def test_averages_of_another_shape_are_refused(name, ema_decay):
    """And nothing is changed."""
    optimizer = trained(name, ema_decay=ema_decay)
    saved = copy.deepcopy(trained(name).state_dict())
    average = saved["state"][1]["param_ema"]
    saved["state"][1]["param_ema"] = torch.zeros(*average.shape, 2)
    before = everything(optimizer)
    with pytest.raises(ValueError, match=r"has param_ema of shape .* for parameter 1"):
        optimizer.load_state_dict(saved)
    assert_nothing_changed(optimizer, before)


@every_rule
def test_torch_continues_from_a_checkpoint_with_averages(name):
    """As from one without; it keeps the averages and does not advance them."""
    with_averages, without = trained(name), trained(name, ema_decay=None)
    pair = [
        make(reference(name), copies(without), case_of(name).stateful) for _ in "ab"
    ]
    for optimizer, source in zip(pair, (with_averages, without), strict=True):
        # torch would share what it loads.
        optimizer.load_state_dict(copy.deepcopy(source.state_dict()))
    go_on(name, *pair)
    assert_same(params_of(pair[0]), params_of(pair[1]))
    assert_same(averages(pair[0]), averages(with_averages))
    assert pair[0].param_groups[0]["ema_decay"] == DECAY


# Copies


def by_pickle(value):
    return pickle.loads(pickle.dumps(value))


@every_dtype
@pytest.mark.parametrize("way", [copy.deepcopy, by_pickle])
def test_a_copy_continues_bit_for_bit(name, dtype, way):
    """On its own: the original stands still."""
    optimizer = trained(name, layouts=DENSE, dtype=dtype)
    other = way(optimizer)
    assert_same_training(other, optimizer)
    before = everything(optimizer)
    go_on(name, other)
    assert_nothing_changed(optimizer, before)
    go_on(name, optimizer)
    assert_same_training(other, optimizer)


@every_rule
@pytest.mark.parametrize("way", [copy.deepcopy, by_pickle])
def test_a_copy_made_inside_of_swapped_is_free_to_step(name, way):
    """It has the averages for parameters; nobody gives it others back."""
    optimizer = trained(name)
    with optimizer.swapped():
        other = way(optimizer)
    assert_same(detached(params_of(other)), averages(optimizer))
    advance(name, other, params_of(other), STEPS)


# In the model


@every_dtype
def test_swapped_puts_the_averages_in_and_gives_the_weights_back(name, dtype):
    """Rounded to the parameters' dtype, in the same tensors, and in state dicts."""
    optimizer = trained(name, layouts=LAYOUTS, dtype=dtype)
    held = params_of(optimizer)
    model = ParameterList(held)
    with torch.no_grad():  # bits that no arithmetic would give back
        held[0].view(-1)[:2] = torch.tensor([-0.0, float("nan")])
    before = everything(optimizer)
    due = [average.to(dtype).clone() for average in averages(optimizer)]
    due = [torch.empty_like(p).copy_(a) for p, a in zip(held, due, strict=True)]
    with optimizer.swapped():
        assert_same(detached(held), detached(due))
        assert_same(detached(model.state_dict().values()), detached(due))
        assert all(a is b for a, b in zip(params_of(optimizer), held, strict=True))
    assert_nothing_changed(optimizer, before)


@every_rule
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_weights_come_back_after_an_exception(name, error):
    """Whatever it is, and whatever was written into them."""
    optimizer = trained(name)
    before = everything(optimizer)

    def fail():
        with torch.no_grad():
            params_of(optimizer)[0].fill_(7.0)
        raise error

    with pytest.raises(error), optimizer.swapped():
        fail()
    assert_nothing_changed(optimizer, before)
    advance(name, optimizer, params_of(optimizer), STEPS)


@every_rule
def test_swapped_nests(name):
    """The averages stay until the outer block ends, and so does the refusal."""
    optimizer = trained(name)
    before = everything(optimizer)
    with optimizer.swapped():
        with optimizer.swapped():
            assert_same(detached(params_of(optimizer)), averages(optimizer))
        assert_same(detached(params_of(optimizer)), averages(optimizer))
        with pytest.raises(RuntimeError, match="inside swapped"):
            optimizer.step()
    assert_nothing_changed(optimizer, before)


@every_rule
def test_training_continues_after_swapped_as_if_it_had_not_been(name):
    """Bit for bit, and with the plan of the step made anew."""
    plain, swapping = trained(name), trained(name)
    for step in range(STEPS, 2 * STEPS):
        advance(name, plain, params_of(plain), step)
        with swapping.swapped():
            pass
        advance(name, swapping, params_of(swapping), step)
    assert_same_training(swapping, plain)


@every_rule
def test_parameters_without_average_are_left_as_they_are(name):
    """Those that had no gradient yet, and those of groups that keep none."""
    averaged, late, *_ = parameters(name, LABELS)
    other = Parameter(averaged.detach() + 1)
    groups = [{"params": [averaged, late]}, {"params": [other], "ema_decay": None}]
    optimizer = build(name, groups)
    for step in range(2):
        for param in (averaged, other):
            give_gradients(name, [param], step)
        optimizer.step()
    before = detached([late, other])
    with optimizer.swapped():
        assert_same(averaged.detach(), optimizer.state[averaged]["param_ema"])
        assert_same(detached([late, other]), before)
    assert late not in optimizer.state


@every_rule
def test_a_step_inside_of_swapped_is_refused(name):
    """Nothing is changed; after the block it is done."""
    optimizer, control = trained(name), trained(name)
    for each in (optimizer, control):
        give_gradients(name, params_of(each), STEPS)
    with optimizer.swapped():
        before = everything(optimizer)
        words = rf"{name}.step\(\) was called inside swapped\(\)"
        for _ in range(2):
            with pytest.raises(RuntimeError, match=words):
                optimizer.step()
        assert_nothing_changed(optimizer, before)
    for each in (optimizer, control):
        each.step()
    assert_same_training(optimizer, control)


@every_rule
def test_swapped_says_what_is_missing(name):
    """The keyword, or a step."""
    optimizer = trained(name, ema_decay=None)
    words = f"{name} keeps no averages of its parameters: build it with ema_decay="
    with pytest.raises(RuntimeError, match=words), optimizer.swapped():
        pass
    optimizer = build(name, parameters(name, LABELS))
    words = f"{name} has averaged nothing yet: do a step first"
    with pytest.raises(RuntimeError, match=words), optimizer.swapped():
        pass


def test_without_a_rule_swapped_has_nothing_to_put_in():
    """As for any optimizer without averages."""
    optimizer = polyak.LBFGS([Parameter(torch.ones(2))])
    with pytest.raises(RuntimeError, match="LBFGS keeps no averages"):
        optimizer.swapped().__enter__()


def test_a_group_without_decay_keeps_its_weights_in_swapped():
    """Also where it had averages before."""
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in "ab"]
    groups = [{"params": [weight]} for weight in weights]
    optimizer = polyak.SGD(groups, lr=1.0, ema_decay=0.5)
    for decay in (0.5, None):
        optimizer.param_groups[1]["ema_decay"] = decay
        for weight in weights:
            weight.grad = torch.ones(1)
        optimizer.step()
    with optimizer.swapped():
        assert [weight.item() for weight in weights] == [-0.25, -1.0]


def test_a_closure_is_not_called_inside_of_swapped():
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer = polyak.SGD([weight], ema_decay=0.5)
    optimizer.step()
    with optimizer.swapped(), pytest.raises(RuntimeError, match="after the block"):
        optimizer.step(lambda: pytest.fail("called"))
