"""Rules with sums: one launch, in which programs wait for each other's passes."""

import pytest
import torch

import polyak
from polyak import Slot
from polyak.engine.triton import tiles, units
from polyak.engine.triton.bucket import TritonBucket
from polyak.engine.triton.live import LiveBucket
from polyak.engine.triton.tiles import tiling
from tests.contract.comparison import assert_same_training
from tests.contract.harness import argument_sets, in_kernels, make, parameters
from tests.contract.harness import give_gradients as contract_gradients
from tests.engine.support import probe, state_of
from tests.engine.test_reductions import RULES, check, trained

from .support import give_gradients, pair, params_of
from .support import in_kernels as served

# NumPy tells of what is computed where a mask leaves it out.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

# A matrix of six chunks, filters, a row and a tall matrix of two, and a small one.
CHUNKED = [(9, 300), (70, 4, 4), (1, 1100), (300, 3), (3, 4)]


@pytest.fixture
def chunked(monkeypatch):
    """A chunk is a tile, and the passes over several tensors are mixed."""
    monkeypatch.setattr(tiles, "LEAST", 1)
    monkeypatch.setattr(units, "LAG", 2000)
    tiling.cache_clear()
    yield
    tiling.cache_clear()


def work(optimizer):
    """What the programs of the only bucket do."""
    (bucket,) = optimizer._plan.buckets
    return bucket.work


def each(names):
    return pytest.mark.parametrize("name", names)


@each(RULES)
def test_small_tensors(name):
    """Each is one chunk: its program makes all passes."""
    check(name, [(3, 4), (2, 3, 5)], steps=2)


@each(["normalised", "factored", "wholes_of_rows"])
def test_many_chunks(name, chunked):
    """Sums of all numbers, rows and columns, of parts and of sums; waiting passes."""
    check(name, CHUNKED, tolerance=1e-11, steps=2)
    _, optimizer = trained(name, CHUNKED, steps=1)
    assert work(optimizer).programs > 12


@each(["exchanged", "masks_of_rows", "a_row_for_all", "normalised_matrices"])
def test_a_matrix_of_many_chunks(name, chunked):
    check(name, [(9, 140), (2, 9, 70)], tolerance=1e-11, steps=2)


@each(["trust_ratio", "nested_wholes"])
def test_any_shape_where_rows_are_not_told_apart(name, chunked):
    check(name, [(2500,), (), (3, 1), (5, 500)], tolerance=1e-11, steps=2)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-6), (torch.bfloat16, 2**-6), (torch.float16, 2**-9)],
    ids=str,
)
@each(["trust_ratio", "factored"])
def test_dtypes(name, dtype, tolerance, chunked):
    check(name, [(9, 300), (3, 4)], dtype, tolerance, steps=2)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex(dtype, chunked):
    """Rows are those of reals, side by side; alike in every engine with kernels."""
    tolerance = 1e-12 if dtype is torch.complex128 else 2e-6
    check("centred", [(3, 4), (9, 150)], dtype, tolerance, steps=2)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3)], ids=str)
def test_empty_parameters(shape):
    """Nothing is written where there is nothing to take a mean of."""
    _, optimizer = trained("factored", [(3, 4), shape], steps=2)
    param = optimizer.param_groups[0]["params"][1]
    served(optimizer)
    state = optimizer.state[param]
    assert all((state[name] == 0).all() for name in ("rows", "columns"))


def test_epsilon():
    """The spacing of numbers at one, in a rule without sums too."""

    def rule(param, grad, *, lr):
        return param - lr * grad / (grad.abs() + polyak.terms.epsilon(grad))

    kind = probe(rule)
    for dtype in (torch.float32, torch.float64):
        fused, eager = pair(lambda d=dtype: kind([torch.ones(5, dtype=d)], lr=0.5))
        for optimizer in (fused, eager):
            give_gradients(params_of(optimizer), 0)
            optimizer.step()
        served(fused)
        assert_same_training(fused, eager, 2)


# Adafactor


