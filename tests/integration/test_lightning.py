"""PyTorch Lightning: optimizers and schedulers of a LightningModule, and resuming."""

import logging

import pytest
import torch
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

import polyak
from tests.integration.harness import (
    OPTIMIZERS,
    POLYAK,
    TORCH,
    Run,
    build,
    check,
    dataset,
    every_optimizer,
    needs,
    network,
    same,
)

pytestmark = [
    needs("lightning"),
    # Lightning uses what torch has renamed, and advises on the speed of data loaders.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
EPOCHS = 3


def module_for(configure, run, manual=False):
    """A module that trains the network, and notes its steps.

    Args:
        configure: makes what ``configure_optimizers`` returns, of the parameters.
        run: where to note.
        manual: steps are its own.
    """
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()
            self.automatic_optimization = not manual

        def configure_optimizers(self):
            return configure(self.model.parameters())

        def training_step(self, batch, index):
            loss = mse_loss(self.model(batch[0]), batch[1])
            if manual:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            self.log("loss", loss, on_step=False, on_epoch=True)
            return loss

        def on_train_batch_end(self, outputs, batch, index):
            loss = outputs["loss"]
            run.note(loss.detach(), self.trainer.optimizers[0])

    return Module()


def trainer_for(folder, epochs=EPOCHS, **arguments):
    """A trainer on one CPU that says nothing."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return lightning.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def fit(configure, folder, *, manual=False, resume=None, **arguments):
    """A run, and the trainer that did it."""
    run = Run()
    module = module_for(configure, run, manual)
    trainer = trainer_for(folder, **arguments)
    loader = DataLoader(dataset(), batch_size=8)
    trainer.fit(module, loader, ckpt_path=resume)
    return run.finish(module.model, trainer.optimizers[0]), trainer


def scheduled(library, name, schedulers, interval):
    """What users write: an optimizer, and a scheduler with its interval."""

    def configure(params):
        optimizer = build(library, name, params)
        scheduler = schedulers.OneCycleLR(optimizer, 0.05, total_steps=30)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval},
        }

    return configure


every_schedulers = pytest.mark.parametrize(
    "schedulers",
    [torch.optim.lr_scheduler, polyak.lr_scheduler],
    ids=["torchs-schedulers", "polyaks-schedulers"],
)


@every_optimizer
@every_schedulers
def test_a_run(name, schedulers, tmp_path):
    """A step of the scheduler after each of the optimizer's; gradients clipped."""

    def train(library):
        configure = scheduled(library, name, schedulers, "step")
        return fit(configure, tmp_path, gradient_clip_val=0.5)[0]

    check(train)


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_accumulated_gradients_and_manual_steps(manual, tmp_path):
    def train(library):
        configure = lambda params: build(library, "AdamW", params)  # noqa: E731
        arguments = {} if manual else {"accumulate_grad_batches": 3}
        return fit(configure, tmp_path, manual=manual, **arguments)[0]

    check(train)


@every_schedulers
def test_a_scheduler_that_needs_a_metric(schedulers, tmp_path):
    """ReduceLROnPlateau, by the epoch."""

    def train(library):
        def configure(params):
            optimizer = build(library, "SGD", params)
            scheduler = schedulers.ReduceLROnPlateau(
                optimizer, patience=0, threshold=0.5
            )
            plan = {"scheduler": scheduler, "monitor": "loss"}
            return {"optimizer": optimizer, "lr_scheduler": plan}

        return fit(configure, tmp_path)[0]

    assert len(set(check(train).rates)) > 1


@pytest.mark.parametrize("saved_by", [POLYAK, TORCH])
@pytest.mark.parametrize("read_by", [POLYAK, TORCH])
@every_optimizer
def test_a_run_goes_on_from_a_checkpoint(name, saved_by, read_by, tmp_path):
    """Whoever saved it."""

    def configure(library):
        return scheduled(library, name, polyak.lr_scheduler, "step")

    expected, _ = fit(configure(TORCH), tmp_path)
    path = tmp_path / "saved.ckpt"
    _, trainer = fit(configure(saved_by), tmp_path, epochs=1)
    trainer.save_checkpoint(path)
    resumed, _ = fit(configure(read_by), tmp_path, resume=path)

    done = len(expected.losses) - len(resumed.losses)
    expected.losses, expected.rates = expected.losses[done:], expected.rates[done:]
    assert done == 8
    same(resumed, expected)


def test_lbfgs(tmp_path):
    """Its closure is Lightning's."""

    def train(library):
        def configure(params):
            return build(library, "LBFGS", params, lr=0.5, max_iter=4)

        return fit(configure, tmp_path)[0]

    check(train)


def test_several_algorithms_as_one(tmp_path):
    """Muon of matrices and AdamW of the rest are one optimizer to Lightning."""

    def configure(params):
        params = list(params)
        muon = polyak.Muon([p for p in params if p.dim() == 2], lr=0.01)
        rest = polyak.AdamW([p for p in params if p.dim() < 2], **OPTIMIZERS["AdamW"])
        return polyak.Mixed(muon, rest)

    def by_hand():
        model, run = network(), Run()
        optimizer = configure(model.parameters())
        for _ in range(EPOCHS):
            for inputs, targets in DataLoader(dataset(), batch_size=8):
                optimizer.zero_grad()
                loss = mse_loss(model(inputs), targets)
                loss.backward()
                optimizer.step()
                run.note(loss.detach(), optimizer)
        return run.finish(model, optimizer)

    same(fit(configure, tmp_path)[0], by_hand())
