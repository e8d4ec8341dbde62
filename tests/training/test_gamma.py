import pytest
import torch
import training_models as tiny

from stocnoise import GammaSchedule, stochastic_layers


def gammas(model: torch.nn.Module) -> set[float]:
    return {round(layer.gamma.item(), 6) for _, layer in stochastic_layers(model)}


@pytest.mark.parametrize("interval", [1, 2, 5])
def test_grows_by_k_every_r_epochs(interval: int) -> None:
    init, maximum, epochs = 0.01, 0.11, 10
    schedule = GammaSchedule(init, maximum, interval, epochs)
    model = tiny.student()
    schedule.apply(model)
    expected = init
    k = interval * (maximum - init) / epochs
    for epoch in range(1, epochs + 1):
        assert gammas(model) == {round(expected, 6)}
        if epoch % interval == 0:
            expected += k
        assert schedule.step(model) == pytest.approx(expected)
    assert gammas(model) == {0.11}


def test_stays_at_the_end_when_more_epochs_follow() -> None:
    schedule = GammaSchedule(0.01, 0.1, 1, epochs=2)
    model = tiny.student()
    for _ in range(4):
        schedule.step(model)
    assert gammas(model) == {0.1}


def test_may_shrink() -> None:
    schedule = GammaSchedule(init=0.4, max=0.0, epochs=2)
    model = tiny.student()
    assert [schedule.step(model) for _ in range(2)] == pytest.approx([0.2, 0.0])


def test_says_what_it_needs() -> None:
    model = tiny.student()
    schedule = GammaSchedule()
    with pytest.raises(ValueError, match="epochs=10"):
        schedule.step(model)
    assert schedule.epoch == 0
    with pytest.raises(ValueError, match="stochastic layer"):
        GammaSchedule(epochs=3).step(torch.nn.Linear(1, 1))
    for bad in ({"init": -1.0}, {"max": float("nan")}, {"interval": 0}, {"epochs": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            GammaSchedule(**bad)  # type: ignore[arg-type]


def test_continues_from_its_state() -> None:
    model = tiny.student()
    first, second = GammaSchedule(epochs=4), GammaSchedule(epochs=4)
    first.step(model)
    second.load_state_dict(first.state_dict())
    assert second.step(model) == first.step(model)
    with pytest.raises(ValueError, match="another schedule"):
        GammaSchedule(epochs=5).load_state_dict(first.state_dict())


def test_a_number_is_a_constant_gamma() -> None:
    model = tiny.student()
    history = tiny.finetune(model, gamma=0.2)
    assert [epoch.gamma for epoch in history] == pytest.approx([0.2, 0.2])
    assert gammas(model) == {0.2}
