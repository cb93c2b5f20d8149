import torch

from tests.contract.case import Case


class NAdam(torch.optim.NAdam):
    """torch's, but ``mu_product`` is rounded after the step, not in its middle.

    torch multiplies it in float32, and divides by one minus what that gives: parameters
    in float64 then move by rates that have the precision of float32.
    """

    def _init_group(self, *args):
        has_complex = super()._init_group(*args)
        mu_products = args[5]
        exact = [product.double() for product in mu_products]
        self.products += zip(mu_products, exact, strict=True)
        mu_products[:] = exact
        return has_complex

    def step(self, closure=None):
        self.products = []
        # Only the outer step may run the hooks, which torch wraps around each class.
        step = torch.optim.NAdam.step
        inner = step.__wrapped__ if getattr(step, "hooked", False) else step
        loss = inner(self, closure)
        for product, exact in self.products:
            product.copy_(exact)
        return loss


case = Case(
    reference=NAdam,
    arguments={
        "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
        # The momentum goes half of its way within the steps of a test.
        "fast": {"betas": (0.8, 0.9), "eps": 0.1, "momentum_decay": 2.0},
        "no_momentum": {"betas": (0.0, 0.9), "momentum_decay": 0.0},
    },
)
