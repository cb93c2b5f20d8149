"""polyak and ``torch.optim`` measured side by side: ``python -m benchmarks --help``."""
