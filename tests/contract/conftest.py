import pytest

# Failing assertions of the helpers show their operands, as those of tests do.
pytest.register_assert_rewrite("tests.contract.comparison")
