"""Transformers' Trainer: ``optimizers=(optimizer, scheduler)``, and resuming."""

import importlib

import pytest
import torch

import polyak
from tests.integration.harness import (
    POLYAK,
    TORCH,
    Run,
    build,
    check,
    every_optimizer,
    needs,
    same,
)

pytestmark = [needs("transformers"), needs("accelerate")]
STEPS = 12

# The gradients of the keys' biases are nothing but rounding, which Adam would blow up
# to whole steps.
ARGUMENTS = {"SGD": {}, "AdamW": {"eps": 1e-4}}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Nothing is asked of any hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def language_model(seed=0):
    """A tiny GPT-2 with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=17, n_positions=8, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def sentences():
    """Sequences that count up, modulo 17."""
    rows = torch.arange(32)[:, None] + torch.arange(8)
    return [{"input_ids": row, "labels": row} for row in rows % 17]


def trainer_for(library, name, folder, schedulers=None, seed=0, **arguments):
    """A trainer, and the run that it notes its steps in."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    run = Run()
    model = language_model(seed)
    optimizer = build(library, name, model.parameters(), **ARGUMENTS[name])
    scheduler = None
    if schedulers is not None:
        scheduler = schedulers.CosineAnnealingLR(optimizer, STEPS)

    class Noting(TrainerCallback):
        def on_log(self, args, state, control, logs, **rest):
            if "loss" in logs:
                run.note(logs["loss"], optimizer)

    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            max_steps=STEPS,
            per_device_train_batch_size=8,
            logging_steps=1,
            save_steps=4,
            report_to=[],
            disable_tqdm=True,
            seed=0,
            warmup_steps=3,
            **arguments,
        ),
        train_dataset=sentences(),
        optimizers=(optimizer, scheduler),
        callbacks=[Noting()],
    )
    return trainer, optimizer, run


def train(library, name, folder, schedulers=None, resume=None, **arguments):
    """A run."""
    trainer, optimizer, run = trainer_for(
        library, name, folder, schedulers, **arguments
    )
    trainer.train(resume_from_checkpoint=resume)
    return run.finish(trainer.model, optimizer)


@every_optimizer
@pytest.mark.parametrize(
    "schedulers",
    [None, torch.optim.lr_scheduler, polyak.lr_scheduler],
    ids=["trainers-scheduler", "torchs-schedulers", "polyaks-schedulers"],
)
def test_a_run(name, schedulers, tmp_path):
    """Gradients are clipped, as the Trainer does by default."""
    run = check(train, name, tmp_path, schedulers)
    assert len(run.losses) == STEPS
    assert len(set(run.rates)) > 5


def test_accumulated_gradients(tmp_path):
    check(train, "AdamW", tmp_path, gradient_accumulation_steps=2)


@pytest.mark.parametrize(
    ("saved_by", "read_by"), [(POLYAK, POLYAK), (TORCH, POLYAK), (POLYAK, TORCH)]
)
def test_a_run_goes_on(saved_by, read_by, tmp_path):
    """From the Trainer's checkpoint, whoever saved it."""
    schedulers = polyak.lr_scheduler
    expected = train(TORCH, "AdamW", tmp_path / "expected", schedulers)
    train(saved_by, "AdamW", tmp_path / "saved", schedulers)
    path = str(tmp_path / "saved" / "checkpoint-4")
    resumed = train(read_by, "AdamW", tmp_path / "new", schedulers, path, seed=1)
    expected.losses, expected.rates = expected.losses[4:], expected.rates[4:]
    same(resumed, expected)


def test_a_class_of_optimizer(tmp_path):
    """By ``optimizer_cls_and_kwargs``: with groups that the Trainer makes."""
    from transformers import Trainer, TrainingArguments

    def train(library):
        kind = importlib.import_module(library).AdamW
        run = Run()
        trainer = Trainer(
            language_model(),
            TrainingArguments(
                tmp_path, use_cpu=True, max_steps=STEPS, weight_decay=0.1,
                report_to=[], disable_tqdm=True, save_strategy="no",
            ),
            train_dataset=sentences(),
            optimizer_cls_and_kwargs=(kind, {"lr": 0.01, **ARGUMENTS["AdamW"]}),
        )  # fmt: skip
        trainer.train()
        optimizer = trainer.optimizer
        run.losses = [trainer.state.log_history[-1]["train_loss"]]
        assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
        return run.finish(trainer.model, optimizer)

    same(train(POLYAK), train(TORCH))
