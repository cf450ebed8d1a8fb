from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from transanno import pp
from transanno.data._vocabulary import as_vocabulary

GENES = ["CD3D", "MS4A1", "HLA-DRA", "7SK", "Gene with space", "gène"]


class TestRoundTrip:
    @pytest.mark.parametrize("name", ["genes.txt", "genes.json", "genes.JSON", "genes"])
    def test_order_and_names_are_kept(self, name, tmp_path):
        pp.write_vocabulary(GENES, tmp_path / name)
        found = pp.read_vocabulary(tmp_path / name)
        assert isinstance(found, pd.Index)
        assert list(found) == GENES

    def test_files_are_plain(self, tmp_path):
        pp.write_vocabulary(pd.Index(GENES), str(tmp_path / "genes.txt"))
        pp.write_vocabulary(np.array(GENES), str(tmp_path / "genes.json"))
        assert (tmp_path / "genes.txt").read_bytes() == ("\n".join(GENES) + "\n").encode()
        assert json.loads((tmp_path / "genes.json").read_text(encoding="utf-8")) == GENES

    @pytest.mark.parametrize("text", [b"A\nB\nC", b"A\nB\nC\n", b"A\r\nB\r\nC\r\n", b"\xef\xbb\xbfA\nB\nC\n\n"])
    def test_files_of_other_programs(self, text, tmp_path):
        (tmp_path / "genes.txt").write_bytes(text)
        assert list(pp.read_vocabulary(tmp_path / "genes.txt")) == ["A", "B", "C"]


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            pytest.param(
                "g.txt", b"ENSG01\tCD3D\nENSG02\tCD4\n", "2 entries that are no names.*ENSG01.*alone", id="table"
            ),
            pytest.param("g.txt", b"A\n\nB\n", "1 entries that are no names of genes, first ''", id="gap"),
            pytest.param("g.txt", b"A\nB \n", "first 'B '", id="space"),
            pytest.param("g.txt", b"", "first ''", id="empty"),
            pytest.param("g.txt", b"A\nB\nA\n", "1 gene name.*more than once: 'A'", id="twice"),
            pytest.param("g.txt", b"\x80\x02}q", "neither a text file", id="pickle"),
            pytest.param("g.json", b'{"A": 1}', r'\["CD3D", "MS4A1"\]', id="object"),
            pytest.param("g.json", b"[1, 2]", "does not hold a list of gene names", id="numbers"),
            pytest.param("g.json", b"[]", "holds no genes", id="none"),
            pytest.param("g.json", b"A\nB\n", "neither a text file", id="text"),
        ],
    )
    def test_content(self, name, content, message, tmp_path):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            pp.read_vocabulary(tmp_path / name)

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"genes.json does not exist\. Pass"):
            pp.read_vocabulary(tmp_path / "genes.json")
        with pytest.raises(FileNotFoundError, match="genes.txt does not exist"):
            pp.read_vocabulary(tmp_path)

    @pytest.mark.parametrize("genes", [[], ["A", "A"], ["A", ""], ["A\nB"], ["A", 1], ["A", None]])
    def test_nothing_is_written(self, genes, tmp_path):
        with pytest.raises(ValueError):
            pp.write_vocabulary(genes, tmp_path / "genes.txt")
        assert not (tmp_path / "genes.txt").exists()


class TestSources:
    def test_all_kinds_agree(self, model, saved_reference, tmp_path):
        pp.write_vocabulary(model.genes, tmp_path / "mine.json")
        kinds = [model, saved_reference, str(saved_reference), tmp_path / "mine.json", model.genes, list(model.genes)]
        kinds += [model.genes.to_numpy(), model.genes.to_series(), tuple(model.genes)]
        for kind in kinds:
            assert list(as_vocabulary(kind)) == list(model.genes)

    @pytest.mark.parametrize("wrong", [3, None, ad.AnnData(np.ones((2, 3)))])
    def test_others_are_refused(self, wrong):
        with pytest.raises(TypeError, match=f"vocabulary is a {type(wrong).__name__}.*such as adata.var_names"):
            as_vocabulary(wrong)
