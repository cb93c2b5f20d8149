"""Let the optimizer compute the loss: a closure, with LBFGS and with SGD.

LBFGS evaluates the loss several times a step, so it must be given a function that does
it. Every other optimizer takes one, too, and calls it once.
"""

import torch

import polyak as optim


def main() -> dict[str, list[float]]:
    """Return the slope and the intercept that each optimizer finds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(-1, 1, 50)
    y = 3 * x - 1 + 0.1 * torch.randn(50, generator=generator)
    found = {}

    for name, steps in [("LBFGS", 3), ("SGD", 200)]:
        line = torch.zeros(2, requires_grad=True)
        if name == "LBFGS":
            optimizer = optim.LBFGS([line], line_search_fn="strong_wolfe")
        else:
            optimizer = optim.SGD([line], lr=0.1, momentum=0.9)

        def closure(line=line, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (line[0] * x + line[1] - y).square().mean()
            loss.backward()
            return loss

        for _ in range(steps):
            loss = optimizer.step(closure)  # the loss before the step

        found[name] = line.tolist()
        slope, intercept = found[name]
        print(f"{name}, {steps} steps: {slope:.4f} x {intercept:+.4f}, loss {loss:.6f}")
    return found


if __name__ == "__main__":
    main()
