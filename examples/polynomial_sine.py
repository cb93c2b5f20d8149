"""Fit a third-order polynomial to a sine with RMSprop.

The learning rate shrinks a little at every step, so that the coefficients settle.
"""

import math

import torch

import polyak as optim


def main(steps: int = 3000) -> list[float]:
    """Return the coefficients a, b, c, d of a + b x + c x² + d x³."""
    x = torch.linspace(-math.pi, math.pi, 200)
    y = torch.sin(x)
    powers = torch.stack([x**0, x, x**2, x**3], dim=1)

    coefficients = torch.zeros(4, requires_grad=True)
    optimizer = optim.RMSprop([coefficients], lr=0.03)

    for _ in range(steps):
        loss = (powers @ coefficients - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.998

    a, b, c, d = coefficients.tolist()
    print(f"sin x ≈ {a:.4f} {b:+.4f} x {c:+.4f} x² {d:+.4f} x³, loss {loss:.5f}")
    return [a, b, c, d]


if __name__ == "__main__":
    main()
