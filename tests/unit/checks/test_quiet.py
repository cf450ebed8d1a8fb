from __future__ import annotations

import logging
import warnings

import pytest

from transanno.checks._quiet import calm_libraries, quiet_loggers


def test_loggers_are_as_they_were_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("transanno_test.inner")
    logger.setLevel(logging.DEBUG)
    with pytest.raises(RuntimeError), quiet_loggers("transanno_test.inner"):
        logger.info("not heard")
        logger.warning("heard")
        raise RuntimeError
    assert logger.level == logging.DEBUG
    logger.info("heard again")
    assert caplog.messages == ["heard", "heard again"]


def test_who_wants_less_gets_less() -> None:
    logger = logging.getLogger("transanno_test.other")
    logger.setLevel(logging.CRITICAL)
    with quiet_loggers("transanno_test.other"):
        assert logger.level == logging.CRITICAL


def test_only_what_libraries_say_of_themselves_is_left_out() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        with calm_libraries():
            for module in ("lightning.pytorch.utilities", "scvi.model", "torchmetrics"):
                warnings.warn_explicit("is deprecated", FutureWarning, "file.py", 1, module=module)
            advice = "The 'train_dataloader' does not have many workers which may be a bottleneck."
            warnings.warn_explicit(advice, UserWarning, "file.py", 1, module="lightning.pytorch.trainer")
            assert not caught
            warnings.warn_explicit("is deprecated", FutureWarning, "file.py", 1, module="users_callback")
            warnings.warn_explicit("Checkpoint exists", UserWarning, "file.py", 1, module="lightning.pytorch.callbacks")
        assert warnings.filters == filters
    assert [str(warning.message) for warning in caught] == ["is deprecated", "Checkpoint exists"]