@pytest.mark.parametrize("label", argument_sets("Adafactor"))
def test_adafactor(label):
    arguments, layouts = argument_sets("Adafactor")[label], in_kernels("Adafactor")
    fused, eager = pair(
        lambda: make(polyak.Adafactor, parameters("Adafactor", layouts), arguments)
    )
    scales = {}
    for step in range(3):
        for optimizer in (fused, eager):
            contract_gradients("Adafactor", params_of(optimizer), step)
            optimizer.step()
        assert_same_training(fused, eager, 8 * (step + 1), scales)
    served(fused, kind_of(fused))


def kind_of(optimizer):
    (kind,) = {type(bucket) for bucket in optimizer._plan.buckets}
    return kind


def adafactor(shapes=((9, 300), (70, 4, 4), (5,)), dtype=torch.float32, **more):
    rng = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=rng).to(dtype) for shape in shapes]
    return polyak.Adafactor([p.requires_grad_() for p in params], lr=0.1, **more)


def stepped(optimizer, steps=2):
    for step in range(steps):
        give_gradients(params_of(optimizer), step)
        optimizer.step()
    return state_of(optimizer, params_of(optimizer))


def test_the_same_bits_twice(chunked):
    """Parts are added in an order that only the shape decides."""
    first, second = (stepped(adafactor()) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_counters_are_ready_for_the_next_launch(chunked):
    """They are 0 after each step, and nobody clears them: a replay needs it."""
    optimizer = adafactor()
    for step in range(3):
        give_gradients(params_of(optimizer), step)
        optimizer.step()
        for bucket in optimizer._plan.buckets:
            assert not any(map(torch.any, bucket.work.beside[1:]))


def test_groups_that_differ(chunked):
    """Tensors of one launch have rows of scalars of their own."""

    def build():
        optimizer = adafactor()
        params = params_of(optimizer)
        groups = [dict(params=params[:1], lr=0.2), dict(params=params[1:], d=2.0)]
        return polyak.Adafactor(groups, lr=0.05)

    fused, eager = pair(build)
    for step in range(2):
        for optimizer in (fused, eager):
            give_gradients(params_of(optimizer), step)
            optimizer.step()
        assert_same_training(fused, eager, 16 * (step + 1))
    served(fused)


@pytest.mark.parametrize("maximize", [False, True])
def test_memory_that_is_not_aligned(maximize, chunked):
    """Views that begin anywhere, beside rows that are multiples of 16."""

    def build():
        flat = torch.linspace(-1, 1, 9000)
        views = [flat[1:2881].view(9, 320), flat[4816:6256].view(9, 160)]
        params = [view.requires_grad_() for view in views]
        return polyak.Adafactor(params, lr=0.1, maximize=maximize)

    fused, eager = pair(build)
    for optimizer in (fused, eager):
        stepped(optimizer)
    served(fused)
    assert_same_training(fused, eager, 32)


def test_a_step_that_is_left_out_changes_nothing(chunked):
    """Not the state of rows and columns, and no counter: the next step is right."""
    optimizer, reference = adafactor(), adafactor()
    for each in (optimizer, reference):
        give_gradients(params_of(each), 0)
        each.step()
    (bucket, *_) = optimizer._plan.buckets
    before = state_of(optimizer, params_of(optimizer))
    bucket.skip = torch.tensor(1.0)
    bucket._start()
    bucket.skip = None
    found = state_of(optimizer, params_of(optimizer))
    assert all(map(torch.equal, found, before))
    for each in (optimizer, reference):
        give_gradients(params_of(each), 1)
        each.step()
    found, expected = (state_of(o, params_of(o)) for o in (optimizer, reference))
    assert all(map(torch.equal, found, expected))


def test_scalars_on_the_device(chunked):
    """A rule with sums, whose counter is computed on the device."""

    def rule(param, grad, rows, *, step, lr):
        rows = rows + (grad.square().mean(-1, keepdim=True) - rows) / step
        return param - lr * grad / (rows.sqrt() + grad.norm()), rows

    kind = probe(rule, {"rows": Slot(per="row")})

    def build():
        params = [torch.ones(9, 300), torch.ones(3, 4)]
        lr = torch.tensor(0.1)
        return kind([p.requires_grad_() for p in params], lr=lr, capturable=True)

    fused, eager = pair(build)
    for step in range(3):
        for optimizer in (fused, eager):
            give_gradients(params_of(optimizer), step)
            optimizer.step()
    served(fused, LiveBucket)
    assert_same_training(fused, eager, 24)


def test_clipped_gradients(chunked):
    """They are clipped before they are summed, by a factor from the device."""
    fused, eager = pair(lambda: adafactor(clip_grad_norm=1.0, clip_grad_value=0.02))
    for optimizer in (fused, eager):
        stepped(optimizer)
    served(fused, kind_of(fused))
    assert_same_training(fused, eager, 32)


# Who does what


def test_a_pass_that_begins_too_early_fails(monkeypatch, chunked):
    """Where programs run one after another, waiting would be for ever."""
    order = units._units
    monkeypatch.setattr(units, "_units", lambda *given: order(*given)[::-1].copy())
    with pytest.raises(Exception, match="before the one before has ended"):
        stepped(adafactor(((9, 300),)), steps=1)


def test_units_are_in_an_order_that_cannot_block(chunked):
    """All units of a pass have lower tickets than those of the next."""
    optimizer = adafactor()
    stepped(optimizer, steps=1)
    for bucket in optimizer._plan.buckets:
        made = bucket.work
        records = made.words[made._units_at :].reshape(-1, 6)
        assert len(records) == made.programs
        for tensor in set(records[:, 0].tolist()):
            passes = records[records[:, 0] == tensor, 1]
            assert (passes[1:] >= passes[:-1]).all()


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((1, 4096, 4096), (16, tiles.ROWS, 1, 8, 128)),
        ((1, 1, 10_000_000), (16, tiles.COLUMNS, 1, 1, 1024)),
        ((1, 10_000_000, 3), (1, tiles.ROWS, 1, 256, 4)),
        ((262_144, 3, 3), (1, tiles.MATRICES, 64, 4, 4)),
        ((1_000_000, 1, 64), (16, tiles.MATRICES, 16, 1, 64)),
        ((1, 1_000_000, 64), (16, tiles.ROWS, 1, 16, 64)),
        ((65_536, 1, 1), (1, tiles.MATRICES, 1024, 1, 1)),
        ((1, 1000, 769), (1, tiles.ROWS, 1, 8, 128)),
    ],
    ids=str,
)
def test_tiles(shape, tile):
    """Each kind of tensor has its own, and chunks that cover all of it."""
    found = tiling(1024, *shape, has_rows=True)
    assert found.tile == tile
    for size, span, pieces in zip(shape, found.spans, found.pieces, strict=True):
        assert span * (pieces - 1) < size <= span * pieces


