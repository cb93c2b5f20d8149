from tests.contract.case import Case

case = Case()
