from tests.contract.case import Case

case = Case(
    lr_in_state=True,
    # The average begins within the steps of a test, which torch's table never reaches.
    arguments={"averaging": {"t0": 2, "lambd": 0.1, "alpha": 0.5}},
)
