"""torch's functional forms: torch's signatures, and torch's steps, in place."""

import inspect
from copy import deepcopy
from importlib import import_module

import pytest
import torch

from polyak.functional import forms
from tests.contract.comparison import assert_same
from tests.contract.harness import (
    NAMES,
    argument_sets,
    case_of,
    give_gradients,
    make,
    ours,
    parameters,
    params_of,
)

STEPS = 4
FORMS = forms.all_forms()
KINDS = {ours(name).__module__.rpartition(".")[2]: name for name in NAMES}
# Where torch's classes look their functions up.
HOMES = {
    "adafactor": "torch.optim._adafactor",
    "adamw": "torch.optim.adam",
    "muon": "torch.optim._muon",
    "sparse_adam": "torch.optim._functional",
}
UNSCALED = ("adam", "adamw", "adagrad", "sgd")
# torch's Muon computes in bfloat16, of which these are two units in the last place.
ROUGH = {"muon": 2**17}


def home(form):
    """torch's module with the function that its class calls, and the name there."""
    module = import_module(HOMES.get(form, f"torch.optim.{form}"))
    return module, "adam" if form == "adamw" else form


def torchs(form):
    """torch's function."""
    return (
        import_module("torch.optim.adamw").adamw
        if form == "adamw"
        else getattr(*home(form))
    )


TORCHS = {form: torchs(form) for form in FORMS}


def calls(monkeypatch, form, arguments, steps=STEPS, dtype=torch.float32):
    """What torch's class passes to its function in some steps: (args, kwargs)."""
    found, (module, name) = [], home(form)
    original = getattr(module, name)

    def record(*args, **kwargs):
        found.append(deepcopy((args, kwargs)))
        if form == "adamw":
            del found[-1][1]["decoupled_weight_decay"]
        original(*args, **kwargs)

    monkeypatch.setattr(module, name, record)
    kind = KINDS[form]
    optimizer = make(
        getattr(torch.optim, kind), parameters(kind, dtype=dtype), arguments
    )
    for step in range(steps):
        give_gradients(kind, params_of(optimizer), step)
        optimizer.step()
    return found


def lists_after(function, args, kwargs):
    """All lists that a call was given, as it leaves them."""
    args, kwargs = deepcopy((args, kwargs))
    with torch.no_grad():
        function(*args, **kwargs)
    given = inspect.signature(function).bind(*args, **kwargs).arguments
    del given[list(given)[1]]  # the gradients
    return {name: value for name, value in given.items() if isinstance(value, list)}


def cases():
    """Each form with each set of arguments of its optimizer's."""
    for form in FORMS:
        for set_name, arguments in argument_sets(KINDS[form]).items():
            yield pytest.param(form, arguments, id=f"{form}-{set_name}")


@pytest.mark.parametrize("form", FORMS)
def test_signatures_are_torchs(form):
    """Names, order, kinds, defaults and annotations; the name, for ``help``."""
    assert inspect.signature(FORMS[form]) == inspect.signature(TORCHS[form])
    assert FORMS[form].__name__ == form


def test_there_is_one_for_every_rule_of_torchs():
    """Every optimizer of torch's that has a function, and that polyak has."""
    due = {form for form, kind in KINDS.items() if hasattr(torch.optim, kind)}
    assert set(FORMS) == due - {"lbfgs"}


@pytest.mark.parametrize(("form", "arguments"), list(cases()))
def test_steps_are_torchs(monkeypatch, form, arguments):
    """Given what torch's class gives its function, the lists become what torch's do."""
    scales = {}
    for args, kwargs in calls(monkeypatch, form, arguments):
        expected = lists_after(TORCHS[form], args, kwargs)
        actual = lists_after(FORMS[form], args, kwargs)
        ulps = ROUGH.get(form, case_of(KINDS[form]).ulps)
        assert_same(actual, expected, ulps, scales=scales)


