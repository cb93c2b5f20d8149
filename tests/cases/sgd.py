from tests.contract.harness import Case

case = Case(stateful={"momentum": 0.9})
