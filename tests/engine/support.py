"""What the engine tests share: optimizers made of one rule, and who ran what."""

import torch

import polyak


def probe(rule, slots=None, name="Probe", **keys):
    """An optimizer class with this rule. ``Probe(params, lr=0.1)`` makes its group."""

    def __init__(
        self, params, foreach=None, fused=None, maximize=False, **hyperparameters
    ):
        switches = {"foreach": foreach, "fused": fused, "maximize": maximize}
        polyak.Optimizer.__init__(self, params, {**hyperparameters, **switches})

    body = {"rule": staticmethod(rule), "slots": slots or {}, "__init__": __init__}
    return type(name, (polyak.Optimizer,), {**body, **keys})


def parameter(values, grad=None, dtype=None):
    """A parameter with a gradient, both copies."""
    made = torch.as_tensor(values, dtype=dtype).clone().requires_grad_()
    if grad is not None:
        made.grad = torch.as_tensor(grad, dtype=made.dtype).clone()
    return made


def engines(optimizer):
    """Which engines the plan of the last step uses: "kernel", "eager" or both."""
    plan = optimizer._plan
    found = ["kernel"] if plan.buckets else []
    return " and ".join(found + (["eager"] if plan.eager else []))


def why_eager(optimizer):
    """The reasons why parameters of the last step ran eagerly."""
    return [entry.reason for entry in optimizer._plan.eager]


def assert_close(found, expected):
    """Equal but for the rounding of some operations."""
    torch.testing.assert_close(found, expected, rtol=3e-6, atol=3e-6, equal_nan=True)


def state_of(optimizer, params):
    """Copies of parameters and of their state, in order."""
    state = [optimizer.state.get(param, {}) for param in params]
    values = [value for held in state for value in held.values() if value is not None]
    return [torch.as_tensor(value).detach().clone() for value in [*params, *values]]


def random_gradients(params, step):
    """Give the parameters the gradients of a step."""
    generator = torch.Generator().manual_seed(step)
    for param in params:
        drawn = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        param.grad = drawn.to(param.dtype)


def steps_like_eager(make, *, dtype=torch.float32, steps=3, engine="kernel"):
    """Step fused and eagerly, and compare all tensors after each step."""
    runs = []
    for foreach in (None, False):
        values = torch.randn(9, generator=torch.Generator().manual_seed(7))
        params = [parameter(values.to(dtype)), parameter(values[:1].to(dtype))]
        optimizer, record = make(params, foreach=foreach), []
        for step in range(steps):
            random_gradients(params, step)
            optimizer.step()
            assert engines(optimizer) == ("eager" if foreach is False else engine)
            record.append(state_of(optimizer, params))
        runs.append(record)
    assert_close(*runs)


# Scenarios: something that happens to an optimizer between its steps


class Run:
    """An optimizer on parameters of its own, and what was seen after each step.

    Attributes:
        engine: "kernel", "eager" for polyak's eager engine, or "torch".
    """

    def __init__(self, engine, kind, params, hyperparameters):
        library = torch.optim if engine == "torch" else polyak
        self.engine, self.kind, self.params = engine, getattr(library, kind), params
        self.hyperparameters = hyperparameters | {
            "foreach": None if engine == "kernel" else False
        }
        self.optimizer = self.new_optimizer(params)
        self.record, self.count = [], 0

    def new_optimizer(self, params, **more):
        return self.kind(params, **self.hyperparameters, **more)

    @property
    def slot(self):
        """The name of a slot of this kind of optimizer."""
        return {"Adam": "exp_avg", "SGD": "momentum_buffer"}[self.kind.__name__]

    @property
    def groups(self):
        return self.optimizer.param_groups

    def state(self, index=0):
        """The state of a parameter."""
        return self.optimizer.state[self.params[index]]

    def gradients(self):
        """Give every parameter a new gradient."""
        self.count += 1
        random_gradients(
            [p for p in self.params if p.layout is torch.strided], self.count
        )

    def step(self, engine="kernel", gradients=True):
        """Step, with new gradients. With kernels it should use ``engine``, if given."""
        if gradients:
            self.gradients()
        self.optimizer.step()
        if self.engine == "kernel" and engine is not None:
            assert engines(self.optimizer) == engine, why_eager(self.optimizer)
        self.record.append(state_of(self.optimizer, self.params))

    def steps(self, count=2, engine="kernel"):
        for _ in range(count):
            self.step(engine)


HYPERPARAMETERS = {
    "Adam": dict(lr=0.1, weight_decay=0.01),
    "SGD": dict(lr=0.1, momentum=0.9, weight_decay=0.01),
}


def three():
    """A matrix, a vector and a number."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (7,), ()]
    return [
        torch.randn(shape, generator=generator).requires_grad_() for shape in shapes
    ]


def compare(scenario, kinds, params, references, hyperparameters):
    """Run a scenario with kernels and with each reference, and compare all steps."""
    for kind in kinds:
        records = {}
        for engine in ("kernel", *references):
            options = HYPERPARAMETERS[kind] | hyperparameters
            run = Run(engine, kind, params(), options)
            scenario(run)
            assert run.record
            records[engine] = run.record
        for engine in references:
            assert_close(records["kernel"], records[engine])


def compared(*kinds, params=three, references=("eager", "torch"), **hyperparameters):
    """Make a test of a scenario: it is run with every engine, and must do the same.

    Args:
        kinds: names of optimizers, Adam and SGD if none is given.
        params: makes the parameters.
        references: what to compare with.
        hyperparameters: beside those of :data:`HYPERPARAMETERS`.
    """

    def decorate(scenario):
        def test():
            chosen = kinds or tuple(HYPERPARAMETERS)
            compare(scenario, chosen, params, references, hyperparameters)

        test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
        return test

    return decorate
