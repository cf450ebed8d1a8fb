"""Whether models can be trained on a reference, in the words of those who would refuse it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from transanno._constants import UNLABELED_CATEGORY
from transanno.checks._data import check_obs_column, check_types, check_unique_genes
from transanno.data._labels import as_strings
from transanno.data._no_label import no_label_text
from transanno.pp._check._report import Finding
from transanno.pp._check._values import look_at_values

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def reference_findings(
    reference: AnnData, genes: pd.Index, *, layer: str | None, batch_key: str | None
) -> list[Finding]:
    """Reference & those of its genes that a model would read -> findings on its values, names and batches; none if all is well."""
    findings = [_scale_finding(reference, genes, layer)]
    try:
        check_unique_genes(reference.var_names, name="reference")
    except ValueError as error:
        findings.append(Finding("reference genes", "error", str(error)))
    if batch_key is not None:
        try:
            check_obs_column(reference, batch_key, argument="batch_key", name="reference")
        except (KeyError, ValueError) as error:
            findings.append(Finding("reference batches", "error", str(error)))
    return [finding for finding in findings if finding.severity != "ok"]


def _scale_finding(reference: AnnData, genes: pd.Index, layer: str | None) -> Finding:
    try:
        _, finding, _ = look_at_values(reference, layer, name="reference", genes=genes)
    except ValueError as error:
        return Finding("reference scale", "error", str(error))
    return replace(finding, name="reference scale", cure="models do this by themselves" if finding.cure else "")


def label_findings(reference: AnnData, labels_key: str) -> list[Finding]:
    """-> whether there are types to tell apart, and whether labels are none."""
    check_obs_column(reference, labels_key, argument="labels_key", name="reference")
    labels = as_strings(reference.obs[labels_key], missing=UNLABELED_CATEGORY)
    text = no_label_text(labels, UNLABELED_CATEGORY, where=f"obs[{labels_key!r}]")
    findings = [Finding("labels", "warning", text)] if text else []
    try:
        check_types(sorted(set(labels) - {UNLABELED_CATEGORY}))
    except ValueError as error:
        return [Finding("labels", "error", str(error)), *findings]
    return findings
