"""Training on the unlabeled query: predictions before and after.

Every reference is set up with its batch column, also where batch and type coincide and users are told not to: only the
embeddings of a query's batches learn. The query's labels are removed before the model sees it.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from benchmarks._data import (
    BATCH,
    LABEL,
    RESULTS,
    load_pair,
    markdown_table,
    read_pairs,
    run_info,
    score,
    write_results,
)


def main(argv: list[str] | None = None) -> None:
    import transanno

    pairs = read_pairs()
    parser = argparse.ArgumentParser(prog="python -m benchmarks adaptation", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", default=list(pairs), choices=list(pairs))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    rows = []
    for name in arguments.pairs:
        reference, query = load_pair(pairs[name])
        truth = query.obs.pop(LABEL)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model = transanno.tl.fit_reference(
                reference, LABEL, batch_key=BATCH, query_genes=query.var_names, enable_progress_bar=False
            )
            query_model = transanno.TransAnno.load_query_data(query, model)
            before = query_model.predict(key_added=None)
            query_model.train(enable_progress_bar=False)
        after = query_model.predict(key_added=None)
        scores = [value for labels in (before, after) for value in score(truth, labels, reference.obs[LABEL])]
        rows.append([name, *(f"{value:.3f}" for value in scores)])
        print(rows[-1], flush=True)
    table = markdown_table(["pair", "macro-F1 before", "accuracy before", "macro-F1 after", "accuracy after"], rows)
    info = run_info(["adaptation", *(argv or [])], packages=["transanno", "scvi-tools", "torch"])
    write_results("adaptation", arguments.out, info, ["One seed; predictions not refined.", table], {"rows": rows})
