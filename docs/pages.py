"""The pages that are made from the code: optimizers, and the API reference.

Sphinx calls :func:`main` before it reads anything (see ``conf.py``). What is written is
not in the repository.
"""

import inspect
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer

import polyak
from docs import gallery, paths
from polyak.optimizers import all_optimizers

HERE = Path(__file__).parent
OPTIMIZERS, REFERENCE = HERE / "optimizers", HERE / "reference"

# Names that torch gave, and what they are.
TORCHS = {
    "required": "The default of a hyperparameter that every group must give.",
    "register_optimizer_step_pre_hook": "torch's own: hooks before every step of every "
    "optimizer, these too.",
    "register_optimizer_step_post_hook": "torch's own: hooks after every step of every "
    "optimizer, these too.",
    "swap_in_optimizer_params_and_state": "torch's own: it works on these optimizers "
    "as it is.",
}

# Where public names are looked for. The first that has an object documents it, the
# others lead there.
MODULES = [
    "polyak",
    "polyak.schedules",
    "polyak.lr_scheduler",
    "polyak.swa_utils",
    "polyak.functional",
    "polyak.race",
    "polyak.pictures",
    "polyak.bounds",
    "polyak.terms",
    "polyak.linalg",
    "polyak.optimizers",
]


def main() -> None:
    """Write all pages."""
    if lacking := undocumented():
        raise ExtensionError(f"public, but not documented: {', '.join(lacking)}")
    OPTIMIZERS.mkdir(exist_ok=True)
    REFERENCE.mkdir(exist_ok=True)
    for name, kind in all_optimizers().items():
        write(OPTIMIZERS / f"{name}.md", "".join(optimizer_page(kind)))
        paths.draw(path_of(kind), OPTIMIZERS / f"{name}.svg")
        paths.draw_heights(path_of(kind), OPTIMIZERS / f"{name}-heights.svg")
    write(OPTIMIZERS / "index.md", "".join(optimizers_page()))
    for name in MODULES:
        write(REFERENCE / f"{name}.md", "".join(reference_page(name)))
    write(REFERENCE / "index.md", "".join(references_page()))


def write(path: Path, text: str) -> None:
    """Write a page, unless it is so already: Sphinx reads what is newer."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def toctree(names: list[str]) -> str:
    """The navigation under a page."""
    return "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


# Optimizers


@cache
def path_of(kind: type[polyak.Optimizer]) -> paths.Path2d:
    """The way that an optimizer goes on the test function."""
    return paths.best(kind)


def optimizers_page() -> Iterator[str]:
    """All optimizers, and what each keeps."""
    kinds = all_optimizers()
    yield (
        "# Optimizers\n\n"
        "All of them take the arguments of torch's optimizer of the same name, in its "
        "order, and make its state. Those with a rule, all but LBFGS, take the "
        "keywords of {class}`polyak.Stages` besides. Which one to take, at which "
        "rate: [race them](../tutorials/race.md). One that is missing is "
        "[a rule of a few lines](../tutorials/write.md).\n\n"
    )
    yield table(
        ["optimizer", "what it is", "state"],
        [
            [f"[{name}]({name}.md)", headline(kind), f"{sum(sizes(kind).values()):.3g}"]
            for name, kind in kinds.items()
        ],
    )
    yield (
        "The state is in bytes for each number of a float32 matrix of 1024 by 1024, at "
        "default arguments. LBFGS's is that of a full history of 100 steps.\n\n"
    )
    yield toctree(list(kinds))


def optimizer_page(kind: type[polyak.Optimizer]) -> Iterator[str]:
    """An optimizer: its docstring, rule, kernel, picture and state."""
    name = kind.__name__
    yield f"# {name}\n\n"
    yield f"```{{eval-rst}}\n.. autoclass:: polyak.{name}\n```\n\n"
    if kind.has_rule:
        yield (
            "## The rule\n\nThis is the whole update. [How to read it](../tutorials/"
            f"write.md).\n\n```python\n{rule_of(kind)}\n```\n\n"
        )
        yield from kernel_of(kind)
    yield from picture_of(kind)
    yield (
        "## The state\n\nOf a float32 matrix of 1024 by 1024, at default arguments"
        + ("" if kind.has_rule else ", with a full history")
        + ":\n\n"
    )
    found = sizes(kind)
    rows = [[f"`{slot}`", bytes_of(size)] for slot, size in found.items()]
    rows.append(["together", f"{sum(found.values()):.3g}"])
    yield table(["state", "bytes a parameter"], rows)
    yield (
        "`polyak.summary(optimizer)` counts it for a model of yours. All optimizers' "
        "are [in one table](index.md); [what a step takes](../speed.md) was measured.\n"
    )


def headline(kind: type[polyak.Optimizer]) -> str:
    """The first sentence of an optimizer's docstring."""
    first = (inspect.getdoc(kind) or "").partition("\n\n")[0]
    return gallery.markdown(first)


