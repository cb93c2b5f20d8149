"""What the engine tells of itself: who runs what, and the kernel's source."""

import ast

import pytest
import torch

import polyak
from polyak.engine.triton import devices
from tests.engine.support import probe

from .support import give_gradients, made


def test_explain_names_the_engine_and_shows_the_source():
    explanation = polyak.explain(polyak.AdamW(made(sizes=(3, 5))), kernel=True)
    assert [served.engine for served in explanation.served] == ["triton", "triton"]
    text = str(explanation)
    assert text.startswith("AdamW: 2 of 2 parameters in 1 kernel")
    assert "x0 = betas_0 * exp_avg + s2 * grad" in text
    assert "# 1.0 - lr * weight_decay" in text
    (kernel,) = explanation.kernels
    functions = [node.name for node in ast.parse(kernel.listing).body[2:]]
    assert functions == ["update", "adamw"]


def test_explain_shows_the_program_of_scalars():
    """Where the step counter is on the device."""
    optimizer = polyak.NAdam(made(sizes=(3,)), capturable=True)
    (kernel,) = polyak.explain(optimizer).kernels
    assert "step = number_at(step_at, keep) + 1.0" in kernel.listing
    assert "put_number(mu_product_at, " in kernel.listing
    give_gradients(optimizer.param_groups[0]["params"], 0)
    for _ in range(2):
        optimizer.step()
    assert polyak.explain(optimizer).kernels == [kernel]


def test_one_source_for_all_that_step_alike():
    """Sizes, groups and numbers are not in it."""
    kernels = [
        polyak.explain(polyak.Adam(made(sizes=sizes), lr=lr)).kernels
        for sizes, lr in (((3,), 0.1), ((5, 7), 0.2))
    ]
    assert kernels[0] == kernels[1]


def test_a_leaf_runs_eagerly():
    @polyak.leaf
    def unit(x):
        return x / x.norm()

    def rule(param, grad, *, lr):
        return param - lr * unit(grad)

    (served,) = polyak.explain(probe(rule)(made(sizes=(3,)), lr=0.1)).served
    assert served.engine == "eager"
    assert served.why.startswith("the rule has leaves")


def test_without_triton_the_eager_engine_runs(monkeypatch):
    monkeypatch.setattr(devices, "_has_triton", lambda: False)
    params = made(sizes=(3,))
    optimizer = polyak.SGD(params, lr=1.0)
    (served,) = polyak.explain(optimizer).served
    assert served.why == "kernels for tensors on cpu need Triton, which is missing"
    give_gradients(params, 0)
    before = params[0].detach().clone()
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), before - params[0].grad)


def test_fused_demands_a_kernel():
    optimizer = polyak.Adam(made(sizes=(3,)), fused=True)
    give_gradients(optimizer.param_groups[0]["params"], 0)
    optimizer.step()
    sliced = torch.zeros(4, 4)[:, ::2].requires_grad_()
    sliced.grad = torch.zeros(4, 2)
    optimizer = polyak.Adam([sliced], fused=True)
    with pytest.raises(RuntimeError, match="cannot have one"):
        optimizer.step()
