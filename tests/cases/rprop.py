from tests.contract.harness import Case

case = Case(lr_in_state=True)
