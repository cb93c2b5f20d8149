"""What transform() refuses, and in which words."""

import re

import pytest
import torch

import polyak
from polyak.functional import transform

W = {"w": torch.ones(2, 3), "b": torch.ones(3)}


def update(grads=W, state=None, params=W, kind=polyak.AdamW, **hyperparameters):
    """One update of AdamW's."""
    opt = transform(kind)
    state = opt.init(W) if state is None else state
    return opt.update(params, grads, state, **hyperparameters)


BAD_UPDATES = {
    "missing_gradient": (
        {"grads": {"w": W["w"]}},
        ValueError,
        "AdamW: there is no gradient of b: give one for every parameter, or None",
    ),
    "unknown_gradient": (
        {"grads": {**W, "bias": W["b"]}},
        ValueError,
        "AdamW: there is a gradient of bias, which params lack. They have w, b.",
    ),
    "misspelt_gradient": (
        {
            "params": {"weight": W["w"]},
            "grads": {"weight": W["w"], "wieght": W["w"]},
            "state": {"weight": {}},
        },
        ValueError,
        "Did you mean 'weight'?",
    ),
    "gradient_of_another_shape": (
        {"grads": {**W, "b": torch.ones(2)}},
        ValueError,
        "AdamW: the gradient of b has shape (2,), the parameter (3,)",
    ),
    "gradient_that_is_none": (
        {"grads": {**W, "b": 1.0}},
        TypeError,
        "AdamW: the gradient of b is 1.0: give a tensor or None",
    ),
    "parameter_that_is_none": (
        {"params": {**W, "b": 3}},
        TypeError,
        "AdamW: params must be a dict of tensors by name, or another tree of tensors, "
        "but b is 3",
    ),
    "missing_state": (
        {"state": {"w": {}}},
        ValueError,
        "AdamW: there is no state of b: take what init(params) or the update before",
    ),
    "unknown_state": (
        {"state": {"w": {}, "b": {}, "c": {}}},
        ValueError,
        "AdamW: there is a state of c, which params lack.",
    ),
    "state_of_another_shape": (
        {"state": {"w": {}, "b": {"exp_avg": torch.ones(5)}}},
        ValueError,
        "AdamW: state has exp_avg of shape (5,) for b, where it is (3,)",
    ),
    "unknown_hyperparameter": (
        {"learning_rate": 0.1},
        TypeError,
        "AdamW.update() got an unexpected hyperparameter 'learning_rate'.",
    ),
    "misspelt_hyperparameter": (
        {"weight_deacy": 0.1},
        TypeError,
        "Did you mean 'weight_decay'?",
    ),
    "value_out_of_bounds": (
        {"lr": -1.0},
        ValueError,
        "Invalid learning rate: -1.0 (AdamW needs lr >= 0)",
    ),
    "sparse_gradient": (
        {"grads": {**W, "w": W["w"].to_sparse(1)}},
        RuntimeError,
        "AdamW does not support sparse gradients, please consider SparseAdam instead",
    ),
    "dense_gradient": (
        {"kind": polyak.SparseAdam},
        RuntimeError,
        "SparseAdam does not support dense gradients",
    ),
}


@pytest.mark.parametrize(
    ("arguments", "error", "words"), BAD_UPDATES.values(), ids=BAD_UPDATES
)
def test_bad_updates_are_refused(arguments, error, words):
    """The error says what is wrong with which name, and what to do."""
    with pytest.raises(error, match=re.escape(words)):
        update(**arguments)


def test_optimizers_that_are_no_functions_are_refused():
    """LBFGS computes gradients itself; others are not polyak's."""
    with pytest.raises(TypeError, match=r"LBFGS has none: .* Use the class"):
        transform(polyak.LBFGS)
    for kind in (torch.optim.AdamW, "AdamW", polyak.AdamW([torch.ones(1)])):
        with pytest.raises(TypeError, match="takes an optimizer class of polyak, got"):
            transform(kind)


def test_bad_hyperparameters_are_refused_as_by_the_class():
    """In the class's words."""
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        transform(polyak.AdamW, lr=-1)
    with pytest.raises(
        TypeError, match=r"'wieght_decay'\. Did you mean 'weight_decay'"
    ):
        transform(polyak.AdamW, wieght_decay=0.1)
    with pytest.raises(
        ValueError, match="a function cannot leave steps out or count them"
    ):
        transform(polyak.AdamW, nonfinite="skip")
    with pytest.raises(ValueError, match="a function is given its gradients"):
        transform(polyak.AdamW, clear_grads=True)


def test_parameters_that_the_class_refuses_are_refused():
    """When the state is made."""
    with pytest.raises(ValueError, match="SparseAdam does not support complex"):
        transform(polyak.SparseAdam).init({"w": torch.ones(2, dtype=torch.complex64)})