@pytest.mark.parametrize("form", UNSCALED)
def test_gradients_are_unscaled_as_by_torchs_fused_step(monkeypatch, form):
    """``grad_scale`` divides them, in place; with ``found_inf`` nothing is done."""
    scales = {}
    for found_inf in (0.0, 1.0):
        for args, kwargs in calls(monkeypatch, form, {"lr": 0.1}):
            kwargs |= {
                "fused": True,
                "foreach": False,
                "grad_scale": torch.tensor(4.0),
                "found_inf": torch.tensor(found_inf),
            }
            expected = lists_after(TORCHS[form], args, kwargs)
            actual = lists_after(FORMS[form], args, kwargs)
            assert_same(actual, expected, case_of(KINDS[form]).ulps, scales=scales)


def adamw(params, grads, state, **changes):
    """The step of AdamW's form on lists."""
    options = dict(
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=0.1,
        weight_decay=0.0,
        eps=1e-8,
        maximize=False,
    )
    FORMS["adamw"](params, grads, *state, **{**options, **changes})


def fresh(count, steps=None):
    """The lists of AdamW's state for vectors of three numbers."""
    moments = [[torch.zeros(3) for _ in range(count)] for _ in "mv"]
    return [*moments, [], steps or [torch.tensor(0.0) for _ in range(count)]]


def test_a_form_may_be_differentiated_through():
    """``differentiable=True``: by the gradient and by the rate."""
    rng = torch.Generator().manual_seed(0)
    start, grad = (torch.randn(3, generator=rng).double() for _ in "pg")

    def final(grad, lr):
        param, state = start.clone(), fresh(1)
        state[:2] = [[x.double()] for (x,) in state[:2]]
        adamw([param], [grad], state, lr=lr, differentiable=True)
        return param

    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(final, (grad.requires_grad_(), lr))


def test_a_step_is_not_recorded_otherwise():
    """Parameters stay leaves, whatever the grad mode."""
    param = torch.ones(3, requires_grad=True)
    adamw([param], [torch.ones(3)], fresh(1))
    assert param.is_leaf
    torch.testing.assert_close(param.detach(), torch.full((3,), 0.9))


def test_the_first_momentum_is_put_into_the_list():
    """torch's lists begin with None."""
    params, buffers = [torch.zeros(3)], [None]
    options = dict(weight_decay=0, dampening=0.5, nesterov=False, maximize=False)
    for _ in range(2):
        with torch.no_grad():
            FORMS["sgd"](
                params, [torch.ones(3)], buffers, lr=1.0, momentum=0.5, **options
            )
    assert buffers[0].tolist() == [1.0] * 3
    assert params[0].tolist() == [-2.0] * 3


def test_lists_that_do_not_fit_are_refused():
    """With the name of the list and of the form."""
    params = [torch.ones(3), torch.ones(3)]
    with pytest.raises(ValueError, match=r"adamw\(\): exp_avgs has 1 entries for 2"):
        adamw(params, params, fresh(1))
    with pytest.raises(ValueError, match="max_exp_avg_sqs has 0 entries for 2 params"):
        adamw(params, params, fresh(2), amsgrad=True)
    with pytest.raises(ValueError, match=r"adamw\(\): 1 gradients for 2 params"):
        adamw(params, params[:1], fresh(2))
    with pytest.raises(RuntimeError, match="`state_steps` argument must contain"):
        adamw(params, params, fresh(2, steps=[0, 0]))
    with pytest.raises(
        TypeError, match=r"adamw\(\): missing a required argument: 'lr'"
    ):
        FORMS["adamw"](
            params, params, *fresh(2), amsgrad=False, beta1=0.9, beta2=0.9,
            weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip
    assert torch.equal(params[0], torch.ones(3))


def test_sparse_gradients_are_refused_in_the_class_s_words():
    """Before anything is written."""
    params = [torch.ones(3)]
    with pytest.raises(RuntimeError, match="please consider SparseAdam instead"):
        adamw(params, [torch.ones(3).to_sparse()], fresh(1))
