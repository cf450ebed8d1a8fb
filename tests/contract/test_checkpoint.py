"""Checkpoints of TransAnno-Net and scBERT: the same logits as the implementation that they come from."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scvi import REGISTRY_KEYS

from transanno import TransAnno, TransAnnoPretrain

LABELS = ["T cell", "B cell", "NK cell"]  # not in alphabetical order


def original_tokens(adata) -> torch.Tensor:
    """What the original is fed with: bins of log2(1 + CP10k), and the appended zero."""
    counts = adata.X.toarray().astype(np.float64)
    log2 = np.log2(1 + 1e4 * counts / counts.sum(axis=1, keepdims=True))
    bins = np.minimum(np.floor(log2), 5).astype(np.int64)
    return torch.from_numpy(np.c_[bins, np.zeros(len(bins), np.int64)])


def logits(model: TransAnno, adata) -> torch.Tensor:
    """In the order of LABELS."""
    found = model._run(model._resolve(adata)[1], np.arange(adata.n_obs)).logits
    return torch.from_numpy(found[:, [list(model.labels).index(label) for label in LABELS]])


@pytest.fixture
def query(query):
    """With one gene so high that the others fall into all bins."""
    counts = query.X.toarray()
    counts[:, 0] += np.geomspace(100, 100_000, len(counts)).round()[np.random.default_rng(0).permutation(len(counts))]
    query.X = sp.csr_matrix(counts)
    assert set(original_tokens(query)[:, 1:-1].flatten().tolist()) == set(range(6))
    return query


@pytest.fixture
def finetuned(make_original) -> torch.nn.Module:
    return make_original(53, len(LABELS))


@pytest.fixture
def expected(finetuned, query) -> torch.Tensor:
    with torch.no_grad():
        return finetuned(original_tokens(query))


@pytest.fixture
def path(finetuned, tmp_path):
    """As the original saves it, with the state of its optimizer beside the weights."""
    optimizer = torch.optim.Adam(finetuned.parameters()).state_dict()
    saved = {"epoch": 3, "model_state_dict": finetuned.state_dict(), "optimizer_state_dict": optimizer, "losses": 0.25}
    torch.save(saved, tmp_path / "finetune_best.pth")
    return tmp_path / "finetune_best.pth"


@pytest.fixture
def model(path, query) -> TransAnno:
    return TransAnno.from_checkpoint(path, list(query.var_names), LABELS)


class TestLogits:
    def test_equal_those_of_performer_pytorch(self, model, query, expected):
        torch.testing.assert_close(logits(model, query), expected, atol=1e-4, rtol=0)
        frame = model.predict(query, soft=True)
        torch.testing.assert_close(torch.tensor(frame[LABELS].to_numpy()).float(), expected.softmax(dim=1))
        assert list(model.predict(query)) == [LABELS[i] for i in expected.argmax(dim=1)]
        assert len(set(model.predict(query))) > 1

    def test_genes_in_any_order(self, model, query, expected):
        query = query[:, np.random.default_rng(0).permutation(53)].copy()
        torch.testing.assert_close(logits(model, query), expected, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
    @pytest.mark.parametrize("key", ["model_state_dict", "state_dict", None])
    def test_however_it_is_wrapped(self, key, prefix, finetuned, query, expected, tmp_path):
        weights = {prefix + name: weight for name, weight in finetuned.state_dict().items()}
        torch.save(weights if key is None else {key: weights, "epoch": 3}, tmp_path / "model.pth")
        model = TransAnno.from_checkpoint(str(tmp_path / "model.pth"), query.var_names, LABELS)
        torch.testing.assert_close(logits(model, query), expected, atol=1e-4, rtol=0)

    def test_genes_from_a_text_file(self, path, query, expected, tmp_path):
        (tmp_path / "genes.txt").write_text("\n".join(query.var_names) + "\n\n", encoding="utf-8")
        model = TransAnno.from_checkpoint(path, tmp_path / "genes.txt", LABELS)
        assert list(model.genes) == list(query.var_names)
        torch.testing.assert_close(logits(model, query), expected, atol=1e-4, rtol=0)

    def test_positions_from_gene2vec(self, finetuned, query, tmp_path):
        """scBERT's are a fixed table under the same name, with zeros for the appended token; and saved in half."""
        table = torch.randn(54, 33)
        table[-1] = 0.0
        finetuned.pos_emb.emb = torch.nn.Embedding.from_pretrained(table)
        torch.save({"model_state_dict": finetuned.state_dict()}, tmp_path / "scbert.pth")
        model = TransAnno.from_checkpoint(tmp_path / "scbert.pth", query.var_names, LABELS)
        with torch.no_grad():
            expected = finetuned(original_tokens(query))
        torch.testing.assert_close(logits(model, query), expected, atol=1e-4, rtol=0)
        assert torch.equal(model.module.encoder.gene_embedding, table[:-1])

    def test_of_the_genes_expression_in_pretraining(self, make_original, query, tmp_path):
        original = make_original(53)
        torch.save(original.state_dict(), tmp_path / "pretrain.pth")
        model = TransAnnoPretrain.from_checkpoint(tmp_path / "pretrain.pth", query.var_names)
        tokens = original_tokens(query)
        is_masked = torch.rand(61, 53) < 0.15
        counts = torch.from_numpy(query.X.toarray())
        log1p = (tokens[:, :-1] * np.log(2) + 0.1).float().masked_fill(is_masked, 0.0)
        tokens[:, :-1].masked_fill_(is_masked, 6)
        batch = model.module.batch_embedding(torch.zeros(61, dtype=torch.long))
        with torch.no_grad():
            encoded = model.module.encoder(log1p, is_masked, batch, model.module.context(is_masked, None))
            found = model.module.expression_head(encoded, batch, torch.arange(53))
            torch.testing.assert_close(found.transpose(1, 2), original(tokens)[:, :-1], atol=1e-4, rtol=0)
            inputs = {REGISTRY_KEYS.X_KEY: counts, REGISTRY_KEYS.BATCH_KEY: torch.zeros(61, 1)}
            outputs = model.module.inference(**model.module._get_inference_input(inputs))
            encodings = original(original_tokens(query), return_encodings=True)
        torch.testing.assert_close(outputs["tokens"], encodings, atol=1e-4, rtol=0)


