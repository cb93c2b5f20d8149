from tests.contract.case import Case

case = Case(
    closure=True,
    joint=True,
    kernel=False,
    # torch's flattens gradients with `view`, which other layouts do not allow.
    layouts=("matrix", "vector", "scalar", "empty", "images", "sliced"),
    # torch's keeps a tensor `lr` as the length `t` of the last step: changed in place,
    # the next curvature is that of a step which was not made. polyak keeps the number.
    keeps_lr=True,
)
