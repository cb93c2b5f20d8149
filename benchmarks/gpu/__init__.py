"""Checks and figures of polyak on a GPU; ``benchmarks/gpu.sh`` runs them."""