class TestModel:
    """What comes out is a model like any other that was loaded without its data."""

    def test_save_and_load(self, model, query, tmp_path):
        model.save(tmp_path / "model")
        loaded = TransAnno.load(tmp_path / "model", adata=False)
        assert torch.equal(logits(loaded, query), logits(model, query))

    def test_query(self, model, query, expected):
        query.obs["batch"] = "any"
        del query.obs["cell_type"]
        query_model = TransAnno.load_query_data(query, model)
        assert list(query_model.predict()) == [LABELS[i] for i in expected.argmax(dim=1)]
        assert list(query.obs["transanno"]) == list(query_model.predict())

    def test_query_learns_from_its_labels_if_asked_to(self, model, query, fast):
        query_model = TransAnno.load_query_data(query, model, unfrozen=True)
        query_model.train(8, plan_kwargs={"lr": 1e-3}, **fast)
        accuracy = (query_model.predict() == query.obs["cell_type"]).mean()
        assert accuracy > (model.predict(query, key_added=None) == query.obs["cell_type"]).mean() + 0.1

    def test_holds_no_cells(self, model, fast):
        assert model.adata is None
        assert model.is_trained
        with pytest.raises(ValueError, match="holds no data"):
            model.predict()
        with pytest.raises(ValueError, match="holds no cells to train on"):
            model.train(1, **fast)

    def test_no_weight_of_the_classification_is_left_to_chance(self, path, query):
        torch.manual_seed(1)
        first = TransAnno.from_checkpoint(path, query.var_names, LABELS)
        torch.manual_seed(2)
        second = TransAnno.from_checkpoint(path, query.var_names, LABELS)
        assert torch.equal(logits(first, query), logits(second, query))

    def test_fine_tuning_of_a_pretrained_one(self, make_original, reference, query, fast, tmp_path):
        original = make_original(53)
        torch.save(original.state_dict(), tmp_path / "pretrain.pth")
        pretrained = TransAnnoPretrain.from_checkpoint(tmp_path / "pretrain.pth", list(query.var_names))
        pretrained.save(tmp_path / "model")
        model = TransAnno.from_pretrained(tmp_path / "model", reference, "cell_type", batch_key="batch")
        assert torch.equal(model.module.encoder.gene_embedding, original.pos_emb.emb.weight[:-1])
        model.train(8, plan_kwargs={"lr": 3e-3}, **fast)
        assert (model.predict(query) == query.obs["cell_type"]).mean() > 0.6

    def test_encoder_of_a_fine_tuned_one(self, path, query, finetuned):
        with pytest.warns(UserWarning, match="not from pretraining"):
            pretrained = TransAnnoPretrain.from_checkpoint(path, query.var_names)
        assert torch.equal(pretrained.module.encoder.norm.weight, finetuned.norm.weight)


