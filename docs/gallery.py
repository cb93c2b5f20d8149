"""The gallery of schedules: ``python -m docs.gallery`` writes it, and its pictures.

What a schedule is, its formula and its arguments are taken from its docstring; here is
only what is drawn. ``docs/schedules.md`` is not edited by hand.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from polyak import lr_scheduler, schedules
from polyak.pictures import Future, future
from polyak.pictures.figure import draw

HERE = Path(__file__).parent
PAGE, PICTURES = HERE / "schedules.md", HERE / "pictures"

# What is drawn of each schedule, and for how many steps.
CURVES = {
    "warmup": ("warmup(20)", 101),
    "constant": ("constant(0.5)", 101),
    "linear": ("linear(1, 0.1, steps=80)", 101),
    "cosine": ("cosine(80, final=0.1)", 101),
    "polynomial": ("polynomial(80, power=2)", 101),
    "exponential": ("exponential(0.96)", 101),
    "step": ("step(30, gamma=0.5)", 101),
    "multistep": ("multistep([50, 80])", 101),
    "rex": ("rex(100)", 101),
    "warmup_cosine": ("warmup_cosine(10, 100)", 101),
    "wsd": ('wsd(10, 60, 30, shape="sqrt")', 101),
    "inverse_sqrt": ("inverse_sqrt(10)", 101),
    "one_cycle": ("one_cycle(100)", 101),
    "cosine_restarts": ("cosine_restarts(20, mult=2)", 141),
    "cyclic": ('cyclic(5, up=20, mode="triangular2")', 161),
    "custom": ("custom(lambda k: 1 / (1 + 0.1 * k))", 101),
    "multiplicative": ("multiplicative(lambda k: 0.99 if k % 10 else 0.8)", 101),
    "absolute": ("absolute(linear(0.95, 0.85, steps=80))", 101),
}

COMPOSED = {
    "One after another": (
        "`a | b` is `a` for its length, then `b`, counted from there.",
        ("warmup(10) | constant().until(40) | cosine(50)", 101),
    ),
    "At once": (
        "`a * b` multiplies schedules, and `0.5 * a` a schedule and a number.",
        ("0.5 * cosine(100) * step(20, gamma=0.6)", 101),
    ),
    "Until": (
        "`a.until(n)` ends a schedule, so that another can follow. `a.strict()` makes "
        "a step past the end an error.",
        ("exponential(0.95).until(30) | linear(0.2, 0, steps=50)", 101),
    ),
    "In epochs": (
        "`a.in_epochs(n)` counts in epochs of `n` steps; with `smooth=True` it goes on "
        "within an epoch.",
        ("cosine(10).in_epochs(10)", 101),
    ),
}

# The same of each scheduler. `o` is an optimizer with the learning rate 0.1.
SCHEDULERS = {
    "Scheduler": (
        "Scheduler(o, lr=warmup(10) | cosine(90), weight_decay=linear(1, 0.1, 100))",
        101,
    ),
    "LambdaLR": ("LambdaLR(o, lambda epoch: 0.95**epoch)", 101),
    "MultiplicativeLR": ("MultiplicativeLR(o, lambda epoch: 0.97)", 101),
    "StepLR": ("StepLR(o, step_size=30, gamma=0.5)", 101),
    "MultiStepLR": ("MultiStepLR(o, milestones=[50, 80])", 101),
    "ConstantLR": ("ConstantLR(o, factor=0.5, total_iters=40)", 101),
    "LinearLR": ("LinearLR(o, start_factor=0.1, total_iters=40)", 101),
    "ExponentialLR": ("ExponentialLR(o, gamma=0.96)", 101),
    "PolynomialLR": ("PolynomialLR(o, total_iters=80, power=2.0)", 101),
    "CosineAnnealingLR": ("CosineAnnealingLR(o, T_max=100)", 101),
    "CosineAnnealingWarmRestarts": (
        "CosineAnnealingWarmRestarts(o, T_0=20, T_mult=2)",
        141,
    ),
    "CyclicLR": ("CyclicLR(o, base_lr=0.02, max_lr=0.1, step_size_up=20)", 161),
    "OneCycleLR": ("OneCycleLR(o, max_lr=0.1, total_steps=100)", 101),
    "SequentialLR": (
        "SequentialLR(o, [LinearLR(o), ExponentialLR(o, 0.96)], milestones=[5])",
        101,
    ),
    "ChainedScheduler": (
        "ChainedScheduler([LinearLR(o, 0.1, total_iters=20), ExponentialLR(o, 0.98)])",
        101,
    ),
    "ReduceLROnPlateau": ("ReduceLROnPlateau(o, factor=0.5, patience=5)", 101),
}

# Arguments that every scheduler has.
SHARED = ("optimizer", "last_epoch", "verbose")

INTRODUCTION = """\
# Schedules

<!-- Written by `python -m docs.gallery`: edit the docstrings, or docs/gallery.py. -->

