from tests.contract.case import LAYOUTS, Case

case = Case(
    sparse="only",
    complex=False,
    kernel=False,
    layouts=tuple(label for label in LAYOUTS if label != "scalar"),
)
