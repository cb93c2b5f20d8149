import torch

from tests.contract.case import Case

case = Case(
    arguments={
        "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
        "no_momentum": {"betas": (0.0, 0.9), "eps": 0.1},
        "tensors": {
            "lr": torch.tensor(0.01),
            "betas": (torch.tensor(0.8), torch.tensor(0.9)),
        },
    }
)
