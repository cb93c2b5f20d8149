from tests.contract.case import Case

case = Case(sparse="also", stateful={"momentum": 0.9})
