from __future__ import annotations


def test_printing_tells_everything_apart(result):
    text = str(result)
    assert "accuracy: 0.6667\n" in text
    assert "coverage: 0.8889, accuracy where assigned: 0.7500" in text
    assert "3 cells, types: 1 (Mast); with them, accuracy: 0.5000" in text
    assert "no true type: 2 cells" in text
    assert "no prediction: 1 cells" in text
    assert text.splitlines()[-1].split() == ["NK", "1.000", "1.000", "1.000", "1", "1"]
    assert repr(result) == text
