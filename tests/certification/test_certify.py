"""`certify`: sound on a classifier whose radius is known, its report, and going on after a kill."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn.functional import one_hot

import stocnoise
from stocnoise import APGD, Certificate, certify, with_input_noise
from stocnoise.attacks.losses import mean_probability
from tests.attacks_models import digits, trained
from tests.patience import HANG

QUIET: dict[str, Any] = {"progress": False}


def halfplane(sigma: float = 0.25) -> tuple[nn.Module, Tensor]:
    """Two classes with a line between them; its weights are 3 and −4 times an arbitrary scale."""
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, -4.0], [-3.0, 4.0]]))
        linear.bias.copy_(torch.tensor([1.0, -1.0]))
    return with_input_noise(linear, sigma), torch.tensor([0.6, -0.8])


def at_distance(distance: Tensor, direction: Tensor) -> Tensor:
    """Points this far from the line (towards class 0 where positive)."""
    return (distance - 0.2)[:, None] * direction + torch.linspace(-1, 1, len(distance))[:, None] * direction.flip(0) * (
        torch.tensor([1.0, -1.0])
    )


@pytest.mark.slow
def test_the_true_radius_of_a_halfplane_is_not_exceeded_beyond_alpha() -> None:
    """10⁴ trials on both sides of the line, at an α that could be seen to be exceeded."""
    model, direction = halfplane()
    distance = torch.linspace(-0.5, 0.5, 10_000).double()
    x, label = at_distance(distance, direction.double()).float(), (distance < 0).long()
    found = certify(model, [(x, label)], n0=20, n=100, alpha=0.05, **QUIET)
    answered = found.predicted >= 0
    wrong = answered & ((found.predicted != label) | (found.radii > distance.abs() + 1e-6))
    assert answered.double().mean() > 0.5
    assert int(wrong.sum()) <= binom.ppf(1 - 1e-7, len(x), 0.05)


def test_it_comes_close_to_the_true_radius() -> None:
    model, direction = halfplane()
    distance = torch.tensor([0.1, 0.25, 0.4])
    found = certify(
        model, [(at_distance(distance, direction), torch.zeros(3).long())], n=100_000, batch=50_000, **QUIET
    )
    assert found.predicted.tolist() == [0, 0, 0]
    assert (found.radii / distance).tolist() == pytest.approx([1.0] * 3, rel=0.06)
    assert (found.radii < distance).all()


def test_whether_a_radius_is_reached_takes_few_draws() -> None:
    model, direction = halfplane()
    distance = torch.tensor([0.02, 0.15, 0.45, 0.7])
    data = [(at_distance(distance, direction), torch.zeros(4).long())]
    found = certify(model, data, at=0.25, **QUIET)
    assert found.predicted.tolist() == [-1, -1, 0, 0] and found.radii.tolist() == [0, 0, 0.25, 0.25]
    assert found.draws.max() < 2000 and found.accuracy(0.25) == 0.5
    assert "stopped when it is known whether 0.25 is reached" in str(found)


@pytest.mark.slow
def test_a_radius_just_out_of_reach_is_rarely_claimed() -> None:
    model, direction = halfplane()
    distance = torch.full((1000,), 0.2499)
    data = [(at_distance(distance, direction), torch.zeros(1000).long())]
    found = certify(model, data, at=0.25, alpha=0.05, n0=10, n=500, **QUIET)
    assert int((found.radii > 0).sum()) <= binom.ppf(1 - 1e-7, 1000, 0.05)


def digits_data(count: int) -> list[tuple[Tensor, Tensor]]:
    _, _, x, y = digits()
    return [(x[i : i + 20], y[i : i + 20]) for i in range(0, count, 20)]


@pytest.mark.slow
def test_no_l2_attack_on_the_smoothed_classifier_succeeds_within_its_radius() -> None:
    torch.manual_seed(0)
    model = with_input_noise(trained(adversarial=True, gamma=0.1), 0.2)
    data = digits_data(60)
    found = certify(model, data, n=1000, alpha=0.01, **QUIET)
    x = torch.cat([x for x, _ in data])
    sure = (found.predicted >= 0).nonzero().flatten().tolist()
    assert len(sure) > 30
    attacked = []
    for i in sure:
        attack = APGD(norm="l2", eps=found.radii[i].item(), steps=10, eot=8, loss=mean_probability)
        attacked.append(attack(model, x[i : i + 1], found.predicted[i : i + 1]))
    moved = (torch.cat(attacked) - x[sure]).flatten(1).norm(dim=1)
    assert (moved <= found.radii[sure] + 1e-5).all() and moved.max() > 0.1
    after = certify(model, [(torch.cat(attacked), found.predicted[sure])], n=1000, alpha=0.01, seed=1, **QUIET)
    turned = (after.predicted >= 0) & ~after.right
    assert int(turned.sum()) <= binom.ppf(1 - 1e-7, len(sure), 0.02)


def test_a_student_that_is_random_inside_and_its_report(tmp_path: Path) -> None:
    student = stocnoise.convert(trained(), torch.zeros(2, 1, 8, 8), gamma=0.1, input_noise=0.15).eval()
    stocnoise.calibrate(student, [digits()[0][:256]])
    data = digits_data(40)
    modes = [module.training for module in student.modules()]
    state = torch.random.get_rng_state()
    found = certify(student, data, n0=20, n=200, name="digits <net>", **QUIET)
    assert [module.training for module in student.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (found.predicted.dtype, found.labels.dtype, found.radii.dtype) == (torch.int64, torch.int64, torch.float64)
    assert torch.equal(found.labels, torch.cat([y for _, y in data]))
    assert (found.radii[found.predicted < 0] == 0).all() and (found.radii[found.predicted >= 0] > 0).all()
    right = found.predicted == found.labels
    assert found.accuracy(0.1) == (right & (found.radii >= 0.1)).double().mean()
    assert found.average_radius == pytest.approx((found.radii * right).mean().item())
    assert found.curve()[0] == (0.0, found.accuracy(0)) and len(found.curve()) > 5
    assert all(found.accuracy(r) == pytest.approx(accuracy) for r, accuracy in found.curve())
    assert "σ = 0.15" in str(found) and "0.075" in str(found)
    found.to_html(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "digits &lt;net&gt;" in html and "<polyline" in html and "http" not in html
    assert "prefers-color-scheme:dark" in html and html.count("<tr>") == 1 + len(found.asked_radii())
    assert html.index("No warnings.") < html.index("<table>")
    found.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000
    found.save(tmp_path / "c.json")
    again = Certificate.load(tmp_path / "c.json")
    assert torch.equal(again.radii, found.radii) and str(again) == str(found)


def test_draws_belong_to_an_input_however_the_data_is_batched() -> None:
    model, direction = halfplane()
    x = at_distance(torch.linspace(-0.4, 0.4, 12), direction)
    y = torch.zeros(12).long()
    one = certify(model, [(x, y)], n=100, **QUIET)
    other = certify(model, [(x[:5], y[:5]), (x[5:], y[5:])], n=100, **QUIET)
    assert torch.equal(one.radii, other.radii)
    assert not torch.equal(one.radii, certify(model, [(x, y)], n=100, seed=1, **QUIET).radii)
    assert len(certify(model, [(x, y)], n=100, max_images=7, **QUIET).radii) == 7


def killed_after(batches: list[Any], count: int) -> Iterator[Any]:
    for index, batch in enumerate(batches):
        if index == count:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch


def split_halfplane() -> tuple[nn.Module, list[Any]]:
    model, direction = halfplane()
    x = at_distance(torch.linspace(-0.4, 0.4, 40), direction)
    return model, list(zip(x.split(8), torch.zeros(40).long().split(8), strict=True))


def test_it_goes_on_after_a_kill(tmp_path: Path) -> None:
    model, data = split_halfplane()
    whole = certify(model, data, n=100, path=tmp_path / "whole.json", **QUIET)
    code = (
        "from pathlib import Path; from tests.certification.test_certify import *; model, data = split_halfplane(); "
        f"certify(model, killed_after(data, 3), n=100, path=Path({str(tmp_path / 'k.json')!r}), progress=False)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert ended.returncode == -signal.SIGKILL
    assert len(Certificate.load(tmp_path / "k.json").rows) == 24
    found = certify(model, data, n=100, path=tmp_path / "k.json", resume=True, **QUIET)
    assert (tmp_path / "k.json").read_text() == (tmp_path / "whole.json").read_text()
    assert torch.equal(found.radii, whole.radii)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["k.json", "whole.json"]


def test_it_does_not_go_on_from_another_run(tmp_path: Path) -> None:
    model, data = split_halfplane()
    path = tmp_path / "c.json"
    certify(model, data, n=100, path=path, **QUIET)
    with pytest.raises(ValueError, match=r"its alpha is 0\.001, this one's 0\.01"):
        certify(model, data, n=100, alpha=0.01, path=path, resume=True, **QUIET)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.bias += 0.1
    with pytest.raises(ValueError, match="its weights is"):
        certify(other, data, n=100, path=path, resume=True, **QUIET)
    with pytest.raises(ValueError, match="input 0 is another"):
        certify(model, data[::-1], n=100, path=path, resume=True, **QUIET)
    about = json.loads(path.read_text())
    about["rows"][3][4] = -1
    path.write_text(json.dumps(about))
    with pytest.raises(stocnoise.FileFormatError, match=r"no certificate: rows\[3\]\[4\] must be a finite number"):
        Certificate.load(path)


@pytest.mark.slow
def test_several_processes_share_the_work_and_agree(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from pathlib import Path
            from accelerate import Accelerator
            from tests.certification.test_certify import split_halfplane
            import stocnoise
            accelerator = Accelerator(cpu=True)
            rank, folder = accelerator.process_index, Path(sys.argv[1])
            model, data = split_halfplane()
            given = {"n": 100, "progress": False}
            def until(count):
                for index, batch in enumerate(data):
                    if index == count:
                        raise InterruptedError
                    yield batch
            try:
                stocnoise.certify(model, until(3), path=folder / "shared.json", **given)
            except InterruptedError:
                pass
            accelerator.wait_for_everyone()
            left = sorted(place.name for place in folder.glob("shared.json*"))
            accelerator.wait_for_everyone()
            student = accelerator.prepare(model)
            found = stocnoise.certify(student, data, path=folder / "shared.json", resume=True, **given)
            found.save(folder / f"own{rank}.json")
            (folder / f"left{rank}").write_text(" ".join(left))
            accelerator.end_training()
            """
        )
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29518"]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [*command, str(script), str(tmp_path)], check=True, timeout=HANG, env={**os.environ, "PYTHONPATH": path}
    )
    model, data = split_halfplane()
    certify(model, data, n=100, path=tmp_path / "alone.json", **QUIET)
    alone = (tmp_path / "alone.json").read_text()
    assert all((tmp_path / f"{name}.json").read_text() == alone for name in ("shared", "own0", "own1"))
    assert (tmp_path / "left0").read_text() == "shared.json.0 shared.json.1"
    assert not list(tmp_path.glob("shared.json.*"))


