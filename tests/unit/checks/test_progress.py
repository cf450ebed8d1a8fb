"""Bars of what takes minutes."""

from __future__ import annotations

import pytest

from transanno.checks._progress import bars, cells_bar


def shown(capfd, **options) -> bool:
    with cells_bar("Predicting", 97, is_long=options.get("is_long", True)) as bar:
        bar.update(97)
    return "Predicting: 100%" in capfd.readouterr().err


def test_only_what_is_long_has_one(capfd):
    assert shown(capfd)
    assert not shown(capfd, is_long=False)


@pytest.mark.parametrize(("outer", "inner"), [(True, True), (True, False), (False, True), (False, False)])
def test_whoever_switches_them_off_has_the_last_word(outer, inner, capfd):
    with bars(outer), bars(inner):
        assert shown(capfd) == (outer and inner)
    assert shown(capfd)
