"""Rules with sums, means and norms: a kernel computes what the eager engine does."""

import pytest
import torch

from polyak import Slot
from polyak.engine import team
from polyak.engine.phases import ANY

from .support import engines, probe, state_of, why_eager

ROWS, COLUMNS = Slot(per="row"), Slot(per="column")
RULES = {}


def rule(slots=None, **hyperparameters):
    """Put a rule among those that the tests go through."""

    def keep(function):
        kind = probe(function, slots, name=function.__name__)
        RULES[function.__name__] = kind, {"lr": 0.125} | hyperparameters
        return function

    return keep


def each(names):
    return pytest.mark.parametrize("name", names)


# Of all numbers together: vectors and numbers have them too.


@rule()
def trust_ratio(param, grad, exp_avg, *, lr):
    exp_avg = exp_avg + 0.25 * (grad - exp_avg)
    update = torch.sign(exp_avg) + 0.5 * exp_avg
    ratio = torch.linalg.vector_norm(param) / (update.norm() + 1e-3)
    return param - lr * ratio * update, exp_avg


@rule(weight_decay=0.5)
def decayed_by_size(param, grad, *, lr, weight_decay, step):
    if weight_decay:
        grad = grad + weight_decay * param.square().mean().sqrt() * param
    if step < 2:
        return param - lr * grad
    return param - lr * grad / (1 + grad.norm())


@rule()
def nested_wholes(param, grad, *, lr):
    grad = grad - grad.mean()
    deviation = grad.square().mean().sqrt() + 0.5
    grad = grad / deviation
    return param - lr * (grad - (grad * grad * grad).mean())


@rule()
def a_whole_for_all(param, grad, *, lr):
    return param.mean() - lr * grad.sum() / 64


@rule()
def a_whole_beside(param, grad, buffer, *, lr):
    return param - lr * grad, (grad * param).mean() + 1


@rule()
def only_a_slot_changes(param, grad, buffer, *, lr):
    return param, buffer + lr * grad / (1 + grad.norm())


@rule()
def masks_of_wholes(param, grad, *, lr):
    size, other = grad.norm(), param.norm()
    large = (size > 1) & ~(size > 2 * other)
    step = torch.where(large, grad / size, grad)
    return torch.where(other > 0, param - lr * step, step)


@rule()
def a_mask_for_each_number(param, grad, *, lr):
    large = abs(grad) > grad.square().mean().sqrt()
    share = torch.where(large, 1.0, 0.0 * grad).mean()
    return param - lr * torch.where(large, share * grad, grad)


@rule()
def the_same_sum_twice(param, grad, *, lr):
    a, b = (grad * grad).sum(), (grad * grad).sum()
    return param - lr * grad / (1 + a + torch.sum(abs(param)) + b)


WHOLES = tuple(RULES)


# Of rows and columns


@rule()
def centred(param, grad, *, lr):
    return param - lr * (grad - grad.mean(-1, keepdim=True))


@rule()
def centred_columns(param, grad, *, lr):
    return param - lr * (grad - torch.mean(grad, dim=-2, keepdim=True))


@rule()
def normalised(param, grad, *, lr):
    rows = grad / (grad.norm(dim=-1, keepdim=True) + 1e-3)
    columns = rows / (0.5 + torch.linalg.vector_norm(rows, dim=-2, keepdim=True))
    return param - lr * columns


@rule()
def normalised_matrices(param, grad, buffer, *, lr):
    buffer = buffer + grad
    size = (buffer * buffer).mean((-2, -1), keepdim=True).sqrt()
    return param - lr * buffer / (size + 0.25), buffer


@rule({"rows": ROWS, "columns": COLUMNS})
def factored(param, grad, rows, columns, *, lr, step):
    square = grad * grad + 1e-3
    rows = rows + (square.mean(-1, keepdim=True) - rows) / step
    columns = columns + (square.mean(-2, keepdim=True) - columns) / step
    scale = rows / rows.mean(-2, keepdim=True)
    return param - lr * grad / (scale * columns).sqrt(), rows, columns


@rule({"rows": ROWS, "columns": COLUMNS})
def slots_of_slots(param, grad, rows, columns, *, lr):
    rows = 0.5 * rows + grad.sum(-1, keepdim=True) / 16
    columns = 0.5 * columns + rows.mean(-2, keepdim=True) + 0.25
    return param - lr * rows * columns, rows, columns


