"""Settings of single sites: ordered rules, the first that matches counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import stocnoise
from tests.compat.models import Small, images


class FixedNoise(stocnoise.StochasticActivation):
    """A noise whose σ no batch moves."""

    adaptive = False


def _convert(*rules: object, **options: object) -> dict[str, stocnoise.StochasticActivation]:
    student = stocnoise.convert(Small(), images(), rules=rules, **options)
    return dict(stocnoise.stochastic_layers(student))


def _gammas(layers: dict[str, stocnoise.StochasticActivation]) -> dict[str, float]:
    return {name: round(layer.gamma.item(), 6) for name, layer in layers.items()}


def test_the_first_match_counts_and_the_rest_keeps_the_arguments() -> None:
    layers = _convert(("stem.*", {"gamma": 0.0}), ("*", {"gamma": 0.5, "alpha": 0.1}), gamma=0.2)
    assert _gammas(layers) == {"stem.2": 0.0, "act_0": 0.5, "act_1": 0.5, "gelu_0": 0.5}
    assert {name: layer.alpha for name, layer in layers.items()} == {
        "stem.2": 0.5,
        "act_0": 0.1,
        "act_1": 0.1,
        "gelu_0": 0.1,
    }


def test_sites_without_a_rule_keep_the_arguments() -> None:
    assert _gammas(_convert(("act", {"gamma": 0.3}), gamma=0.2)) == {
        "stem.2": 0.2,
        "act_0": 0.3,
        "act_1": 0.3,
        "gelu_0": 0.2,
    }


def test_one_of_several_calls_is_named_by_its_layer() -> None:
    assert _gammas(_convert(("act_1", {"gamma": 0.3})))["act_0"] == 0.01
    assert _gammas(_convert(("act_1", {"gamma": 0.3})))["act_1"] == 0.3


def test_a_rule_takes_a_type_or_a_predicate() -> None:
    layers = _convert((lambda name, module: name == "gelu", {"gamma": 0.1}), (nn.ReLU, {"gamma": 0.4}), gamma=0.2)
    assert _gammas(layers) == {"stem.2": 0.4, "act_0": 0.4, "act_1": 0.4, "gelu_0": 0.1}


def test_a_rule_chooses_the_noise() -> None:
    layers = _convert(("stem.2", {"layer": FixedNoise}))
    assert type(layers["stem.2"]) is FixedNoise
    assert type(layers["act_0"]) is stocnoise.StocReLUEMA
    assert type(layers["gelu_0"]) is stocnoise.StocGELUEMA


def test_a_file_keeps_what_the_rules_set(tmp_path: Path) -> None:
    student = stocnoise.convert(
        Small(),
        images(),
        rules=[("stem.*", {"layer": stocnoise.StocEMA, "alpha": 0.25}), ("gelu*", {"gamma": 0.3})],
    )
    stocnoise.save(student, tmp_path / "s.safetensors")
    loaded = stocnoise.load(tmp_path / "s.safetensors", Small())
    expected, found = (
        {name: (type(layer), layer.alpha, layer.gamma.item()) for name, layer in stocnoise.stochastic_layers(model)}
        for model in (student, loaded)
    )
    assert expected == found


def test_a_rule_without_a_site_is_an_error() -> None:
    with pytest.raises(stocnoise.ConversionError, match=r"rules\[1\] matches no site"):
        _convert(("stem.*", {"gamma": 0.0}), ("layr1.*", {"gamma": 0.5}))


def test_a_rule_that_others_hide_is_none() -> None:
    assert _gammas(_convert(("*", {"gamma": 0.0}), ("act", {"gamma": 0.5})))["act_0"] == 0.0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("act", r"rules\[0\] must be a pair"),
        (("act", 0.5), r"rules\[0\] must be a pair"),
        (("act", {"gama": 0.5}), r"rules\[0\] sets 'gama'"),
        (("act", {"layer": nn.ReLU}), r"rules\[0\]: layer must be"),
        ((3, {"gamma": 0.5}), r"rules\[0\] takes name globs"),
        ((None, {"gamma": 0.5}), r"rules\[0\] has no filter"),
    ],
)
def test_what_is_no_rule_is_said_to_be_none(rule: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        _convert(rule)


def test_a_bad_value_is_refused_before_anything_changes() -> None:
    model = Small()
    with pytest.raises(ValueError, match="gamma"):
        stocnoise.convert(model, images(), rules=[("act", {"gamma": -1.0})], inplace=True)
    assert type(model) is Small
