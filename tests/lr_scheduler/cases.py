"""The schedulers to test: every class with several sets of arguments, and nestings."""

from __future__ import annotations

from dataclasses import dataclass

from tests.lr_scheduler.nodes import (
    FROM_THE_BASE,
    HISTORIC,
    PER_GROUP,
    SETUPS,
    STEPS,
    Decay,
    Node,
    alternating,
    chain,
    harmonic,
    node,
    sequence,
    steady,
)


@dataclass(frozen=True)
class Case:
    """A scheduler, and what cannot be found out about it by looking at it.

    Args:
        node: the scheduler.
        setups: the optimizers that it can drive, of :data:`SETUPS`.
        not_torchs: why torch's values are no reference, where they are none.
        rounded: why they are not torch's to the bit, where torch has a closed form.
    """

    node: Node
    setups: tuple[str, ...] = tuple(SETUPS)
    not_torchs: str = ""
    rounded: str = ""

    @property
    def exact(self) -> bool:
        """The values are torch's bit for bit: torch computes them by a closed form."""
        closed = FROM_THE_BASE | {"ReduceLROnPlateau"}
        return self.node.names <= closed and not self.rounded

    @property
    def keeps_edits(self) -> bool:
        """It moves a rate that something else changed."""
        chained = self.node.name == "ChainedScheduler"
        return chained or not self.node.names & FROM_THE_BASE

    @property
    def overwrites_edits(self) -> bool:
        """It sets the rate anew at every step."""
        return self.node.names <= FROM_THE_BASE and not self.keeps_edits

    @property
    def formula(self) -> bool:
        """Its values are a function of the base rates and the epoch."""
        return not self.node.names & HISTORIC

    @property
    def metrics(self) -> bool:
        """Its ``step`` takes a metric."""
        return "ReduceLROnPlateau" in self.node.names


NESTED = "torch miscounts the epochs of a nested SequentialLR"
LOSES = "torch loses what a member of a chain did when another overwrites it"
REFUSES = "torch refuses a plateau in a composition"
SCALED = "the height is scaled before the bounds come in, not after"
OWN = "torch has no such class"

LINEAR = node("LinearLR", start_factor=0.1, total_iters=4)
EXPONENTIAL = node("ExponentialLR", gamma=0.9)
COSINE = node("CosineAnnealingLR", T_max=8)
STEP = node("StepLR", step_size=3, gamma=0.5)
PLATEAU = node("ReduceLROnPlateau", factor=0.5, patience=1)
RESTARTS = node("CosineAnnealingWarmRestarts", T_0=3, T_mult=2)
DROPS = node("MultiStepLR", milestones=[3, 9], gamma=0.5)

