from tests.contract.harness import Case

case = Case(sparse="also", sparse_refuses=("weight_decay",), early_state=True)
