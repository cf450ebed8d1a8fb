"""The network as an scvi-tools module: minibatch -> cell state, logits, expression -> LossOutput."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn
from torch.nn import functional as F

from transanno.nn import (
    Architecture,
    CellTypeHead,
    Context,
    EncoderOutput,
    bin_expression,
    build_classifier,
    build_encoder,
    build_expression_head,
    commonest_bins,
    count_bins,
    fill_architecture,
    normalize_counts,
    perturb_genes,
    sample_expressed_mask,
    sample_gene_mask,
    sample_panel,
    thin_counts,
)

# Genes whose expression is predicted in one step where all genes can be hidden. Predicting all 2,000 costs more than
# the encoder.
_N_RECONSTRUCTED = 256


class TransAnnoModule(BaseModuleClass):
    """Encoder, expression head and (with labels) cell-type head.

    Parameters
    ----------
    n_input
        Number of genes.
    n_batch
        Number of technical batches.
    n_labels
        Number of label categories **including** the unlabeled one, which is the last and has no logit;
        0 builds no cell-type head (pretraining).
    **architecture
        Fields of :class:`transanno.nn.Architecture`.
    """

    is_other: Tensor
    mean_expression: Tensor
    commonest_bins: Tensor

    def __init__(self, n_input: int, n_batch: int = 1, n_labels: int = 0, **architecture: Unpack[Architecture]) -> None:
        super().__init__()
        # With the defaults filled in: a saved model must not change when these do.
        self.architecture = fill_architecture(architecture, has_labels=n_labels > 0)
        self.n_input = n_input
        self.n_classes = max(n_labels - 1, 0)
        self.encoder = build_encoder(self.architecture, n_vars=n_input)
        self.n_latent = self.encoder.n_latent
        n_hidden = self.encoder.n_hidden
        self.batch_embedding = nn.Embedding(n_batch, n_hidden)
        nn.init.normal_(self.batch_embedding.weight, std=0.02)
        # Stands in for the batch of a cell whose batch is unknown: half of the training cells, and
        # every batch that a query brings until `train()` has adapted to it.
        self.unknown_batch = nn.Parameter(torch.zeros(n_hidden))
        self.expression_head = build_expression_head(self.encoder, n_vars=n_input)
        self.classifier = (
            build_classifier(self.architecture, self.encoder, n_vars=n_input, n_labels=self.n_classes)
            if self.n_classes
            else None
        )
        # The column, if any, that counts all genes outside the vocabulary: part of a cell's total, and nothing else.
        self.register_buffer("is_other", torch.zeros(n_input, dtype=torch.bool))
        # Of the reference; the center of a data set that nothing else is known of.
        self.register_buffer("mean_expression", torch.zeros(n_input))
        # What hidden genes are guessed by without a network, over all cells and over those that express the gene;
        # -1: not known.
        self.register_buffer("commonest_bins", torch.full((2, n_input), -1, dtype=torch.int8))

    @property
    def reads_center(self) -> bool:
        """Whether a result depends on the mean of the data set that a cell is of."""
        return not self.encoder.has_gene_tokens or isinstance(self.classifier, CellTypeHead)

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict[str, Tensor]:
        return {"x": tensors[REGISTRY_KEYS.X_KEY], "batch_index": tensors[REGISTRY_KEYS.BATCH_KEY]}

    @auto_move_data
    def inference(
        self,
        x: Tensor,
        batch_index: Tensor,
        is_missing: Tensor | None = None,
        center: Tensor | None = None,
        *,
        min_count_fraction: float = 1.0,
        gene_noise: float = 0.0,
        max_masked_fraction: float = 0.0,
        is_panel: bool = False,
        masked_fraction: float = 0.0,
        replace_probability: float = 1.0,
        batch_dropout: float = 0.0,
    ) -> dict[str, Tensor]:
        """counts ``(n_obs, n_vars)``, batch codes ``(n_obs, 1)`` -> cell state, logits, genes to predict.

        Deterministic by default; training passes how much to thin counts, perturb and hide genes (``max_masked_fraction`` of
        all, the same of all cells with ``is_panel``, or ``masked_fraction`` of the expressed ones) and forget batches.
        ``is_missing (n_vars,)`` are genes that the data lack, by default none. ``center (n_vars,)`` is the mean
        log-expression of the data set that the cells are of: in training that of the minibatch, which is drawn as a data
        set of its own; otherwise by default that of the reference. ``is_hidden`` of the result is True at the genes to
        predict, of which a few may have stayed visible.
        """
        if x.layout != torch.strided and not (x.layout == torch.sparse_csr and self.encoder.reads_sparse):
            x = x.to_dense()
        missing = (torch.zeros_like(self.is_other) if is_missing is None else is_missing)[None, :]
        is_target = is_replaced = torch.zeros_like(missing)
        if masked_fraction > 0.0:
            is_target, is_replaced = sample_expressed_mask(
                x, fraction=masked_fraction, replace_probability=replace_probability
            )
        elif max_masked_fraction > 0.0 and is_panel:
            is_replaced = sample_panel(x.shape[1], max_fraction=max_masked_fraction, device=x.device)
        elif max_masked_fraction > 0.0:
            is_target = is_replaced = sample_gene_mask(*x.shape, max_fraction=max_masked_fraction, device=x.device)
        missing = missing | self.is_other
        is_masked = is_replaced | missing
        counts = thin_counts(x, min_fraction=min_count_fraction)
        expression = self.normalize(perturb_genes(counts, deviation=gene_noise, is_other=self.is_other), is_masked)
        batch = self.batch_embedding(batch_index.flatten().long())
        if batch_dropout > 0.0:
            is_forgotten = torch.rand(len(x), 1, device=x.device) < batch_dropout
            batch = torch.where(is_forgotten, self.unknown_batch, batch)
        if center is None and self.training:
            n_visible = (~is_masked).sum(dim=0) if len(is_masked) == len(expression) else len(expression)
            center = expression.sum(dim=0) / torch.as_tensor(n_visible).clamp_min(1)
        context = self.context(is_masked, center)
        encoded = self.encoder(expression, is_masked, batch, context)
        outputs = {"z": encoded.cell_state, "tokens": encoded.tokens, "is_hidden": is_target & ~missing}
        outputs["expression"] = expression
        if masked_fraction > 0.0:
            # Few genes of a cell are to be predicted: each of them counts.
            outputs["genes"] = outputs["is_hidden"].any(dim=0).nonzero()[:, 0]
        if self.classifier is not None:
            outputs["logits"] = self.classifier(encoded, expression, is_masked, context)
        return outputs

    def context(self, is_masked: Tensor, center: Tensor | None) -> Context:
        """Masked genes ``(n_obs | 1, n_vars)``, mean of the data set ``(n_vars,)`` or None -> context of its cells."""
        center = self.mean_expression if center is None else center
        return Context(*(values[None, :].masked_fill(is_masked, 0.0) for values in (center, self.mean_expression)))

    def normalize(self, counts: Tensor, is_masked: Tensor) -> Tensor:
        """counts ``(n_obs, n_vars)``, is_masked ``(n_obs | 1, n_vars)`` -> log1p of counts per 10,000, dense or sparse CSR."""
        return normalize_counts(counts, is_masked, self.is_other[None, :] if self.is_other.any() else None)

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **kwargs
    ) -> dict[str, Tensor | None]:
        return {
            "z": inference_outputs["z"],
            "tokens": inference_outputs["tokens"],
            "batch_index": tensors[REGISTRY_KEYS.BATCH_KEY],
            "is_hidden": inference_outputs["is_hidden"],
            "genes": inference_outputs.get("genes"),
        }

    @auto_move_data
    def generative(
        self, z: Tensor, tokens: Tensor, batch_index: Tensor, is_hidden: Tensor, genes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """State ``(n_obs, n_latent)``, tokens -> bin logits ``(n_obs, n_bins, n_genes)`` of ``genes``, or of a random few."""
        if len(is_hidden) != len(z) or (len(z) == 1 and not is_hidden.any()):  # nothing hidden, nothing to predict
            return {}
        if genes is None:
            genes = torch.randperm(self.n_input, device=z.device)[:_N_RECONSTRUCTED]
        batch = self.batch_embedding(batch_index.flatten().long())
        return {"bin_logits": self.expression_head(EncoderOutput(tokens, z), batch, genes), "genes": genes}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Tensor],
        generative_outputs: dict[str, Tensor],
        *,
        reconstruction_weight: float = 1.0,
        use_labels: bool = True,
        label_smoothing: float = 0.0,
        balanced: bool = False,
    ) -> LossOutput:
        """Cross-entropy of labels (labeled cells) + weighted cross-entropy of hidden genes' bins, in nats.

        With ``balanced``, a type with n cells in the minibatch weighs as sqrt(n).
        """
        z = inference_outputs["z"]
        n_obs = len(z)
        extra_metrics: dict[str, Tensor] = {}
        reconstruction = z.new_zeros(n_obs)
        if generative_outputs:
            reconstruction, extra_metrics = self._reconstruction_loss(tensors, inference_outputs, generative_outputs)
        loss = reconstruction_weight * reconstruction.mean()
        classification, labels, logits = self._classification_loss(
            tensors, inference_outputs, label_smoothing=label_smoothing, balanced=balanced
        )
        if classification is not None and use_labels:
            loss = loss + classification
        elif not generative_outputs:
            loss = loss + 0.0 * z.sum()  # a minibatch may leave nothing to learn from, and still has to have a gradient
        return LossOutput(
            loss=loss,
            reconstruction_loss=reconstruction,
            classification_loss=classification,
            true_labels=labels,
            logits=logits,
            extra_metrics=extra_metrics,
            n_obs_minibatch=n_obs,
        )

    def _reconstruction_loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-> mean cross-entropy of the hidden genes' bins per cell ``(n_obs,)``, shares of bins guessed right."""
        genes, bin_logits = generative_outputs["genes"], generative_outputs["bin_logits"]
        is_hidden = inference_outputs["is_hidden"][:, genes]
        # The target is the whole cell, the input its thinned copy: the network learns to denoise.
        counts = tensors[REGISTRY_KEYS.X_KEY]  # zero at genes that the data lack
        bins = bin_expression(counts[:, genes], counts.sum(dim=1, keepdim=True))
        cross_entropy = F.cross_entropy(bin_logits, bins, reduction="none")  # (n_obs, n_genes)
        n_hidden = is_hidden.sum(dim=1)
        per_cell = (cross_entropy * is_hidden).sum(dim=1) / n_hidden.clamp_min(1)
        n_total = n_hidden.sum().clamp_min(1)
        # Not argmax: over a middle axis it is as slow as the whole backward pass.
        is_right = (bin_logits.gather(1, bins[:, None, :])[:, 0] == bin_logits.amax(dim=1)) & is_hidden
        # Where only expressed genes are hidden, being hidden says that a gene is expressed: the guess may know it, too.
        commonest = self.commonest_bins[int("genes" in inference_outputs), genes]
        is_guessed = (commonest == bins) & is_hidden
        accuracy_commonest = (is_guessed.sum() / n_total).masked_fill((commonest < 0).any(), torch.nan)
        return per_cell, {
            "masked_accuracy": is_right.sum() / n_total,
            "masked_accuracy_commonest": accuracy_commonest,
        }

    def _classification_loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Tensor],
        *,
        label_smoothing: float,
        balanced: bool,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """-> loss, labels ``(n_labeled,)`` and logits ``(n_labeled, n_classes)`` of the labeled cells, if any."""
        if self.classifier is None:
            return None, None, None
        labels = tensors[REGISTRY_KEYS.LABELS_KEY].flatten().long()
        is_labeled = labels < self.n_classes
        if not is_labeled.any():
            return None, None, None
        labels, logits = labels[is_labeled], inference_outputs["logits"][..., is_labeled, :]
        # A type that is common in this minibatch counts for more than a rare one, but not for as much as it has cells.
        weights = None
        if balanced:
            n_per_type = torch.bincount(labels, minlength=self.n_classes).to(logits)
            weights = n_per_type.clamp_min(1).rsqrt() * (n_per_type > 0)
        options: dict[str, Any] = {"weight": weights, "label_smoothing": label_smoothing}
        if logits.dim() == 2:
            return F.cross_entropy(logits, labels, **options), labels, logits
        # Every network learns by itself.
        loss = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), **options)
        return loss, labels, logits.mean(dim=0)

    def sample(self, *args, **kwargs):
        """The module predicts; it does not generate cells."""
        raise NotImplementedError("TransAnno is a discriminative model and draws no samples.")

    @torch.no_grad()
    def initialize_from_data(self, counts: Tensor, is_missing: Tensor, *, genes: bool) -> None:
        """Start mean expression, and with ``genes`` all that stands for a gene, from ``counts (n_obs, n_vars)``.

        ``is_missing (n_vars,)`` are genes that the data lack. Also notes every gene's commonest bin.
        """
        is_missing = is_missing.to(self.device)
        counts = counts.to(self.device).masked_fill(is_missing, 0.0)
        n_per_bin, n_per_bin_expressed = count_bins(counts)
        self.commonest_bins.copy_(commonest_bins(n_per_bin, n_per_bin_expressed))
        expression = self.normalize(counts, is_missing[None, :])
        if genes:
            self.encoder.initialize_genes(expression)
            self.expression_head.initialize(n_per_bin)
        self.mean_expression.copy_(expression.mean(dim=0))

    def freeze(self, freeze: str | None) -> None:
        """Let everything learn (None), all but the encoder, or of the encoder its ``tunable_layers`` only.

        What a pretrained model has not seen always learns: the cell-type head and the batches.
        """
        self.requires_grad_(freeze is None)
        tunable = self.encoder.tunable_layers if freeze == "partial" else []
        for part in [self.classifier, self.batch_embedding, *tunable]:
            if part is not None:
                part.requires_grad_(True)

    def freeze_for_query(self, n_reference_batches: int) -> None:
        """Let only the embeddings of batches beyond the reference's learn.

        Weights of the reference stay bit-identical: everything else loses ``requires_grad``, and the
        gradient of the reference's batch rows is zero (the optimizer does not decay embeddings).
        """
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        weight = self.batch_embedding.weight
        if self.batch_embedding.num_embeddings == n_reference_batches:
            return
        weight.requires_grad_(True)
        is_new = (torch.arange(len(weight)) >= n_reference_batches)[:, None]
        weight.register_hook(lambda gradient: gradient * is_new.to(gradient.device))

    @torch.no_grad()
    def start_new_batches(self, n_reference_batches: int) -> None:
        """Start the rows of a query's batches at the embedding that stands for an unknown batch."""
        self.batch_embedding.weight[n_reference_batches:] = self.unknown_batch