@pytest.mark.parametrize("column", [False, True])
def test_a_question_of_yes_or_no(column: bool) -> None:
    class Yes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1, keepdim=True) if column else x.sum(1)

    x = torch.tensor([[0.5, 0.5], [-0.5, -0.5], [0.4, 0.4]])
    found = certify(with_input_noise(Yes(), 0.25), [(x, torch.tensor([1, 0, 0]))], n=1000, task="binary", **QUIET)
    assert found.predicted.tolist() == [1, 0, 1] and found.right.tolist() == [True, True, False]


class Overflowing(nn.Module):
    """Float16 logits, which overflow for a share of the noise."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        first = torch.stack([x.sum(1), -x.sum(1)], 1).half()
        return first * torch.tensor(self.scale, dtype=torch.float16)


def test_a_draw_that_overflows_counts_against_every_class() -> None:
    x = torch.full((2, 4), 0.25)
    calm = certify(with_input_noise(Overflowing(100.0).eval(), 0.25), [(x, torch.zeros(2).long())], n=200, **QUIET)
    assert calm.predicted.tolist() == [0, 0] and not calm.warnings
    model = with_input_noise(Overflowing(60_000.0).eval(), 0.25)
    found = certify(model, [(x, torch.zeros(2).long())], n=200, **QUIET)
    assert found.predicted.tolist() == [-1, -1] and found.radii.tolist() == [0, 0]
    assert "not finite (float16 overflows at 65,504)" in found.warnings[0] and "2 of these inputs" in found.warnings[0]


def test_under_autocast_it_certifies_the_student_as_it_then_runs() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(4, 2).eval()
    x = torch.rand(6, 4)
    data = [(x, linear(x).argmax(1))]
    model = with_input_noise(linear, 0.25)
    exact, half = (certify(model, data, n=1000, precision=precision, **QUIET) for precision in ("no", "bf16"))
    assert half.settings["precision"] == "bf16" and exact.settings["precision"] == "no"
    assert (half.radii - exact.radii).abs().max() < 0.05 and (half.radii != exact.radii).any()
    with torch.no_grad():
        linear.weight.mul_(1e6)  # what float16 cannot hold
    assert certify(model, data, n=1000, precision="bf16", **QUIET).average_radius > 0
    lost = certify(model, data, n=1000, precision="fp16", **QUIET)
    assert "not finite" in lost.warnings[0] and (lost.predicted == -1).any()


def refused(match: str, model: nn.Module, *, y: Tensor | None = None, **settings: Any) -> None:
    x = torch.rand(4, 3)
    data = [(x, torch.zeros(4).long() if y is None else y)]
    with pytest.raises(ValueError, match=match):
        certify(model, data, **{"n": 100, **QUIET, **settings})


def test_what_it_refuses() -> None:
    model = with_input_noise(nn.Linear(3, 3), 0.25)
    refused("has no noise on its input", nn.Linear(3, 3))
    refused("has no noise on its input", nn.Sequential(nn.Flatten(), model))
    refused("label 3 is out of range: the model has 3 classes", model, y=torch.tensor([0, 1, 2, 3]))
    refused("labels start at 0", model, y=torch.tensor([0, 1, 2, -1]))
    refused("one answer among classes", model, task=stocnoise.Task(lambda o, y: o.sum(1), lambda o, y: o.sum(1) > 0))
    refused("one answer among classes", model, task="multilabel")
    refused("n=9 draws certify no radius at alpha=0.001.*at least n=10", model, n=9)
    refused(r"n=100 draws cannot show the radius 0.5 = 2 sigma .*at least n=\d+, or more noise", model, at=0.5)
    refused("at must be a finite number greater than 0", model, at=0.0)
    refused("alpha must lie", model, alpha=0.0)
    refused("n0 must be a whole number", model, n0=0)
    refused("precision must be .*bf16", model, precision="half")
    refused("resume=True needs the path", model, resume=True)
    with stocnoise.fixed_noise(model, 0):
        refused("switched off or fixed", model)
    with stocnoise.deterministic(model):
        refused("switched off or fixed", model)
    model.sigma = 0.0
    refused("input_noise must be sigma > 0", model)
    with pytest.raises(ValueError, match="no batch"):
        certify(with_input_noise(nn.Linear(3, 3), 0.25), [], **QUIET)
    with pytest.raises(ValueError, match="must be finite"):
        certify(with_input_noise(nn.Linear(3, 3), 0.25), [(torch.full((1, 3), torch.nan), torch.tensor([0]))], **QUIET)


class Centred(nn.Module):
    """Looks across the batch in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class SharedDrop(nn.Module):
    """Randomness of its own, one for all rows of a batch or one for each."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(1 if self.shared else len(x), x.shape[1])


def test_rows_that_depend_on_one_another_are_refused() -> None:
    normed = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    refused(
        r"model.1, a BatchNorm1d, uses the statistics of the batch.*call student.eval\(\)",
        with_input_noise(normed, 0.2),
    )
    bare = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).eval()
    refused("uses the statistics of the batch", with_input_noise(bare, 0.2))
    refused("depends on the others of the batch", with_input_noise(Centred(), 0.2))
    refused("the same for all rows", with_input_noise(SharedDrop(True), 0.2))
    certify(with_input_noise(SharedDrop(False), 0.2), [(torch.rand(2, 3), torch.zeros(2).long())], n=100, **QUIET)
    certify(with_input_noise(normed.eval(), 0.2), [(torch.rand(2, 3), torch.zeros(2).long())], n=100, **QUIET)


def test_a_model_in_training_mode_is_certified_in_eval_mode_and_says_so() -> None:
    model = with_input_noise(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), 0.2)
    found = certify(model, [(torch.rand(2, 3), torch.zeros(2).long())], n=100, **QUIET)
    assert model.training and "certified in eval mode" in found.warnings[0]


def test_labels_given_as_probabilities() -> None:
    model, direction = halfplane()
    x = at_distance(torch.tensor([0.4, -0.4]), direction)
    found = certify(model, [(x, one_hot(torch.tensor([0, 1]), 2).float())], n=100, **QUIET)
    assert found.labels.tolist() == [0, 1] and found.right.all()
