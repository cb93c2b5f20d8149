from tests.contract.harness import Case

case = Case(
    closure=True,
    groups=False,
    kernel=False,
    keeps_lr=True,
    # torch's flattens gradients with `view`, which these do not allow.
    layouts=("matrix", "vector", "scalar", "empty", "images", "sliced"),
)
