"""evaluate(path=…, resume=True): killed, it goes on; shared out among processes, it finds the same."""

from __future__ import annotations

import json

import pytest
import torch
from attacks_models import digits, trained
from processes import alone_and_in_two

from stocnoise import evaluate
from stocnoise.errors import FileFormatError
from stocnoise.evaluation import Budget, Strongest

X, Y = (t[:32] for t in digits()[2:])
BATCHES = [*zip(X.split(8), Y.split(8), strict=True)]
ATTACK = Strongest((Budget(2, 2, ("apgd-margin", "noise off")), Budget(3, 2, ("apgd", "frozen draw"))))
FAST = {"draws": 8, "steps": 2, "eot": 2, "progress": False, "checks": False}


def figures(report) -> list:
    data = json.loads(json.dumps(report.to_dict()))["attacks"]

    def without_time(value):
        if isinstance(value, dict):
            return {key: without_time(each) for key, each in value.items() if key != "seconds"}
        return [without_time(each) for each in value] if isinstance(value, list) else value

    return without_time(data)


def test_it_goes_on_from_the_batches_that_are_done(tmp_path):
    model = trained(gamma=0.3)
    whole = evaluate(model, BATCHES, [ATTACK, "pgd"], [0.1, 0.2], keep_examples=10, **FAST)

    def killed():
        yield from BATCHES[:2]
        raise RuntimeError("killed")

    settings = FAST | {"path": tmp_path / "r.json", "resume": True, "keep_examples": 10}
    with pytest.raises(RuntimeError, match="killed"):
        evaluate(model, killed(), [ATTACK, "pgd"], [0.1, 0.2], **settings)
    files = sorted((tmp_path / "r.json.batches").iterdir())
    assert [path.name for path in files] == ["000000.safetensors", "000001.safetensors"]
    stamps = [path.stat().st_mtime_ns for path in files]
    resumed = evaluate(model, BATCHES, [ATTACK, "pgd"], [0.1, 0.2], **settings)
    assert stamps == [path.stat().st_mtime_ns for path in files], "a finished batch was done again"
    assert figures(resumed) == figures(whole) and resumed.clean == whole.clean
    assert [(e.number, e.attack, e.eps, e.after) for e in resumed.examples] == [
        (e.number, e.attack, e.eps, e.after) for e in whole.examples
    ]
    assert all(torch.equal(a.attacked, b.attacked) for a, b in zip(resumed.examples, whole.examples, strict=True))


def test_batches_of_another_evaluation_are_refused_by_name(tmp_path):
    model = trained(gamma=0.3)
    settings = FAST | {"path": tmp_path / "r.json", "resume": True}
    evaluate(model, BATCHES[:1], "pgd", 0.1, **settings)
    for change, message in (
        ({"seed": 5}, "other seed"),
        ({"eot": 4}, "other attacks"),
        ({"eps": 0.2}, "other eps"),
        ({"model": trained()}, "other .*model"),
        ({"data": BATCHES[1:]}, "other images"),
    ):
        asked = {"model": model, "data": BATCHES[:1], "attacks": "pgd", "eps": 0.1} | settings | change
        with pytest.raises(ValueError, match=message):
            evaluate(**asked)
    (kept,) = (tmp_path / "r.json.batches").iterdir()
    kept.write_bytes(kept.read_bytes()[:-3])
    with pytest.raises(FileFormatError, match="truncated"):
        evaluate(model, BATCHES[:1], "pgd", 0.1, **settings)


def test_resume_needs_a_path_and_nothing_is_kept_unasked(tmp_path):
    with pytest.raises(ValueError, match="needs path"):
        evaluate(trained(), BATCHES, "pgd", 0.1, resume=True, **FAST)
    evaluate(trained(), BATCHES[:1], "pgd", 0.1, path=tmp_path / "r.json", **FAST)
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path):
    alone, first, second = alone_and_in_two(tmp_path, "test_resumed", "BATCHES, [ATTACK], [0.1]")
    assert alone == first == second and len(alone["attacks"][0]["stages"]) == 2
