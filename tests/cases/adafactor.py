from tests.contract.case import Case

case = Case(
    arguments={
        "all": {"eps": (1e-3, 0.1), "d": 2.0, "lr": 0.3, "weight_decay": 0.1},
        "constant_rate": {"beta2_decay": 0.0, "lr": 1.0},
    },
    error_arguments=(
        ({"eps": 1e-3}, ValueError, "Adafactor needs 2 numbers"),
        ({"eps": (None, None)}, TypeError, "Adafactor needs a number for eps"),
    ),
    # torch divides by the number of numbers.
    layouts=(
        "matrix",
        "vector",
        "scalar",
        "images",
        "channels_last",
        "transposed",
        "sliced",
    ),
    # A complex matrix is one of reals that is twice as wide; torch refuses it.
    takes=("does not support complex parameters",),
    complex=False,
    in_order=True,
)
