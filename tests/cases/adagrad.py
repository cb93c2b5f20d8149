import functools

import torch

from tests.contract.case import Case


class Adagrad(torch.optim.Adagrad):
    """torch's, but a group's own ``initial_accumulator_value`` counts.

    torch begins every sum with the constructor's value and ignores the group's.
    """

    @functools.wraps(torch.optim.Adagrad.__init__)
    def __init__(self, params, *args, **kwargs):
        super().__init__(params, *args, **kwargs)
        for group in self.param_groups:
            value = group["initial_accumulator_value"]
            for param in group["params"]:
                begin = complex(value, value) if param.is_complex() else value
                self.state[param]["sum"].fill_(begin)


case = Case(
    reference=Adagrad,
    sparse="also",
    sparse_refuses=("weight_decay",),
    early_state=True,
)
