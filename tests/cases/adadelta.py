from tests.contract.case import Case

case = Case(
    ulps=16,
    why_ulps="Both factors of a step are normalised: what weight decay rounds where it "
    "nearly cancels a gradient reaches acc_delta at full size.",
)
