from tests.contract.case import Case

case = Case(
    lr_in_state=True,
    # Both bounds are reached within the steps of a test.
    arguments={"bounds": {"step_sizes": (0.009, 0.0125)}},
)