A schedule is a pure function of the step: a factor of a base value, which schedules can
be [composed](#composed) of, [schedulers](#schedulers) set in an optimizer, and
`polyak.plot` draws. So does the command line:

```sh
polyak schedule "warmup(500) | cosine(10_000)" --lr 3e-4
```

"""


def main() -> None:
    """Write the page, and draw every picture on it."""
    PAGE.write_text(page())
    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.glob("*.svg"):
        old.unlink()
    for name, seen in pictures():
        save(seen, PICTURES / f"{name}.svg")


# The page


def page() -> str:
    """The text of ``docs/schedules.md``."""
    parts = [INTRODUCTION, "## Curves\n\n"]
    for name, (expression, _) in CURVES.items():
        parts.append(
            entry(f"`{name}`", described(getattr(schedules, name)), expression)
        )
    parts.append("## Composed\n\n")
    for heading, (sentence, (expression, _)) in COMPOSED.items():
        parts.append(entry(heading, sentence, expression))
    parts.append(
        "## Schedulers\n\n"
        "In `polyak.lr_scheduler`. `o` is an optimizer with the learning rate 0.1. "
        "Each also takes `last_epoch`, the last epoch that was done (-1 begins), and "
        "`verbose`, to print each rate that is set.\n\n"
    )
    for name, (expression, _) in SCHEDULERS.items():
        kind = getattr(lr_scheduler, name)
        parts.append(entry(f"`{name}`", described(kind), expression))
    return "".join(parts).rstrip() + "\n"


def entry(heading: str, text: str, expression: str) -> str:
    """One schedule's part of the page."""
    picture = f"![{expression}](pictures/{slug(heading)}.svg)"
    return f"### {heading}\n\n{text}\n\n```python\n{expression}\n```\n\n{picture}\n\n"


def slug(heading: str) -> str:
    """The file name of a picture."""
    return heading.strip("`").lower().replace(" ", "-")


def described(kind: type) -> str:
    """A docstring's text, formula and arguments, in Markdown."""
    text, _, rest = inspect.cleandoc(kind.__doc__ or "").partition("\n\nArgs:\n")
    given = re.split(r"\n\n(?=\S)", rest)[0]
    parts = [markdown(part) for part in re.split(r"\n\n(?=\S)", text)]
    arguments = re.findall(r"^    (\S+?): (.*(?:\n     .*)*)", given, re.MULTILINE)
    items = [
        f"- `{name}`: {markdown(meaning)}"
        for name, meaning in arguments
        if name not in SHARED
    ]
    return "\n\n".join([*parts, "\n".join(items)]).rstrip()


def markdown(paragraph: str) -> str:
    """A paragraph of a docstring, in Markdown."""
    if paragraph.startswith(".. math::"):
        formula = textwrap.dedent(paragraph.removeprefix(".. math::")).strip()
        return f"```math\n{formula}\n```"
    text = " ".join(paragraph.split())
    text = re.sub(r":math:`([^`]+)`", r"$\0\1\0$", text)
    text = re.sub(r"`([^`<]+?) <([^>`]+)>`_+", r"[\1](\2)", text)
    text = re.sub(r":\w+:`(?:~[\w.]*\.)?([\w.]+)`", r"`\1`", text)
    return text.replace("``", "`").replace("\0", "`")


# The pictures


def pictures() -> Iterator[tuple[str, Future]]:
    """What there is to draw, by the names of the files."""
    composed = {heading: drawn for heading, (_, drawn) in COMPOSED.items()}
    for name, (expression, steps) in (CURVES | composed).items():
        yield slug(name), future(eval(expression, vars(schedules).copy()), steps)
    for name, (expression, steps) in SCHEDULERS.items():
        names = {**vars(lr_scheduler), **vars(schedules), "o": optimizer()}
        scheduler = eval(expression, names)
        seen = improving(scheduler, steps) if "Plateau" in name else None
        yield slug(name), seen or future(scheduler, steps)


def optimizer() -> torch.optim.Optimizer:
    """An optimizer that has nearly every hyperparameter that can be scheduled."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    return torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.01)


def improving(plateau: Any, steps: int) -> Future:
    """What a ReduceLROnPlateau does of a loss that falls more and more seldom."""
    rates, losses = [], []
    for step in range(steps):
        rates.append(plateau.optimizer.param_groups[0]["lr"])
        losses.append(0.8 ** int(step**0.5))
        plateau.optimizer.step()
        plateau.step(losses[-1])
    values = {"lr": np.array(rates)[:, None], "loss": np.array(losses)[:, None]}
    return Future("", np.arange(steps), values)


def save(seen: Future, path: Path) -> None:
    """Draw a picture, small, and the same bytes every time."""
    style = {
        "svg.fonttype": "none",  # text, which is smaller than its outlines
        "font.sans-serif": ["DejaVu Sans", "Verdana"],
        "svg.hashsalt": path.stem,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.8, 1.9 * len(seen.values)))
        draw(replace(seen, title=""), figure)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