CASES: dict[str, Case] = {
    "lambda": Case(node("LambdaLR", lr_lambda=harmonic)),
    "lambda_object": Case(node("LambdaLR", lr_lambda=Decay(0.9))),
    "lambda_groups": Case(
        node("LambdaLR", lr_lambda=[harmonic, Decay(0.5), steady]), PER_GROUP
    ),
    "multiplicative": Case(node("MultiplicativeLR", lr_lambda=alternating)),
    "multiplicative_groups": Case(
        node("MultiplicativeLR", lr_lambda=[alternating, Decay(0.99), steady]),
        PER_GROUP,
    ),
    "step": Case(STEP),
    "step_defaults": Case(node("StepLR", step_size=5)),
    "multistep": Case(DROPS),
    "multistep_repeated": Case(node("MultiStepLR", milestones=(0, 2, 2, 7), gamma=0.5)),
    "constant": Case(node("ConstantLR")),
    "constant_short": Case(node("ConstantLR", factor=0.25, total_iters=1)),
    "linear": Case(node("LinearLR")),
    "linear_down": Case(
        node("LinearLR", start_factor=1.0, end_factor=0.1, total_iters=10)
    ),
    "exponential": Case(EXPONENTIAL),
    "exponential_growth": Case(node("ExponentialLR", gamma=1.1)),
    "polynomial": Case(node("PolynomialLR")),
    "polynomial_square": Case(node("PolynomialLR", total_iters=12, power=2.0)),
    "cosine": Case(COSINE),
    "cosine_floor": Case(node("CosineAnnealingLR", T_max=10, eta_min=0.001)),
    "cosine_periodic": Case(node("CosineAnnealingLR", T_max=5)),
    "restarts": Case(RESTARTS),
    "restarts_even": Case(node("CosineAnnealingWarmRestarts", T_0=5, eta_min=0.01)),
    "cyclic": Case(node("CyclicLR", base_lr=0.01, max_lr=0.1, step_size_up=4)),
    "cyclic_halving": Case(
        node(
            "CyclicLR",
            base_lr=0.01,
            max_lr=0.1,
            step_size_up=2,
            step_size_down=3,
            mode="triangular2",
            base_momentum=0.7,
            max_momentum=0.95,
        )
    ),
    "cyclic_shrinking": Case(
        node(
            "CyclicLR",
            base_lr=0.01,
            max_lr=0.1,
            step_size_up=3,
            mode="exp_range",
            gamma=0.9,
            cycle_momentum=False,
        ),
        rounded=SCALED,
    ),
    "cyclic_function": Case(
        node("CyclicLR", base_lr=0.01, max_lr=0.1, step_size_up=3, scale_fn=harmonic),
        rounded=SCALED,
    ),
    "cyclic_object": Case(
        node(
            "CyclicLR",
            base_lr=0.01,
            max_lr=0.1,
            step_size_up=3,
            scale_fn=Decay(0.9),
            scale_mode="iterations",
        ),
        rounded=SCALED,
    ),
    "cyclic_groups": Case(
        node(
            "CyclicLR",
            base_lr=[0.01, 0.02, 0.03],
            max_lr=[0.1, 0.3, 0.2],
            step_size_up=4,
            base_momentum=[0.8, 0.7, 0.6],
            max_momentum=[0.9, 0.95, 0.99],
        ),
        PER_GROUP,
    ),
    "one_cycle": Case(node("OneCycleLR", max_lr=0.1, total_steps=STEPS + 1)),
    "one_cycle_linear": Case(
        node(
            "OneCycleLR",
            max_lr=0.1,
            total_steps=STEPS + 4,
            anneal_strategy="linear",
            div_factor=10.0,
            final_div_factor=100.0,
        )
    ),
    "one_cycle_three": Case(
        node(
            "OneCycleLR",
            max_lr=0.1,
            epochs=4,
            steps_per_epoch=5,
            three_phase=True,
            cycle_momentum=False,
        )
    ),
    "one_cycle_groups": Case(
        node(
            "OneCycleLR",
            max_lr=[0.1, 0.2, 0.3],
            total_steps=STEPS + 2,
            pct_start=0.4,
            base_momentum=[0.85, 0.8, 0.75],
            max_momentum=[0.95, 0.9, 0.99],
        ),
        PER_GROUP,
    ),
    "plateau": Case(node("ReduceLROnPlateau", patience=2)),
    "plateau_max": Case(
        node(
            "ReduceLROnPlateau",
            mode="max",
            factor=0.5,
            patience=1,
            threshold=0.01,
            threshold_mode="abs",
            cooldown=2,
            min_lr=0.01,
        )
    ),
    "plateau_groups": Case(
        node("ReduceLROnPlateau", factor=0.3, patience=0, min_lr=[0.05, 0.01, 0.0]),
        PER_GROUP,
    ),
    "sequential": Case(sequence([4], LINEAR, COSINE)),
    "sequential_three": Case(
        sequence([3, 8], node("ConstantLR", factor=0.5), EXPONENTIAL, STEP)
    ),
    "sequential_at_zero": Case(sequence([0, 5], EXPONENTIAL, LINEAR, STEP)),
    "sequential_alone": Case(sequence([], DROPS)),
    "sequential_restarts": Case(sequence([4], LINEAR, RESTARTS)),
    "sequential_lambda": Case(
        sequence([5], node("LambdaLR", lr_lambda=Decay(0.8)), EXPONENTIAL)
    ),
    "sequential_cyclic": Case(
        sequence(
            [5],
            EXPONENTIAL,
            node("CyclicLR", base_lr=0.01, max_lr=0.1, step_size_up=4),
        )
    ),
    "nested_first": Case(
        sequence([7], sequence([4], LINEAR, EXPONENTIAL), COSINE), not_torchs=NESTED
    ),
    "nested_last": Case(
        sequence([4], LINEAR, sequence([3, 7], EXPONENTIAL, STEP, COSINE)),
        not_torchs=NESTED,
    ),
    "chained": Case(chain(node("ConstantLR", factor=0.5), EXPONENTIAL)),
    "chained_three": Case(
        chain(STEP, LINEAR, node("MultiplicativeLR", lr_lambda=alternating))
    ),
    "chained_restarts": Case(chain(DROPS, RESTARTS), not_torchs=LOSES),
    "chained_lambdas": Case(
        chain(
            node("LambdaLR", lr_lambda=harmonic),
            node("LambdaLR", lr_lambda=Decay(0.9)),
        ),
        not_torchs=LOSES,
    ),
    "chained_floor": Case(
        chain(DROPS, node("CosineAnnealingLR", T_max=10, eta_min=0.001)),
        not_torchs="torch's step from the last rate holds the floor against the drops",
    ),
    "chained_sequential": Case(
        chain(sequence([4], LINEAR, COSINE), DROPS), not_torchs=LOSES
    ),
    "sequential_chained": Case(
        sequence([4], LINEAR, chain(STEP, EXPONENTIAL)),
        not_torchs="torch cannot begin a ChainedScheduler anew at a milestone",
    ),
    "sequential_plateau": Case(sequence([4], LINEAR, PLATEAU), not_torchs=REFUSES),
    "chained_plateau": Case(chain(STEP, PLATEAU), not_torchs=REFUSES),
    "nested_plateau": Case(
        chain(sequence([3], LINEAR, PLATEAU), EXPONENTIAL), not_torchs=REFUSES
    ),
    "users_shrink": Case(node("Shrink")),
    "users_wave": Case(node("Wave")),
    "users_halve": Case(node("Halve", every=3)),
    "users_sequential": Case(sequence([4], LINEAR, node("Halve", every=3))),
    "users_chained": Case(chain(node("Shrink"), STEP)),
    "users_nested": Case(
        sequence([4], LINEAR, chain(node("Halve", every=4), EXPONENTIAL)),
        not_torchs="torch cannot begin a ChainedScheduler anew at a milestone",
    ),
    "scheduler": Case(
        node("Scheduler", lr="warmup(4) | cosine(10, 0.1)"), not_torchs=OWN
    ),
    "scheduler_of_several": Case(
        node(
            "Scheduler",
            lr="step(3)",
            momentum="linear(1, 0.5, 10)",
            weight_decay="absolute(linear(0.1, 0.0, 8))",
        ),
        ("sgd", "groups", "tensor"),
        not_torchs=OWN,
    ),
}
