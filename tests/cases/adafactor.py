from tests.contract.harness import Case

case = Case(complex=False, kernel=False)