@rule({"rows": ROWS, "columns": COLUMNS})
def only_small_slots_change(param, grad, rows, columns, *, lr):
    new = rows + lr * (grad * columns).mean(-1, keepdim=True)
    return param, new, columns + (grad * rows).mean(-2, keepdim=True)


@rule({"first": ROWS, "second": ROWS})
def exchanged(param, grad, first, second, *, lr):
    size = grad.square().mean(-1, keepdim=True)
    return param - lr * (first + 1) * grad, second + size, first


@rule({"rows": ROWS})
def a_row_for_all(param, grad, rows, full, *, lr):
    rows = rows + grad.mean(-1, keepdim=True)
    return rows, rows, full + lr * rows


@rule({"rows": ROWS})
def wholes_for_rows(param, grad, rows, *, lr):
    size = grad.square().mean()
    return param - lr * rows * grad, rows + size


@rule({"rows": ROWS})
def numbers_for_rows(param, grad, rows, *, lr):
    return param - lr * rows * grad, lr


@rule({"rows": ROWS, "columns": COLUMNS})
def masks_of_rows(param, grad, rows, columns, *, lr):
    size = grad.norm(dim=-1, keepdim=True)
    large = (size > rows) | (size > 2)
    sign = torch.where(grad.sum(-2, keepdim=True) > columns, 1.0, 0.0 * columns - 1)
    rows = torch.where(large, size, rows)
    return torch.where(large, param - lr * grad, param * sign), rows, 0.5 * sign


@rule()
def wholes_of_rows(param, grad, *, lr):
    rows = grad.square().mean(-1, keepdim=True)
    columns = abs(grad).mean(-2, keepdim=True)
    many = rows.mean() + columns.sum() / 64 + rows.norm(dim=-2, keepdim=True).mean()
    return param - lr * grad * many / (1 + columns.sum(-1, keepdim=True) / 8)


@rule({"rows": ROWS})
def many_passes(param, grad, rows, *, lr, step):
    grad = grad - grad.mean(-1, keepdim=True)
    grad = grad / (grad.norm(dim=-2, keepdim=True) + 1)
    grad = grad - grad.mean()
    rows = rows + grad.norm(dim=-1, keepdim=True)
    grad = grad * rows / (1 + (rows * grad).square().mean().sqrt())
    return param - lr * grad / step, rows


ALL = tuple(RULES)
MATRICES = [(3, 4), (1, 5), (5, 1), (2, 3, 4), (2, 3, 2, 3), (17, 33), (1, 1)]
VECTORS = [(7,), (), (1,), (65,)]


def draw(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=generator, dtype=wide).to(dtype)


def trained(name, shapes, dtype=torch.float64, steps=3, grad_dtype=None, **options):
    """All tensors of an optimizer after some steps, and the optimizer."""
    kind, hyperparameters = RULES[name]
    params = [draw(shape, dtype, i).requires_grad_() for i, shape in enumerate(shapes)]
    optimizer = kind(params, **hyperparameters, foreach=options.pop("foreach", None))
    for key, value in options.items():
        setattr(optimizer, key, value)
    for step in range(steps):
        for index, param in enumerate(params):
            if grad_dtype is not None:
                param.grad_dtype = grad_dtype
            param.grad = draw(param.shape, grad_dtype or dtype, 100 * step + index)
        optimizer.step()
    return state_of(optimizer, params), optimizer


def check(name, shapes, dtype=torch.float64, tolerance=1e-12, **options):
    """The kernel's tensors are the eager engine's."""
    found, optimizer = trained(name, shapes, dtype, **options)
    assert engines(optimizer) == "kernel", why_eager(optimizer)
    expected, optimizer = trained(name, shapes, dtype, foreach=False, **options)
    assert engines(optimizer) == "eager"
    for x, y in zip(found, expected, strict=True):
        scale = max(1.0, y.abs().max().item()) if y.numel() else 1.0
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance * scale)


@each(ALL)
def test_matrices(name):
    """Of all shapes, some of which are taken for several matrices."""
    check(name, MATRICES)


@each(WHOLES)
def test_vectors_and_numbers(name):
    """Sums over everything know no rows: whatever lies densely is served."""
    check(name, [*VECTORS, (3, 4)])


@each(ALL)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, 2e-6),
        (torch.bfloat16, 2**-6),
        (torch.float16, 2**-9),
    ],
    ids=str,
)
def test_dtypes(name, dtype, tolerance):
    """Half precision is computed in float32."""
    check(name, MATRICES, dtype, tolerance)


