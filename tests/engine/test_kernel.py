"""Kernels: what they load, compute and store, for every size, dtype and thread."""

import numpy as np
import pytest
import torch

import polyak
from polyak.engine import team

from .support import engines, parameter, probe

SIZES = [0, 1, 2, 3, 7, 15, 16, 17, 63, 64, 65, 1000, 65535, 65536, 65537, 200001]
GUARD = -77.0  # around each tensor, to see that nothing else is written


def randn(size, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    kind = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(size, generator=generator, dtype=kind).to(dtype)


def framed(values, offset=0):
    """A copy in the middle of a larger tensor, and that tensor."""
    frame = torch.full((len(values) + 2 + offset,), GUARD, dtype=values.dtype)
    view = frame[1 + offset : 1 + offset + len(values)]
    view.copy_(values)
    return view, frame


def assert_frames_hold(frames, offset):
    for frame in frames:
        edges = torch.cat([frame[: 1 + offset], frame[-1:]])
        assert (edges == GUARD).all()


def assert_close_for(dtypes, found, expected):
    """Equal but for a few units in the last place of numbers around one.

    Where a float32 or less takes part, the eager engine computes some parts in float32.
    """
    least = max(torch.finfo(dtype).eps for dtype in dtypes)
    least = min(least, torch.finfo(F32).eps)
    tolerance = 4 * max(least, torch.finfo(found.dtype).eps)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def adam_steps(sizes, dtypes, *, foreach, offset=0, steps=2, **options):
    """Parameters and state after some steps, and the frames around them."""
    param_dtype, grad_dtype, state_dtype = dtypes
    params, frames = [], []
    for index, size in enumerate(sizes):
        param, frame = framed(randn(size, param_dtype, index), offset)
        params.append(param.requires_grad_())
        frames.append(frame)
        if grad_dtype != param_dtype:
            param.grad_dtype = grad_dtype
    options = dict(lr=0.1, weight_decay=0.1, amsgrad=True, foreach=foreach) | options
    optimizer = polyak.Adam(params, **options)
    for param in params:
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            slot, frame = framed(torch.zeros(len(param), dtype=state_dtype), offset)
            optimizer.state[param][name] = slot
            frames.append(frame)
    for step in range(steps):
        for index, param in enumerate(params):
            gradient = randn(len(param), grad_dtype, 100 * step + index)
            param.grad = framed(gradient, offset)[0]
        optimizer.step()
    assert engines(optimizer) == ("eager" if foreach is False else "kernel")
    assert_frames_hold(frames, offset)
    state = [optimizer.state[param][name] for param in params for name in ("exp_avg",)]
    return [param.detach() for param in params] + state


F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
C64, C128 = torch.complex64, torch.complex128
DTYPES = [
    (F32, F32, F32),
    (F64, F64, F64),
    (BF16, BF16, F32),
    (BF16, BF16, BF16),
    (BF16, F32, F32),
    (BF16, BF16, F64),
    (F16, F16, F16),
    (F16, F16, F32),
    (F16, F16, F64),
    (F32, F32, BF16),
    (F32, F32, F64),
    (F32, BF16, F32),
    (F64, F64, F32),
    (C64, C64, C64),
    (C128, C128, C128),
    (C64, C64, C128),
]


def identity(dtypes):
    return "-".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


@pytest.mark.parametrize("offset", [0, 1], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("dtypes", DTYPES, ids=identity)
def test_kernel_does_what_eager_does(dtypes, offset):
    """Every size and combination of dtypes; nothing beside the tensors is written."""
    sizes = SIZES if set(dtypes) == {F32} else SIZES[:12]
    found = adam_steps(sizes, dtypes, foreach=None, offset=offset)
    expected = adam_steps(sizes, dtypes, foreach=False, offset=offset)
    for kernel, eager in zip(found, expected, strict=True):
        assert_close_for(dtypes, kernel, eager)


@pytest.mark.parametrize("dtypes", [(F32,) * 3, (BF16, BF16, F32), (C64,) * 3])
def test_maximize_goes_up_the_gradient(dtypes):
    """The same bits as with the negative gradient, whose kernel is another one."""

    def rule(param, grad, mean, *, lr):
        mean = 0.5 * mean + grad
        return param - lr * mean, mean

    def run(sign, maximize):
        param = randn(100, dtypes[0], 0).requires_grad_()
        optimizer = probe(rule)([param], lr=0.5, maximize=maximize)
        for step in range(3):
            param.grad = sign * randn(100, dtypes[1], step)
            optimizer.step()
        assert engines(optimizer) == "kernel"
        return param.detach(), optimizer.state[param]["mean"]

    for up, down in zip(run(1, True), run(-1, False), strict=True):
        assert torch.equal(up, down)


def test_maximize_may_change():
    """Groups that go up and groups that go down do not mix, and may change sides."""
    params = [parameter([1.0]), parameter([1.0])]
    groups = [{"params": [params[0]], "maximize": True}, {"params": [params[1]]}]
    optimizer = polyak.SGD(groups, lr=0.5)
    for up, down in ([1.5, 0.5], [1.0, 1.0]):
        for param in params:
            param.grad = torch.ones(1)
        optimizer.step()
        assert [param.item() for param in params] == [up, down]
        for group in optimizer.param_groups:
            group["maximize"] = not group["maximize"]


# Storing and loading narrow numbers


def stored(values, dtype):
    """What a kernel stores of numbers in a slot of this dtype."""

    def rule(param, grad, narrow):
        return param, grad

    param = parameter(torch.zeros_like(values), values)
    optimizer = probe(rule)([param])
    optimizer.state[param]["narrow"] = torch.ones(values.shape, dtype=dtype)
    optimizer.step()
    assert engines(optimizer) == "kernel"
    return optimizer.state[param]["narrow"]


def assert_same_numbers(found, expected):
    """The same bits, but for those of NaN."""
    assert torch.equal(found.isnan(), expected.isnan())
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[found.element_size()]
    kept = ~found.isnan()
    assert torch.equal(found.view(kind)[kept], expected.view(kind)[kept])


def floats(bits):
    return torch.from_numpy(np.ascontiguousarray(bits, np.uint32).view(np.float32))


def around_bfloat16():
    """Every bfloat16, and what lies between it and the next: ties and neighbours."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    return floats((high[:, None] | low).reshape(-1))


def around_float16():
    """Every float16, the middle to the next one, and the floats beside both."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    every = every[np.isfinite(every)]
    nearby = [np.nextafter(every, np.float32(sign * np.inf)) for sign in (-1, 1)]
    ordered = np.sort(every)
    middle = ordered[:-1] / 2 + ordered[1:] / 2
    beside = [np.nextafter(middle, np.float32(sign * np.inf)) for sign in (-1, 1)]
    return torch.from_numpy(np.concatenate([every, *nearby, middle, *beside]))


EXTREMES = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan, 3.4028235e38]
EXTREMES += [-3.4028235e38, 3.3895e38, 65504.0, 65519.0, 65520.0, -65520.0, 1e9, 2**-14]
EXTREMES += [1e-45, -1e-45, 1e-38, 1.2e-38, 2**-24, 2**-25, 1.5 * 2**-25, 6e-8]


@pytest.mark.parametrize(
    ("dtype", "numbers"),
    [(BF16, around_bfloat16()), (F16, around_float16())],
    ids=["bfloat16", "float16"],
)
@pytest.mark.parametrize("wide", [F32, F64], ids=str)
def test_stores_round_to_nearest_even(dtype, numbers, wide):
    """Ties, overflow, subnormals, infinities, NaN: the same bits as torch's."""
    values = torch.cat([numbers, torch.tensor(EXTREMES)]).to(wide)
    assert_same_numbers(stored(values, dtype), values.to(dtype))


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_float64_rounds_to_narrow_as_in_torch(dtype):
    """float64 becomes float32 first; the same double rounding as torch's."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(100_000, dtype=F64, generator=generator) * 3
    tie = 1 + torch.tensor([2.0**-8, 2.0**-9, 2.0**-11, 2.0**-12], dtype=F64)
    values = torch.cat([random, tie, tie + 2.0**-40, tie - 2.0**-40])
    assert_same_numbers(stored(values, dtype), values.to(dtype))


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@pytest.mark.parametrize("wide", [F32, F64], ids=str)
def test_loads_are_exact(dtype, wide):
    """Each of the 65,536 narrow numbers is the float it stands for."""
    values = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    assert_same_numbers(stored(values, wide), values.to(wide))


@pytest.mark.parametrize("factor", [1.0, -3.3, 1.00390625, 1e-3, 1e30])
@pytest.mark.parametrize("start", [0, 1])
def test_many_bfloat16_at_once_round_as_one_does(factor, start):
    """Two in a word, anywhere in memory: each of the 65,536, and what is made of it."""
    numbers = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(BF16)[start:]
    param = torch.zeros(len(numbers) + start, dtype=BF16)[start:].requires_grad_()
    param.grad = numbers
    optimizer = probe(lambda param, grad, *, lr: lr * grad)([param], lr=factor)
    optimizer.step()
    assert engines(optimizer) == "kernel"
    assert_same_numbers(param.detach(), (factor * numbers.float()).to(BF16))


def test_narrow_parameters_are_computed_in_float32():
    """Small changes add up in float32 within a step; only the result is rounded."""

    def rule(param, grad):
        for _ in range(8):
            param = param + 0.001
        return param + 0 * grad

    for dtype in (BF16, F16):
        param = parameter([1.0], [0.0], dtype)
        probe(rule)([param]).step()
        assert param.item() == torch.tensor(1.008).to(dtype).item() != 1.0


# Bit for bit


def test_results_do_not_depend_on_threads(threads):
    """One thread or many, in any order: the same bits."""
    results = []
    for count in (1, 2, 3, 8):
        threads(count)
        # 1.4 million numbers: enough for a team.
        assert team.threads_for(4 * 7 * 1_400_000) == count
        sizes = [700_001, 3, 65_537, 500_000, 1, 131_072]
        results.append(adam_steps(sizes, (F32,) * 3, foreach=None))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("dtype", [F32, F64, BF16], ids=str)
def test_results_do_not_depend_on_the_place(dtype):
    """Vector lanes, remainders and odd addresses all round alike."""
    params = []
    for size in range(1, 70):
        for offset in (0, 1, 3):
            param = torch.full((size + offset,), 0.7, dtype=dtype)[offset:]
            param.requires_grad_()
            param.grad = torch.full((size + offset,), 0.3, dtype=dtype)[offset:]
            params.append(param)
    optimizer = polyak.Adam(params, lr=0.1, weight_decay=0.01)
    for _ in range(3):
        optimizer.step()
    assert engines(optimizer) == "kernel"
    assert len({number for param in params for number in param.tolist()}) == 1


def test_results_do_not_depend_on_the_company():
    """A parameter alone gets the same bits as among others, and in other groups."""
    params = [parameter(randn(size, F32, size), randn(size, F32, 9)) for size in SIZES]
    alone = [parameter(param.detach(), param.grad) for param in params]
    groups = [
        {"params": [param], "lr": 0.1 + 0.01 * i} for i, param in enumerate(params)
    ]
    together = polyak.Adam(groups)
    apart = [polyak.Adam([p], lr=0.1 + 0.01 * i) for i, p in enumerate(alone)]
    for optimizer in (together, *apart):
        optimizer.step()
        optimizer.step()
        assert engines(optimizer) == "kernel"
    assert len(together._plan.buckets) == 1
    assert all(map(torch.equal, params, alone))


def test_an_address_may_be_odd():
    """Memory from elsewhere need not be aligned to the numbers in it."""
    memory = bytearray(4 * 100 + 1)
    param = torch.frombuffer(memory, dtype=F32, offset=1, count=100)
    param.copy_(randn(100, F32, 0))
    expected = param - 0.5 * randn(100, F32, 1)
    param.requires_grad_().grad = randn(100, F32, 1)
    optimizer = polyak.SGD([param], lr=0.5)
    optimizer.step()
    assert engines(optimizer) == "kernel"
    assert_close_for([F32], param.detach(), expected)
