from __future__ import annotations

import pickle

import pytest
from lightning.pytorch.callbacks import Callback, TQDMProgressBar

from transanno import TransAnno, TransAnnoPretrain
from transanno.training._progress import EpochBar, current_stage, stage, with_bar


def test_stages_end() -> None:
    assert current_stage() is None
    with stage("training 1/2"):
        with stage("calibration 2/2"):
            assert current_stage() == "calibration 2/2"
        assert current_stage() == "training 1/2"
    assert current_stage() is None


def test_our_bar_takes_the_place_of_scvi_tools_bar() -> None:
    callbacks = [Callback()]
    arguments = with_bar({"callbacks": callbacks})
    assert [type(callback) for callback in arguments["callbacks"]] == [Callback, EpochBar]
    assert arguments["simple_progress_bar"] is False
    assert len(callbacks) == 1, "the user's list is theirs"


@pytest.mark.parametrize("given", [{"enable_progress_bar": False}, {"simple_progress_bar": False}])
def test_there_is_none_where_none_is_wanted(given: dict[str, bool]) -> None:
    assert with_bar(given) == {**given, "callbacks": []}


def test_a_bar_of_the_user_is_the_only_one() -> None:
    bar = TQDMProgressBar()
    assert with_bar({"callbacks": [bar]}) == {"callbacks": [bar], "simple_progress_bar": False}


def test_bars_say_what_they_are_of(reference, fast, capsys) -> None:
    shown = {**fast, "enable_progress_bar": True}
    TransAnno.setup_anndata(reference, labels_key="cell_type")
    model = TransAnno(reference)
    model.train(2, **shown)
    lines = capsys.readouterr().out.replace("\r", "\n").split("\n")
    assert {line.split(":")[0] for line in lines if line} == {"training"}
    assert "2/2" in lines[-2]
    assert "train_loss=" in lines[-2]
    assert "v_num" not in lines[-2]
    with stage("fold 3"):
        model.train(1, **shown)
    assert "fold 3: 100%" in capsys.readouterr().out
    TransAnnoPretrain.setup_anndata(reference)
    TransAnnoPretrain(reference).train(1, **shown)
    assert "pretraining: 100%" in capsys.readouterr().out


def test_bars_are_closed_when_training_fails(reference, fast, capsys) -> None:
    class Fails(Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            raise RuntimeError("failed")

    TransAnno.setup_anndata(reference, labels_key="cell_type")
    bar = EpochBar()
    with pytest.raises(RuntimeError, match="failed"):
        TransAnno(reference).train(2, **{**fast, "enable_progress_bar": True, "callbacks": [bar, Fails()]})
    assert bar._bar.disable  # as tqdm marks what is closed
    assert pickle.loads(pickle.dumps(EpochBar()))._bar is None