class TestRefused:
    @pytest.fixture
    def save(self, finetuned, tmp_path):
        """``save(change)``: the checkpoint with its weights changed in place -> path."""

        def save(change):
            weights = dict(finetuned.state_dict())
            change(weights)
            torch.save(weights, tmp_path / "wrong.pth")
            return tmp_path / "wrong.pth"

        return save

    def load(self, path, query, labels=LABELS):
        return TransAnno.from_checkpoint(path, query.var_names, labels)

    def test_lists_every_weight_that_does_not_fit(self, save, query):
        def change(weights):
            del weights["norm.bias"]
            del weights["performer.net.layers.1.0.fn.to_out.bias"]
            weights["performer.net.layers.0.0.fn.to_q.bias"] = torch.zeros(48)
            weights["layer_pos_emb.emb"] = torch.zeros(54, 16)
            weights["to_out.fc2.weight"] = torch.zeros(100, 512)
            weights["token_emb.weight"] = torch.zeros(9, 33)

        with pytest.raises(ValueError, match="weights of .*wrong.pth do not fit") as error:
            self.load(save(change), query)
        for found in (
            "norm.bias (33,) is missing",
            "performer.net.layers.1.0.fn.to_out.bias (33,) is missing",
            "performer.net.layers.0.0.fn.to_q.bias (48,) is left over",
            "layer_pos_emb.emb (54, 16) is left over",
            "to_out.fc2.weight has shape (100, 512) instead of (128, 512)",
            "token_emb.weight has shape (9, 33) instead of (7, 33)",
        ):
            assert found in str(error.value)

    def test_missing_layer(self, save, query):
        def change(weights):
            for name in [name for name in weights if ".layers.0." in name]:
                del weights[name]

        with pytest.raises(ValueError, match=r"14 weights .*layers\.0\.0\.norm\.weight \(33,\) is missing"):
            self.load(save(change), query)

    @pytest.mark.parametrize("name", ["token_emb.weight", "pos_emb.emb.weight"])
    def test_sizes_that_cannot_be_told(self, name, save, query):
        with pytest.raises(ValueError, match=f"holds no Performer .*{name} missing"):
            self.load(save(lambda weights: weights.pop(name)), query)

    def test_pretraining_only(self, make_original, query, tmp_path):
        torch.save(make_original(53).state_dict(), tmp_path / "pretrain.pth")
        with pytest.raises(ValueError, match="holds no classifier .*TransAnnoPretrain.from_checkpoint"):
            self.load(tmp_path / "pretrain.pth", query)

    def test_number_of_genes(self, path, query):
        with pytest.raises(ValueError, match="genes has 52 names, but .* positions for 53 genes"):
            TransAnno.from_checkpoint(path, query.var_names[:-1], LABELS)

    def test_repeated_genes(self, path, query):
        with pytest.raises(ValueError, match="genes has 1 gene name"):
            TransAnno.from_checkpoint(path, ["GENE00", *query.var_names[:-1]], LABELS)

    @pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "a"], ["a", "b", "Unlabeled"], ["a", "b", "c", "d"]])
    def test_labels(self, labels, path, query):
        with pytest.raises(ValueError, match=f"labels has {len(labels)} names.*predicts 3 types"):
            self.load(path, query, labels)

    def test_code_in_the_file_is_not_run(self, query, tmp_path):
        class Evil:
            def __reduce__(self):
                return (exec, ("raise SystemExit('code was run')",))

        torch.save({"model_state_dict": {}, "config": Evil()}, tmp_path / "evil.pth")
        with pytest.raises(ValueError, match="holds more than plain weights"):
            self.load(tmp_path / "evil.pth", query)

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip file"])
    def test_damaged_file(self, content, query, tmp_path):
        (tmp_path / "damaged.pth").write_bytes(content)
        with pytest.raises(ValueError, match="damaged|holds more than plain weights"):
            self.load(tmp_path / "damaged.pth", query)

    def test_no_file(self, query, tmp_path):
        with pytest.raises(ValueError, match="is not a file"):
            self.load(tmp_path / "absent.pth", query)

    @pytest.mark.parametrize("saved", [[1, 2], {"epoch": 3}, {}, {"state_dict": {"a": 1}}])
    def test_no_weights(self, saved, query, tmp_path):
        torch.save(saved, tmp_path / "other.pth")
        with pytest.raises(ValueError, match="holds no weights by name"):
            self.load(tmp_path / "other.pth", query)

    def test_model_of_this_package(self, saved_reference, query):
        with pytest.raises(ValueError, match="plain weights|holds no Performer"):
            self.load(saved_reference / "model.pt", query)