@pytest.mark.parametrize("size", [1, 63, 64, 4097, 2**33 + 1])
def test_long_vectors_are_shared_out(size):
    found = tiling(1024, 1, 1, size, has_rows=False)
    assert found.spans[2] * (found.pieces[2] - 1) < size
    assert size <= found.spans[2] * found.pieces[2]


def test_one_launch_for_all(monkeypatch, chunked):
    """Of all shapes, and all passes."""
    launched = []
    launch = units.Units.launch
    monkeypatch.setattr(
        units.Units, "launch", lambda *args: (launched.append(1), launch(*args))
    )
    optimizer = adafactor(((9, 300), (70, 4, 4), (3, 4)))
    stepped(optimizer, steps=1)
    assert len(launched) == 1
    assert type(optimizer._plan.buckets[0]) is TritonBucket


def test_the_source_reads_as_passes_and_interludes():
    """And is the same whatever the shapes."""
    kernels = [
        polyak.explain(adafactor((shape,))).kernels for shape in ((3, 4), (9, 2, 200))
    ]
    assert kernels[0] == kernels[1]
    text = kernels[0][0].listing
    for name in ("pass0", "own0", "all0", "pass1", "all1", "pass2", "own2"):
        assert f"def {name}(" in text
    assert "all2" not in text