@each(["trust_ratio", "factored", "many_passes", "slots_of_slots"])
@pytest.mark.parametrize(
    ("dtype", "grad_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)],
    ids=str,
)
def test_mixed_dtypes(name, dtype, grad_dtype):
    """Each tensor is stored as it is, and sums are computed as wide as the widest."""
    check(name, [(3, 4), (17, 33)], dtype, 2**-6, grad_dtype=grad_dtype)


@each(["trust_ratio", "centred", "centred_columns", "normalised", "factored"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_parameters(name, dtype):
    """They are pairs of reals, side by side."""
    wide = dtype is torch.complex128
    check(name, [(3, 4), (2, 3, 5), (1, 1)], dtype, 1e-12 if wide else 2e-6)


# So many small matrices that vectors take one number of each: of rows and columns that
# the kernel knows, and of others. Some are left over at the end.
FILTERS = [(19, 1, 1), (8, 1, 3), (3, 3, 2, 1), (33, 3, 3), (17, 2, 2), (9, 4, 3)]
FILTERS += [(5, 2, 5, 4), (8, 2, 31), (11, 19, 1)]


def test_small_matrices_have_few_kernels():
    """One for all of any size, and for each of the least sizes another."""
    shapes = [(8, 3, 3), (99, 3, 3), (2, 4, 1, 1), (8, 7, 7), (4, 2, 5, 4), (7, 3, 3)]
    _, optimizer = trained("factored", shapes, steps=1)
    known = {
        tuple(member.param.shape): getattr(bucket.kernel.passes, "matrix", None)
        for bucket in optimizer._plan.buckets
        for member in bucket.members
    }
    assert len(optimizer._plan.buckets) == 4
    assert known == {
        (8, 3, 3): ("3", "3"),
        (99, 3, 3): ("3", "3"),
        (2, 4, 1, 1): ("1", "1"),
        (8, 7, 7): ANY,
        (4, 2, 5, 4): ANY,
        (7, 3, 3): None,
    }


@each(ALL)
def test_small_matrices(name):
    """A rule does the same to the filters of a convolution."""
    check(name, [(19, 1, 1), (33, 3, 3), (5, 2, 5, 4)])


@each(["factored", "masks_of_rows", "wholes_of_rows", "many_passes"])
def test_small_matrices_of_all_shapes(name):
    check(name, FILTERS)


@each(["factored", "masks_of_rows", "many_passes", "only_small_slots_change"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-6), (torch.bfloat16, 2**-6), (torch.float16, 2**-9)],
    ids=str,
)
def test_dtypes_of_small_matrices(name, dtype, tolerance):
    """What is narrower is widened before it is turned."""
    check(name, [(33, 3, 3), (9, 5, 4)], dtype, tolerance)


@each(["factored", "slots_of_slots"])
@pytest.mark.parametrize(
    ("dtype", "grad_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)],
    ids=str,
)
def test_mixed_dtypes_of_small_matrices(name, dtype, grad_dtype):
    check(name, [(33, 3, 3), (9, 5, 4)], dtype, 2**-6, grad_dtype=grad_dtype)


@each(["centred", "centred_columns", "factored"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_small_complex_matrices(name, dtype):
    """A matrix has twice as many columns of reals."""
    wide = dtype is torch.complex128
    shapes = [(19, 1, 1), (9, 2, 3), (33, 3, 3)]
    check(name, shapes, dtype, 1e-12 if wide else 2e-6)


# Chunks have 65,536 numbers, or 16 rows where these are long.
LARGE = [(300, 500), (3, 200_001), (70_003, 3), (1, 65_537), (65_537, 1), (2, 150, 300)]
MANY = [(70_003, 1, 1), (20_001, 3, 3), (7001, 5, 4)]


@each(["trust_ratio", "factored", "masks_of_rows", "many_passes"])
def test_large_tensors(name):
    """Whose chunks each have a part of the sums."""
    check(name, [*LARGE, *MANY], tolerance=1e-10, steps=2)


@each(["factored", "normalised", "many_passes"])
def test_large_tensors_in_float32(name):
    """The sums are rounded, as many times as a row or a chunk has numbers."""
    check(name, [*LARGE, *MANY], torch.float32, 5e-5, steps=2)


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 131_072, 200_003])
def test_sizes_about_a_chunks(size):
    """The last chunk is short, or full."""
    check("trust_ratio", [(size,)], tolerance=1e-10)
    check("factored", [(size // 64, 64)], tolerance=1e-10)


@each(["trust_ratio", "factored", "slots_of_slots", "only_small_slots_change"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3), (0, 2, 2)], ids=str)
@pytest.mark.parametrize("foreach", [None, False])
def test_empty_parameters(name, shape, foreach):
    """They pass beside others, and nothing is written anywhere but their counters."""
    _, optimizer = trained(name, [(3, 4), (5, 2), shape], foreach=foreach)
    expected, _ = trained(name, [(3, 4), (5, 2)], foreach=foreach)
    params = optimizer.param_groups[0]["params"]
    found = state_of(optimizer, params[:2])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert params[2].shape == shape
    state = optimizer.state[params[2]]
    assert all((state[name] == 0).all() for name in state.keys() - {"step"})
    assert state.get("step", 3) == 3


@pytest.mark.parametrize(("name", "count"), [("centred", 4), ("centred_columns", 1)])
def test_long_rows_are_shared_out(name, count):
    """Unless columns are summed up, of which each chunk has its parts."""
    check(name, [(4, 100_000)])
    _, optimizer = trained(name, [(4, 100_000)], steps=1)
    assert optimizer._plan.buckets[0].table.arrays["chunk"].shape[1] == count


@pytest.fixture
def shared(monkeypatch, threads):
    """Any work is shared, among as many threads as the test says."""
    monkeypatch.setattr(team, "SERIAL_BYTES", 0)
    return threads


@each(["trust_ratio", "decayed_by_size", "factored", "masks_of_rows", "many_passes"])
def test_threads_do_not_change_a_bit(name, shared):
    """The parts of chunks are added in the order of the chunks."""
    shapes = [(2, 3), *LARGE, *MANY, (19, 3, 3), (5, 7), (1000, 200)]
    results = []
    for count in (1, 2, 3):
        shared(count)
        results.append(trained(name, shapes, torch.float32, steps=2)[0])
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@each(["factored", "many_passes"])
@pytest.mark.parametrize("grain", [1, 5])
def test_many_steps_of_many_tensors(name, grain, shared, monkeypatch):
    """Passes wait for the former ones, step after step, whoever claims what."""
    monkeypatch.setattr(team, "grain", lambda traffic, chunks: grain)
    shapes = [(3, 4)] * 40 + [(300, 400), (70_000, 2)] + [(5, 3)] * 40 + [(400, 500)]
    shapes += [(9, 3, 3)] * 20 + [(20_000, 3, 3)]
    results = []
    for count in (1, 3):
        shared(count)
        results.append(trained(name, shapes, torch.float32, steps=50)[0])
    assert all(map(torch.equal, *results))


# Stages, and options


STAGES = {
    "average": {"ema_decay": 0.75},
    "norm": {"clip_grad_norm": 1.0},
    "value": {"clip_grad_value": 0.25},
    "all": {"ema_decay": 0.5, "clip_grad_norm": 1.0, "nonfinite": "skip"},
}
STAGED = ("trust_ratio", "factored", "a_row_for_all", "only_small_slots_change")


@each(STAGED)
@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_stages(name, stages):
    """Gradients are clipped before they are summed; averages are of the new values."""
    check(name, [*MATRICES, (19, 3, 3)], **stages)


@each(STAGED)
def test_gradients_that_are_not_finite(name):
    """The step is left out, state and all."""
    kind, hyperparameters = RULES[name]
    params = [draw(shape, torch.float32, 0).requires_grad_() for shape in MATRICES]
    optimizer = kind(params, **hyperparameters)
    optimizer.nonfinite = "skip"
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    before = state_of(optimizer, params)
    params[-1].grad.fill_(float("nan"))
    optimizer.step()
    assert all(map(torch.equal, state_of(optimizer, params), before))


@each(["trust_ratio", "slots_of_slots", "centred"])
def test_maximize(name):
    """Every pass negates the gradient."""
    runs = []
    for sign, options in ((1, {"maximize": True}), (-1, {})):
        kind, hyperparameters = RULES[name]
        params = [draw(shape, torch.float64, 0).requires_grad_() for shape in MATRICES]
        optimizer = kind(params, **hyperparameters, **options)
        for step in range(3):
            for param in params:
                param.grad = sign * draw(param.shape, torch.float64, step)
            optimizer.step()
        assert engines(optimizer) == "kernel"
        runs.append(state_of(optimizer, params))
    assert all(map(torch.equal, *runs))
