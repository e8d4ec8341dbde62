"""`python -m benchmarks.certify`: every method at a scale, its table and picture; it goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import certify
from examples.paper import train

SMALL = Path(__file__).parents[1] / "examples" / "small.toml"


@pytest.mark.slow
def test_all_methods_of_a_scale(tmp_path, monkeypatch, capsys):
    asked = [
        str(SMALL),
        "--work",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--count",
        "6",
        "--n",
        "40",
        "--sigma",
        "0.25",
    ]
    certify.main(asked)
    kept = json.loads((tmp_path / "out" / "small.json").read_text())["results"]
    assert [(each["method"], each["sigma"]) for each in kept] == [(m, 0.25) for m in certify.METHODS]
    assert all(each["images"] == 6 and len(each["average_radius"]) == each["seeds"] == 2 for each in kept)
    assert len({str(each["average_radius"]) for each in kept}) > 2  # they are different networks
    text = (tmp_path / "out" / "small.txt").read_text()
    assert all(method in text for method in certify.METHODS) and text in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"small-0.25.png"}

    monkeypatch.setattr(train.stocnoise, "finetune", lambda *_, **__: pytest.fail("what is trained is trained again"))
    certify.main(asked)
    assert json.loads((tmp_path / "out" / "small.json").read_text())["results"] == kept

    other = tmp_path / "small.toml"
    other.write_text(SMALL.read_text().replace("batch_size = 64", "batch_size = 50"))
    with pytest.raises(SystemExit):
        certify.main([str(other), *asked[1:]])
    assert "begun with other training.batch_size" in capsys.readouterr().err
