"""The attacks and the evaluation on a GPU."""

import pytest
import torch
from attacks_models import accuracy, digits, trained

from stocnoise import APGD, CW, MIM, PGD, Boundary, RandomNoise, evaluate, predict

pytestmark = pytest.mark.gpu
X, Y = (t[:64] for t in digits()[2:])


@pytest.mark.parametrize(
    "attack",
    [PGD(eps=0.2, eot=4), MIM(eps=0.2, eot=4), APGD(eps=0.2, steps=20, eot=4), CW(steps=30, search_steps=4, eot=4)],
    ids=str,
)
def test_attacks_follow_the_input_to_the_gpu(attack):
    model, x, y = trained(gamma=0.1).cuda(), X.cuda(), Y.cuda()
    found = attack(model, x, y)
    assert found.device == x.device and accuracy(model, found, y, 8) < 0.6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_and_half_precision(dtype):
    model, x, y = trained(gamma=0.1).cuda(), X.cuda(), Y.cuda()
    with torch.autocast("cuda", dtype):
        assert accuracy(model, PGD(eps=0.2, eot=4)(model, x, y), y, 8) < 0.4
    half = model.to(dtype)
    assert accuracy(half, PGD(eps=0.2, eot=4)(half, x.to(dtype), y), y, 8) < 0.4


def test_random_start_and_noise_follow_the_seed():
    model, x, y = trained(gamma=0.1).cuda(), X.cuda(), Y.cuda()
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        runs.append(PGD(eps=0.1, steps=2)(model, x, y))
    torch.testing.assert_close(runs[0], runs[1])


def test_evaluate_and_predict():
    pytest.importorskip("foolbox")
    model = trained(adversarial=True, gamma=0.3).cuda()
    before = torch.cuda.get_rng_state()
    report = evaluate(
        model, [(X, Y)], ["pgd", Boundary(steps=100), RandomNoise()], 0.2, eot=4, steps=5, draws=8, progress=False
    )
    assert torch.equal(before, torch.cuda.get_rng_state())
    assert report["pgd", 0.2].asr.value > report["randomnoise", 0.2].asr.value
    assert predict(model, X.cuda()).vote.is_cuda
