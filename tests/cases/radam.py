from tests.contract.case import Case

case = Case(
    arguments={
        "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
        # Steps are adaptive from the sixth on by default, from the seventh here.
        "later": {"betas": (0.5, 0.8), "eps": 0.1},
        # Their variance is not even finite.
        "never": {"betas": (0.9, 0.6)},
    }
)
