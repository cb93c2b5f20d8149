from tests.contract.harness import Case

case = Case(early_state=True)
