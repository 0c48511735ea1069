"""The LightningModule: steps, logging, optimizers, and what goes into a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning import LightningModule
from pytorch_lightning.core.mixins.hparams_mixin import _given_hyperparameters
from torch import Tensor
from torch.optim import AdamW, Optimizer

from crossmodal.alignment import Alignment
from crossmodal.balance.base import Balance
from crossmodal.building import build_alignments, build_balancing, build_model
from crossmodal.checkpoints import (
    leave_frozen_out,
    put_frozen_back,
    refuse_other_outputs,
    refuse_other_price,
    refuse_other_shapes,
    tell_other_fusion,
)
from crossmodal.encoding import Encoded, store_tokens
from crossmodal.feature_store import FeatureStore
from crossmodal.figures import Figures
from crossmodal.fusion import Fusion
from crossmodal.heads import Head
from crossmodal.holding_out import not_held_out
from crossmodal.joining import Joined, begin_joined
from crossmodal.meta_learner import MetaLearner
from crossmodal.objectives import TaskObjective, refuse_infinite, refuse_untargeted
from crossmodal.optimization import accumulates, parameter_groups, scheduled, with_scaled_rates
from crossmodal.precision import refuse_to_cast, refuse_to_clip
from crossmodal.preparation import (
    SPLITS_OF_STAGE,
    check_heads,
    check_numbers,
    check_targets,
    dropout_rates,
    learn_priors,
    learn_statistics,
    prepare_mixture,
    train_by_rows_with,
    weigh_classes,
)
from crossmodal.reports import Prediction, report
from crossmodal.selector import Selector
from crossmodal.stacking import learn
from datamodules.batch import PairedBatch
from datamodules.paired import PairedDataModule
from experts.base import Expert, ExpertTokens


class CrossModalModule(LightningModule):
    """Trains a cross-modal model.

    Args:
        experts: By modality.
        outputs: By task the names of its outputs; the data says so.
        fusion: Makes the fusion, given the modalities' names; not needed without heads.
        heads: By task: makes a head, given the fusion's width and the number of outputs; not needed with alignments.
        alignments: Each pulls the tokens of one expert to those of another, given their widths by modality.
        joined: Modalities that joined a trained model, in order; see `crossmodal extend`. Only the last is trained.
        meta_learner: Makes what weighs experts and their fusion, given the experts' names and the fusion's width.
        selector: Makes what chooses which experts a row is given, before they run; given as the meta-learner is.
        balance: Makes what keeps modalities in balance, given their names; or a list of such.
        objective: Sums the losses.
        optimizer: Makes the optimizer, given groups of parameters.
        modality_dropout: Rate at which a training row is as if it lacked a modality, for all or for each; one stays.
        warmup: Share of all steps over which the learning rate rises; then it falls to zero as a cosine.
        feature_store: Folder for the tokens of frozen experts; null encodes anew in every epoch.
        encode_batch_size: Inputs a batch when tokens are stored.
        encode_workers: Processes that read, and on a CPU encode; null for one a thread where there is enough to encode.

    Raises:
        ValueError: Heads and the data's tasks differ.
    """

    def __init__(
        self,
        experts: dict[str, Expert],
        outputs: dict[str, list[str]],
        *,
        fusion: Callable[[list[str]], Fusion] | None = None,
        heads: dict[str, Callable[[int, int], Head]] | None = None,
        alignments: list[Callable[[dict[str, int]], Alignment]] | None = None,
        joined: dict[str, Joined] | None = None,
        meta_learner: Callable[[list[str], int], MetaLearner] | None = None,
        selector: Callable[[list[str], int], Selector] | None = None,
        balance: list[Callable[[list[str]], Balance]] | Callable[[list[str]], Balance] | None = None,
        objective: TaskObjective | None = None,
        optimizer: Callable[[Iterable[Any]], Optimizer] = AdamW,
        modality_dropout: float | dict[str, float] = 0.0,
        warmup: float = 0.05,
        feature_store: str | None = "runs/features",
        encode_batch_size: int = 32,
        encode_workers: int | None = None,
    ) -> None:
        super().__init__()
        if _given_hyperparameters.get() is not None:
            self.save_hyperparameters(logger=False)  # built in Python, the arguments are live objects
        heads = heads or {}
        if (heads and fusion is None) or not (heads or alignments):
            raise ValueError("model: give a fusion and a head for each task, or alignments")
        check_heads(heads, outputs)
        check_numbers(warmup=warmup, encode_batch_size=encode_batch_size, encode_workers=encode_workers)
        self.joined = joined or {}
        parts: dict[str, Any] = {"joined": self.joined, "meta_learner": meta_learner, "selector": selector}
        self.model = build_model(experts, outputs, fusion=fusion if heads else None, heads=heads, **parts)
        self.balancing = build_balancing(self.model, outputs, heads, balance)
        self.alignments = build_alignments(self.model, alignments or ())
        self.objective = objective or TaskObjective()
        self.outputs = outputs
        self._figures = Figures(dict(self.heads), self.alignments, self.balancing)
        self.prefixes = self._figures.prefixes  # by task, what the names of its figures begin with
        self.modality_dropout = dropout_rates(modality_dropout, experts)
        self.warmup = warmup
        self.feature_store = FeatureStore(Path(feature_store)) if feature_store else None
        self.encode_batch_size = encode_batch_size
        self.encode_workers = encode_workers
        self.encoded: list[Encoded] = []
        self._make_optimizer = optimizer

    @property
    def experts(self) -> dict[str, Expert]:
        """The experts by modality."""
        return dict(self.model.experts.items())  # type: ignore[arg-type]

    @property
    def heads(self) -> Iterable[tuple[str, Head]]:
        """Tasks and their heads."""
        return self.model.heads.items()  # type: ignore[return-value]

    def forward(self, batch: PairedBatch) -> dict[str, Tensor]:
        """Return each task's raw outputs, shape (B, outputs)."""
        predictions: dict[str, Tensor] = self.model(batch)
        return predictions

    def setup(self, stage: str) -> None:
        """Encode what is not in the feature store yet, and read from it from here on."""
        newcomer = self.model.newcomer if stage == "fit" else None
        if newcomer is not None and self.trainer.ckpt_path is None:
            begin_joined(self.model, self.joined[newcomer], self.outputs)  # before its experts are used
        if self.trainer.world_size > 1:
            raise ValueError("this release trains on one device; set trainer.devices: 1")
        refuse_to_cast(self.experts, str(self.trainer.precision))
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, PairedDataModule):
            if stage == "fit" and (any(self.modality_dropout.values()) or self.model.mixture is not None):
                raise ValueError("model.modality_dropout and model.meta_learner need a PairedDataModule")
            return

        splits = (data.predicted_split,) if stage == "predict" else SPLITS_OF_STAGE[stage]
        if newcomer is not None:
            train_by_rows_with(data, newcomer, trains=bool(self.trainer.max_epochs))
        if stage != "predict":  # what fit measures in the end would fail only then
            check_targets(data, self.heads, (*splits, "test") if stage == "fit" else splits)
            weigh_classes(data, [*self.model.all_heads(), *self.balancing.heads()])
        store_tokens(
            self.experts,
            data,
            self.feature_store,
            splits,
            batch_size=self.encode_batch_size,
            device=self.trainer.strategy.root_device,
            report=self._tell_encoded,
            show_progress=self.trainer.progress_bar_callback is not None,
            num_workers=self.encode_workers,
            if_needed=self.model.chosen_among if stage == "predict" else (),
        )
        if stage == "fit":
            data.drop_modalities(self.modality_dropout)
            if self.model.mixture is not None:
                prepare_mixture(self.model.mixture, data, self.experts)
            if newcomer is None:
                learn_priors(data, [*self.model.all_heads(), *self.balancing.heads()])

    def _tell_encoded(self, encoded: Encoded) -> None:
        self.encoded.append(encoded)
        rank_zero_info(str(encoded))

    def on_fit_start(self) -> None:
        """Let experts look at the training split, if no checkpoint has told them what it is like."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, PairedDataModule):
            learn_statistics(data, self.experts, batch_size=self.encode_batch_size, workers=self.encode_workers)

    def training_terms(self, batch: PairedBatch) -> dict[str, Tensor]:
        """Return the named terms of the loss; none where there is nothing to learn, such as no row or no newcomer."""
        if not len(batch) or (self.model.newcomer is not None and self.model.newcomer not in batch.inputs):
            return {}
        tokens, batch, choice = self.model.observe(batch)
        learned = not_held_out(batch)
        if self.model.mixture is None:
            terms = self._terms(tokens, self.model.predict(tokens, batch), batch)
        else:
            terms = learn(self.model, self.objective, tokens, batch, choice)
            refuse_untargeted(terms, dict(self.heads), batch.ids)
            terms |= self._further_terms(tokens, learned)
        return self.balancing.learn(self.model, self.objective, tokens, learned, terms)

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor | None:
        """Return the loss; every term is logged by its name."""
        if not (terms := self.training_terms(batch)):
            return None
        loss = torch.stack(list(terms.values())).sum()
        if self._is_logged or loss.device.type == "cpu":  # looking at every loss would make a GPU wait
            refuse_infinite(terms, self.trainer.global_step, batch.ids)
        if self._is_logged:
            self.log("train/loss", loss.detach(), prog_bar=True)
            if len(terms) > 1:
                self.log_dict({f"train/loss/{name}": term.detach() for name, term in terms.items()})
        return loss

    @property
    def _is_logged(self) -> bool:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and ((self.trainer.global_step + 1) % every == 0 or self.trainer.is_last_batch)

    def on_after_backward(self) -> None:
        """Balance the modalities; how is logged by modality."""
        figures = self.balancing.after_backward(self.trainer.current_epoch)
        if figures and self._is_logged:
            self.log_dict({f"train/balance/{name}": figure for name, figure in figures.items()})

    def validation_step(self, batch: PairedBatch, batch_idx: int) -> dict[str, Any] | None:
        """Collect the validation metrics; return tokens, batch, choice, outputs and answers for who looks on."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: PairedBatch, batch_idx: int) -> None:
        """Collect the test metrics."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: PairedBatch, batch_idx: int) -> dict[str, Prediction]:
        """Return, by task, each row's prediction and what is reported of each output."""
        tokens, batch, _ = self.model.observe(batch)
        outputs, answers = self.model.answer(tokens, batch)
        return report(dict(self.heads), self.outputs, outputs, answers)

    def _further_terms(self, tokens: dict[str, ExpertTokens], batch: PairedBatch) -> dict[str, Tensor]:
        of_fusion = {} if self.model.fusion is None else self.model.fusion.terms
        return {**self.alignments(tokens, batch), **of_fusion}

    def _terms(
        self, tokens: dict[str, ExpertTokens], predictions: dict[str, Tensor], batch: PairedBatch
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.objective(self.model.heads, predictions, batch.targets)
        terms |= self._further_terms(tokens, batch)
        refuse_untargeted(terms, predictions, batch.ids)
        return terms

    def _evaluate(self, batch: PairedBatch, stage: str) -> dict[str, Any] | None:
        if not len(batch):
            return None
        tokens, batch, choice = self.model.observe(batch)
        predictions, answers = self.model.answer(tokens, batch)
        if not (terms := self._terms(tokens, predictions, batch)):
            return None
        self.log(f"{stage}/loss", torch.stack(list(terms.values())).sum(), batch_size=len(batch), sync_dist=True)
        for metrics in self._figures.measure(stage, predictions, batch, answers, choice):
            self.log_dict(metrics, batch_size=len(batch), prog_bar=stage == "val")
        self.alignments.measure(tokens, batch)
        self.balancing.measure(self.model, tokens, batch, self._figures.prefixes)
        return {"tokens": tokens, "batch": batch, "choice": choice, "outputs": predictions, "answers": answers}

    def on_validation_epoch_start(self) -> None:
        """Forget what an interrupted epoch has measured."""
        self._figures.begin("val")

    def on_test_epoch_start(self) -> None:
        """Forget what an interrupted test has measured."""
        self._figures.begin("test")

    def on_validation_epoch_end(self) -> None:
        """Log what was measured over the epoch."""
        self._log_figures("val")

    def on_test_epoch_end(self) -> None:
        """Log what was measured over the split."""
        self._log_figures("test")

    def _log_figures(self, stage: str) -> None:
        self.log_dict({f"{stage}/{name}": value for name, value in self._figures.figures().items()})

    def configure_optimizers(self) -> Any:
        """AdamW, or what the configuration says, with warm-up and a cosine, per step."""
        precision = str(self.trainer.precision)
        self.balancing.refuse(
            accumulates=accumulates(self.trainer), precision=precision, devices=self.trainer.world_size
        )
        optimizer = self.make_optimizer()
        if self.trainer.gradient_clip_val:
            refuse_to_clip(optimizer, precision)
        return scheduled(optimizer, self.trainer.estimated_stepping_batches, warmup=self.warmup)

    def make_optimizer(self) -> Optimizer:
        """Return a new one of what trains."""
        return with_scaled_rates(self._make_optimizer(parameter_groups(self)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen weights out: the configuration says where they are, the fingerprint which they are."""
        checkpoint["outputs"] = self.outputs
        leave_frozen_out(checkpoint, self.experts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put frozen weights back in.

        Raises:
            CheckpointMismatchError: A frozen expert is not the one that it was trained with, or the model differs.
        """
        refuse_other_outputs(checkpoint, self.outputs)
        settings_then = checkpoint.get("hyper_parameters", {})
        tell_other_fusion(settings_then, self.hparams)
        refuse_other_price(settings_then, self.hparams)
        put_frozen_back(checkpoint, self.experts)
        refuse_other_shapes(checkpoint["state_dict"], self.state_dict())
