from tests.contract.harness import Case

case = Case(sparse="also", stateful={"momentum": 0.9})
