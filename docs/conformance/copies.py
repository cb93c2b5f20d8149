"""Promises about copies and checkpoints."""

import copy
import io
import pickle

import torch

from .registry import promise
from .subject import NotApplicable, Subject, same, tensors_in, values


def _continues(subject: Subject, copied) -> None:
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(2))
    other_params, other = copied((params, optimizer))
    subject.train(optimizer, params, range(2, 4))
    subject.train(other, other_params, range(2, 4))
    assert same(params, other_params), "the copy goes on with other numbers"


@promise(
    "Copies",
    "`copy.deepcopy` continues",
    "Copies of a run (populations, lookahead, trial steps) crash or drift.",
)
def deep_copy(subject):
    _continues(subject, copy.deepcopy)


@promise(
    "Copies",
    "`pickle` continues",
    "Multiprocessing, Ray and joblib cannot send the optimizer.",
)
def pickled(subject):
    _continues(subject, lambda pair: pickle.loads(pickle.dumps(pair)))


_seen = []


def _hook(optimizer, args, keywords):
    _seen.append(optimizer)


@promise(
    "Copies",
    "copies keep their hooks",
    "Clipping or logging that is registered as a hook stops in the copy, silently.",
)
def hooks_kept(subject):
    params = subject.parameters()
    optimizer = subject.make(params)
    optimizer.register_step_post_hook(_hook)
    other_params, other = copy.deepcopy((params, optimizer))
    _seen.clear()
    subject.step(other, other_params, 0)
    assert _seen, "the copy has no hooks"


def _resumed(subject: Subject, dtype: torch.dtype) -> None:
    params = subject.parameters(dtype)
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(3))
    others = [torch.nn.Parameter(value) for value in values(params)]
    other = subject.make(others)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    subject.train(optimizer, params, range(3, 6))
    subject.train(other, others, range(3, 6))
    assert same(params, others), "the resumed run goes on with other numbers"


@promise(
    "Checkpoints",
    "a run resumes bit for bit",
    "A restart changes the run: results cannot be repeated, bugs cannot be found.",
)
def exact_resume(subject):
    _resumed(subject, torch.float32)


@promise(
    "Checkpoints",
    "... of bfloat16 parameters too",
    "State of higher precision is rounded by the restart.",
)
def exact_resume_bfloat16(subject):
    _resumed(subject, torch.bfloat16)


@promise(
    "Checkpoints",
    "`torch.load(weights_only=True)` takes it",
    "Only a load that may run any code reads the checkpoint.",
)
def weights_only(subject):
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(2))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    subject.make(params).load_state_dict(torch.load(file, weights_only=True))


@promise(
    "Checkpoints",
    "state of a wrong shape is refused",
    "A changed model loads; the crash, or the broadcast, comes in a later step.",
)
def wrong_shape(subject):
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(2))
    changed = [torch.nn.Parameter(torch.zeros(*p.shape, 2)) for p in params]
    if len(subject.shapes[1]) == 2:
        changed = [torch.nn.Parameter(torch.zeros(9, 8)) for _ in params]
    if not tensors_in(optimizer.state_dict()["state"]):
        raise NotApplicable("keeps no tensors of a parameter's shape by default")
    other = subject.make(changed)
    try:
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    except Exception:
        return
    raise AssertionError("it was loaded")


@promise(
    "Checkpoints",
    "named parameters are found by name",
    "Layers that change places swap their momentum, without an error.",
)
def named_order(subject):
    params = [torch.nn.Parameter(p.detach()) for p in subject.parameters()[:1] * 2]
    names = ["first", "second"]
    optimizer = subject.make(list(zip(names, params, strict=True)))
    subject.train(optimizer, params, range(2))
    state = tensors_in(optimizer.state[params[0]])
    if not state:
        raise NotApplicable("`optimizer.state[param]` has no tensors by default")
    if not tensors_in(optimizer.state[params[1]]):
        raise NotApplicable("its state is of all parameters together")
    other = subject.make([("second", params[1]), ("first", params[0])])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    loaded = tensors_in(other.state[params[0]])
    for slot, kept in state.items():
        assert torch.equal(loaded[slot], kept), f"`{slot}` is the other parameter's"


@promise(
    "Checkpoints",
    "nothing is shared with what was loaded",
    "Two optimizers that were given one state dict train each other's momentum.",
)
def nothing_shared(subject):
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(2))
    other = subject.make(subject.parameters())
    other.load_state_dict(optimizer.state_dict())
    mine, its = (
        {tensor.data_ptr() for tensor in tensors_in(one.state).values()} - {0}
        for one in (optimizer, other)
    )
    assert not mine & its, "tensors of the state are shared"


@promise(
    "Checkpoints",
    "loading keeps `param_groups`",
    "Wrappers and schedulers that hold the groups go on with dead ones.",
)
def groups_kept(subject):
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(2))
    groups, group = optimizer.param_groups, optimizer.param_groups[0]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.param_groups is groups, "`param_groups` is another list"
    assert optimizer.param_groups[0] is group, "the groups are other dicts"


@promise(
    "Checkpoints",
    "a hyperparameter may be missing",
    "Checkpoints of other versions load, and the next step is a KeyError.",
)
def older_checkpoint(subject):
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(2))
    names = [k for k in optimizer.param_groups[0] if k not in ("lr", "params")]
    names = [name for name in names if subject.takes(name)]
    failed = []
    for name in names:
        saved = copy.deepcopy(optimizer.state_dict())
        saved["param_groups"][0].pop(name)
        try:
            other_params = subject.parameters()
            other = subject.make(other_params)
            other.load_state_dict(saved)
            subject.step(other, other_params, 2)
        except Exception:
            failed.append(name)
    assert not failed, f"without {', '.join(failed)} the load or the next step raises"


@promise(
    "Checkpoints",
    "a distributed checkpoint changes nothing",
    "Saving before the first step is a step: bias correction begins at 2.",
)
def distributed_checkpoint(subject):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    subject.needs("dense", "torch makes dense gradients for it, and no closure")
    results = []
    for saves in (False, True):
        model = torch.nn.ParameterList(subject.parameters())
        optimizer = subject.make(model.parameters())
        if saves:
            get_optimizer_state_dict(model, optimizer)
        subject.train(optimizer, list(model), range(2))
        results.append(values(model))
    assert same(*results), "the run goes on with other numbers"