def rule_of(kind: type[polyak.Optimizer]) -> str:
    """The source of the rule."""
    source = textwrap.dedent(inspect.getsource(kind.rule))
    return source.removeprefix("@staticmethod\n").replace("  # fmt: skip", "").rstrip()


def kernel_of(kind: type[polyak.Optimizer]) -> Iterator[str]:
    """The listing of its first kernel, or why it has none; for a matrix."""
    param = torch.zeros(8, 8, requires_grad=True)
    explanation = polyak.explain(kind([param]), kernel=True)
    yield "## The kernel\n\n"
    if explanation.kernels:
        yield (
            "What [becomes of the rule](../engine.md) for parameters in float32 at "
            "default arguments, as `polyak.explain(optimizer, kernel=True)` shows it."
            f"\n\n```text\n{explanation.kernels[0].listing.rstrip()}\n```\n\n"
        )
    else:
        yield (
            "There is none: the rule runs on tensors. `polyak.explain(optimizer)` says "
            f"why.\n\n```text\n{explanation}\n```\n\n"
        )


def picture_of(kind: type[polyak.Optimizer]) -> Iterator[str]:
    """Its way on the test function, and how that came about."""
    name = kind.__name__
    path = path_of(kind)
    given = {"lr": path.lr, **paths.ARGUMENTS.get(name, {})}
    call = f"{name}([point], {', '.join(f'{k}={v!r}' for k, v in given.items())})"
    yield (
        "## On a test function\n\n"
        f"![{name}'s path in Rosenbrock's valley]({name}.svg)\n"
        f"![The function after each step]({name}-heights.svg)\n\n"
        f"`{call}` on Rosenbrock's function, "
        "$`f(x, y) = (1 - x)^2 + 10\\,(y - x^2)^2`$, from (−1.5, −0.5), for "
        f"{len(path.points) - 1} steps. The star is the minimum. {chosen_of(kind)} "
        f"It ends at $`f = {scientific(path.heights[-1])}`$. This is two "
        "numbers and no noise: a picture of how the optimizer moves, not of how well "
        "it trains networks. That is found out by [a race](../tutorials/race.md).\n\n"
    )


def chosen_of(kind: type[polyak.Optimizer]) -> str:
    """How the learning rate was chosen."""
    rates = paths.rates(kind)
    if len(rates) == 1:
        return "The line search finds the length of each step."
    return (
        f"Of {len(rates)} rates from {rates[0]:g} to {rates[-1]:g}, this one ends "
        "lowest without climbing above the start."
    )


def scientific(value: float) -> str:
    """A number in TeX."""
    mantissa, _, exponent = f"{value:.2g}".partition("e")
    return mantissa + (rf" \cdot 10^{{{int(exponent)}}}" if exponent else "")


def bytes_of(size: float) -> str:
    """Bytes a parameter, or those of a number that a tensor has once."""
    once = size * 1024 * 1024
    return f"{size:.3g}" if once > 8 else f"{once:g} a tensor"


