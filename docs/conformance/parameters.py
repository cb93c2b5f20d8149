"""Promises about parameters and gradients."""

import torch
from torch.nn import Parameter

from .registry import promise
from .subject import WARM_UP, NotApplicable, close, same, values


@promise(
    "Gradients",
    "gradients are left as they are",
    "What is logged, accumulated or clipped after the step is something else.",
)
def gradients_untouched(subject):
    subject.needs("dense", "a closure or sparse gradients")
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(2))
    for param in params:
        param.grad = torch.ones_like(param)
    grads = [param.grad for param in params]
    optimizer.step()
    kept = all(p.grad is g for p, g in zip(params, grads, strict=True))
    assert kept, "`param.grad` is gone or another tensor"
    assert all((grad == 1).all() for grad in grads), "their numbers have changed"


@promise(
    "Gradients",
    "without gradient nothing moves",
    "Frozen layers decay, or are moved by old momentum, or the step crashes.",
)
def without_gradient(subject):
    subject.needs("dense", "a closure or sparse gradients")
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(WARM_UP))
    before = values(params)
    params[0].grad, params[1].grad = None, torch.ones_like(params[1])
    optimizer.step()
    assert torch.equal(params[0], before[0]), "a parameter without gradient moved"
    assert not torch.equal(params[1], before[1]), "the one with gradient did not"


@promise(
    "Gradients",
    "sparse gradients work, or are refused",
    "`nn.Embedding(sparse=True)` crashes inside a kernel, or trains wrongly.",
)
def sparse_gradients(subject):
    if subject.drive == "closure":
        raise NotApplicable("computes the gradients itself")
    if subject.drive == "sparse":
        return
    ends = []
    for sparse in (False, True):
        params = subject.parameters()
        optimizer = subject.make(params)
        for param in params:
            grad = torch.zeros_like(param)
            grad[0] = 1
            param.grad = grad.to_sparse(1) if sparse else grad
        try:
            optimizer.step()
        except Exception as error:
            if not sparse:
                raise
            if "sparse" not in f"{type(error).__name__} {error}".lower():
                raise AssertionError(f"{type(error).__name__}: {error}") from error
            return
        ends.append(values(params))
    assert close(*ends), "the step is another than on the dense gradient"


@promise(
    "Gradients",
    "autograd is told of the step",
    "A backward pass through old values gives wrong gradients instead of an error.",
)
def autograd_told(subject):
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(WARM_UP))
    versions = [param._version for param in params]
    subject.step(optimizer, params, WARM_UP)
    told = all(p._version > v for p, v in zip(params, versions, strict=True))
    assert told, "the parameters' version counters stand still"


@promise(
    "Parameters",
    "complex: both parts move, or refused",
    "The imaginary part is never trained, or is set to 0, without a word.",
)
def complex_numbers(subject):
    subject = subject.without_decay()
    subject.needs("dense", "a closure or sparse gradients")
    param = Parameter(torch.full((4, 3), 1 + 1j))
    optimizer = subject.make([param])
    for _ in range(WARM_UP):
        param.grad = torch.full((4, 3), 0.5 + 0.5j)
        try:
            optimizer.step()
        except Exception:
            return
    moved = (param.detach() - (1 + 1j)).mean()
    parts = (moved.real.item(), moved.imag.item())
    alike = 0.5 < parts[1] / parts[0] < 2 if parts[0] else False
    assert alike, f"equal parts moved by {parts[0]:.3g} and {parts[1]:.3g}"


@promise(
    "Parameters",
    "float64 keeps its digits",
    "Scientific models lose half their digits at every step.",
)
def double_precision(subject):
    params = subject.parameters(torch.float64)
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(WARM_UP))
    rounded = all(torch.equal(p, p.detach().float().double()) for p in params)
    assert not rounded, "the parameters are float32 numbers after a step"


@promise(
    "Parameters",
    "0-d parameters",
    "A learned temperature or scale cannot be trained.",
)
def scalars(subject):
    if subject.drive == "sparse" or len(subject.shapes[1]) == 2:
        raise NotApplicable("takes rows or matrices only")
    param = Parameter(torch.tensor(2.0))
    optimizer = subject.make([param])
    subject.train(optimizer, [param], range(WARM_UP))
    assert param.isfinite(), "it is NaN"
    assert param.item() != 2, "it does not move"


@promise(
    "Parameters",
    "empty parameters",
    "A layer without inputs or an empty shard crashes the step of all the others.",
)
def empty(subject):
    params = [*subject.parameters(), Parameter(torch.zeros(0, 3))]
    before = values(params)
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(WARM_UP))
    assert all(p.isfinite().all() for p in params), "the others are NaN"
    assert not same(params, before), "the others do not move"


@promise(
    "Parameters",
    "non-contiguous layouts",
    "Transposed or channels-last weights crash, go wrong, or are laid out anew.",
)
def layouts(subject):
    ends = []
    for transposed in (False, True):
        param = subject.parameters()[0]
        if transposed:
            param.data = param.data.t().contiguous().t()
        strides = param.stride()
        optimizer = subject.make([param])
        subject.train(optimizer, [param], range(3))
        assert param.stride() == strides, f"strides {strides} became {param.stride()}"
        ends.append([param.detach()])
    assert close(*ends), "the numbers are others than in contiguous memory"
