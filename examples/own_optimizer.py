"""Write an optimizer of your own in ten lines, and get a fused kernel for it.

``Agree`` averages the signs of the gradient. Where they agree from step to step it
takes steps of the full length ``lr``; where they cannot decide it hardly moves.
"""

import torch

import polyak


class Agree(polyak.Optimizer):
    """Steps as long as the gradient's signs agree."""

    def __init__(self, params, lr=0.01, beta=0.9):
        super().__init__(params, dict(lr=lr, beta=beta))

    @staticmethod
    def rule(param, grad, sign_avg, *, step, lr, beta):
        sign_avg = polyak.ema(sign_avg, torch.sign(grad), beta)
        param = param - lr * sign_avg / (1 - beta**step)
        return param, sign_avg


def main(steps: int = 300) -> torch.Tensor:
    """Return the minimum of a bowl that is a thousand times steeper one way."""
    point = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = Agree([point])
    for _ in range(steps):
        loss = 0.5 * point[0] ** 2 + 500 * (point[1] + 1) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    print(polyak.explain(optimizer, kernel=True))
    print(f"from (1, -2) to ({point[0]:.3f}, {point[1]:.3f}); the minimum is (0, -1)")
    return point.detach()


if __name__ == "__main__":
    main()