@cache
def sizes(kind: type[polyak.Optimizer]) -> dict[str, float]:
    """The bytes of each state entry, for each number of a parameter."""
    param = torch.empty(1024, 1024, requires_grad=True)
    optimizer = kind([param])
    if not kind.has_rule:
        param, optimizer = with_history(kind)
    found = polyak.summary(optimizer).slot_bytes
    return {slot: size / param.numel() for slot, size in found.items()}


def with_history(kind: type[polyak.Optimizer]) -> tuple[torch.Tensor, polyak.Optimizer]:
    """A parameter, and an optimizer that has done what it remembers."""
    scales = torch.logspace(-3, 0, 4096)
    param = torch.ones(4096, requires_grad=True)
    optimizer = kind([param], lr=0.1, tolerance_change=0, tolerance_grad=0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (scales * param.square()).sum()
        loss.backward()
        return loss

    for _ in range(8):
        optimizer.step(closure)
    return param, optimizer


# The API reference


@cache
def homes() -> dict[int, str]:
    """The name under which a public object is documented, by its id."""
    found: dict[int, str] = {}
    for name in MODULES:
        module = import_module(name)
        found.setdefault(id(module), name)
        for public in module.__all__:
            found.setdefault(id(getattr(module, public)), f"{name}.{public}")
    return found


def undocumented() -> list[str]:
    """Public names without a docstring of their own."""
    return [
        f"{name}.{public}"
        for name in MODULES
        for public in import_module(name).__all__
        if not described(public, getattr(import_module(name), public))
    ]


def described(name: str, value: Any) -> str:
    """The documentation of a public object: of a plain value, what is below it."""
    if name in TORCHS:
        return TORCHS[name]
    if isinstance(value, ModuleType | type) or is_function(value):
        return value.__doc__ or ""
    return attribute_texts().get(name, "")


def is_function(value: Any) -> bool:
    """Whether it is a function, also a decorated one."""
    return inspect.isfunction(inspect.unwrap(value))


@cache
def attribute_texts() -> dict[str, str]:
    """The strings below the package's plain values, by the names of these."""
    found: dict[str, str] = {}
    for name in [n for n in sys.modules if n.partition(".")[0] == "polyak"]:
        for (within, attribute), lines in (
            ModuleAnalyzer.for_module(name).find_attr_docs().items()
        ):
            if not within:
                found[attribute] = "\n".join(lines)
    return found


def references_page() -> Iterator[str]:
    """The modules."""
    yield "# API reference\n\nEvery public name, with its docstring.\n\n"
    firsts = {n: (import_module(n).__doc__ or "").partition("\n")[0] for n in MODULES}
    rows = [
        [f"[`{n}`]({n}.md)", gallery.markdown(first)] for n, first in firsts.items()
    ]
    yield table(["module", "what it has"], rows)
    yield toctree(MODULES)


def reference_page(name: str) -> Iterator[str]:
    """A module: its docstring, and what it exports."""
    module = import_module(name)
    yield f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :no-members:\n\n"
    elsewhere = []
    for public in module.__all__:
        value = getattr(module, public)
        home = homes()[id(value)]
        own = isinstance(value, ModuleType) or public in all_optimizers()
        if own or home != f"{name}.{public}":
            elsewhere.append(f"- :py:obj:`{name}.{public} <{home}>`")
        else:
            yield entry(home, public, value)
    yield "```\n"
    if elsewhere:
        yield "\n## Documented on pages of their own\n\n```{eval-rst}\n"
        yield "\n".join(elsewhere) + "\n```\n"


def entry(full: str, name: str, value: Any) -> str:
    """What tells Sphinx to document a name."""
    if isinstance(value, type):
        # What it has from a public class is documented there.
        public = [kind.__name__ for kind in value.__mro__[1:] if id(kind) in homes()]
        inherited = f"   :inherited-members: {', '.join(public)}".rstrip()
        return f".. autoclass:: {full}\n   :members:\n{inherited}\n\n"
    if is_function(value) and name not in TORCHS:
        return f".. autofunction:: {full}\n\n"
    text = textwrap.indent(described(name, value), "   ")
    module = full.removesuffix(f".{name}")
    return f".. py:data:: {name}\n   :module: {module}\n\n{text}\n\n"
