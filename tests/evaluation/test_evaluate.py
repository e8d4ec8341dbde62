"""evaluate: what it reports, what it accepts and refuses, what it leaves behind."""

import contextlib
import json
import math
import subprocess
import sys
import textwrap

import pytest
import torch
from attacks_models import SmallNet, accuracy, digits, trained
from patience import HANG
from processes import LAUNCH, TESTS
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stocnoise
from stocnoise import BIM, CW, PGD, evaluate
from stocnoise.attacks import BallAttack

X, Y = (t[:64] for t in digits()[2:])
BATCHES = [(X[:40], Y[:40]), (X[40:], Y[40:])]
FAST = {"eot": 2, "steps": 4, "draws": 8, "progress": False, "checks": False}


@pytest.fixture(scope="module")
def student_report():
    pytest.importorskip("foolbox")
    torch.manual_seed(0)
    return evaluate(
        trained(adversarial=True, gamma=0.3),
        BATCHES,
        ["pgd", CW(steps=30, search_steps=4, eot=4), "boundary", "random"],
        [0.2, 0.1],
        transfer_from=trained(),
        **(FAST | {"eot": 4, "steps": 8, "draws": 256}),  # the worst case, half of them unseen, to 0.01
        name="student",
    )


def test_report_has_every_attack_at_every_eps(student_report):
    keys = [(entry.attack, entry.eps) for entry in student_report.entries]
    ball = [(name, e) for name in ("pgd", "random", "transfer", "worst case") for e in (0.1, 0.2)]
    smallest = [(name, e) for name in ("cw", "boundary", "boundary-raw") for e in (None, 0.1, 0.2)]
    assert sorted(keys, key=str) == sorted(ball + smallest, key=str)
    for entry in student_report.entries:
        assert entry.asr.low <= entry.asr.value <= entry.asr.high
        assert entry.images == 64 and entry.seconds >= 0


def test_order_of_attacks_makes_sense(student_report):
    def asr(attack, eps=0.2):
        return student_report[attack, eps].asr.value

    assert asr("worst case") >= asr("pgd") - 0.03 > asr("transfer") > asr("random")
    assert asr("pgd", 0.1) < asr("pgd", 0.2)
    assert asr("cw", None) > 0.5 and asr("boundary", None) > 0.7
    assert asr("boundary-raw", None) < 0.4  # lucky draws: the paper's figure


def test_budget_is_counted(student_report):
    assert student_report["pgd", 0.1].gradients == 8 * 4
    assert student_report["cw", 0.1].gradients == 30 * 4 * 4
    assert student_report["cw", 0.1].queries > 0
    assert student_report["boundary", 0.1].gradients == 0 and student_report["boundary", 0.1].queries > 1000
    assert student_report["transfer", 0.1].gradients == 0


def test_dict_is_json_with_all_a_reader_needs(student_report, tmp_path):
    data = json.loads(json.dumps(student_report.to_dict()))
    assert {"model", "clean", "attacks", "warnings", "settings"} <= data.keys()
    assert all(0 <= row["asr"] <= 1 and len(row["asr_interval"]) == 2 for row in data["attacks"])
    assert isinstance(data["warnings"], list)
    settings = data["settings"]
    assert settings["seed"] == 0 and settings["draws"] == 256 and settings["stochastic"] is True
    assert settings["versions"]["torch"] == torch.__version__
    described = {row["attack"]: row["settings"] for row in data["attacks"]}
    assert described["pgd"].startswith("PGD(eot=4, ") and "loss=cross_entropy" in described["pgd"]
    assert described["transfer"].startswith("Transfer(") and "source=SmallNet" in described["transfer"]
    student_report.save(tmp_path / "a" / "report.json")
    assert json.loads((tmp_path / "a" / "report.json").read_text()) == data
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["report.json"]


def test_table_says_what_was_measured_and_why_boundary_stands_twice(student_report):
    text = str(student_report)
    for word in (
        "student",
        "clean accuracy",
        "boundary-raw",
        "worst case",
        "8 steps × 4 draws",
        "fresh draws",
        "lucky",
    ):
        assert word in text
    assert max(map(len, text.split("\n\n")[1].splitlines())) < 120


def test_a_deterministic_model_is_judged_once_and_exactly():
    model = trained(adversarial=True)
    attack = BIM(eps=0.15, steps=4)
    report = evaluate(model, BATCHES, [attack], 0.15, **FAST)
    right = model(X).argmax(1) == Y
    fooled = model(attack(model, X, Y)).argmax(1) != Y
    assert report["bim", 0.15].asr.value == pytest.approx((right & fooled).sum().item() / right.sum().item())
    assert report.clean.accuracy.value == pytest.approx(right.float().mean().item()) and report.clean.spread == 0
    assert report["bim", 0.15].robust_accuracy.value == pytest.approx(accuracy(model, attack(model, X, Y), Y))
    assert report.settings["draws"] == report.settings["eot"] == 1 and not report.settings["stochastic"]
    assert "boundary-raw" not in evaluate(model, BATCHES, ["boundary"], 0.1, **FAST).attacks


def test_clean_accuracy_has_the_spread_of_passes():
    model = trained(gamma=0.3)
    stocnoise.set_gamma(model, 1.5)
    report = evaluate(model, BATCHES, "random", 0.1, **(FAST | {"draws": 64}))
    torch.manual_seed(7)
    passes = torch.tensor([accuracy(model, X, Y) for _ in range(64)])
    assert report.clean.accuracy.value == pytest.approx(passes.mean().item(), abs=0.03)
    assert report.clean.spread == pytest.approx(passes.std().item(), rel=0.5)
    assert report.clean.vote > report.clean.accuracy.value


def test_same_seed_same_report_and_nothing_left_behind():
    model = trained(gamma=0.3).train()
    model.features[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = evaluate(model, BATCHES, ["pgd"], 0.1, **FAST)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    again, other = (evaluate(model, BATCHES, ["pgd"], 0.1, seed=seed, **FAST) for seed in (0, 1))

    def figures(report):
        return [(e.asr, e.median_l2) for e in report.entries], report.clean

    assert figures(first) == figures(again) != figures(other)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_an_attack_does_not_change_the_figures_of_another():
    model = trained(gamma=0.3)
    alone, together = (evaluate(model, BATCHES, names, 0.1, **FAST) for names in (["pgd"], ["random", "pgd"]))
    assert alone["pgd", 0.1].asr == together["pgd", 0.1].asr


@pytest.mark.parametrize(
    "data",
    [
        lambda: DataLoader(TensorDataset(X, Y), batch_size=40),
        lambda: (batch for batch in BATCHES),
        lambda: [{"image": x, "label": y} for x, y in BATCHES],
        lambda: [[*BATCHES[0], "more"], BATCHES[1], (X[:0], Y[:0])],
    ],
    ids=["loader", "generator", "dicts", "extra fields"],
)
def test_any_source_of_batches(data):
    report = evaluate(trained(), data(), BIM(steps=3), 0.1, **FAST)
    expected = evaluate(trained(), BATCHES, BIM(steps=3), 0.1, **FAST)
    assert report["bim", 0.1].asr == expected["bim", 0.1].asr
    assert report.settings["fingerprint"] == expected.settings["fingerprint"]


def test_max_images_reads_no_more_than_it_needs():
    def endless():
        while True:
            yield X, Y

    assert evaluate(trained(), endless(), "random", 0.1, max_images=100, **FAST).settings["images"] == 100


def test_mean_and_std_are_the_model_of_pixels():
    model = trained()
    given = evaluate(model, BATCHES, "bim", 0.1, mean=[0.2], std=[0.5], **FAST)
    wrapped = evaluate(stocnoise.normalized(model, [0.2], [0.5]), BATCHES, "bim", 0.1, **FAST)
    assert given["bim", 0.1].asr == wrapped["bim", 0.1].asr and given.clean == wrapped.clean


def test_runs_under_autocast():
    model = trained(adversarial=True, gamma=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        half = evaluate(model, BATCHES, "pgd", 0.2, **FAST)
    full = evaluate(model, BATCHES, "pgd", 0.2, **FAST)
    assert half["pgd", 0.2].asr.value == pytest.approx(full["pgd", 0.2].asr.value, abs=0.08)


@pytest.mark.parametrize("norm", ["inf", "l2"])
def test_minimum_norm_attacks_are_cut_to_the_budget(norm):
    whole = 1.0 if norm == "inf" else 50.0
    report = evaluate(trained(), BATCHES, CW(steps=30, search_steps=4), [0.3, whole], norm=norm, **FAST)
    small, large, free = (report["cw", e] for e in (0.3, whole, None))
    assert large.asr == free.asr and large.median_l2 == free.median_l2
    assert small.asr.value <= free.asr.value
    assert norm == "inf" or small.median_l2 <= 0.3 + 1e-5


def test_interrupted_between_batches_keeps_the_batches_done(tmp_path):
    def data():
        yield BATCHES[0]
        raise KeyboardInterrupt

    path = tmp_path / "report.json"
    report = evaluate(trained(), data(), ["bim", "random"], 0.1, path=path, **FAST)
    assert report.settings["images"] == 40 and any("interrupted" in w for w in report.warnings)
    assert json.loads(path.read_text())["settings"]["images"] == 40


def test_interrupted_within_a_batch_drops_that_batch_for_every_attack():
    class SecondTime(BallAttack):
        calls = 0

        def run(self, target, x, y, generator):
            SecondTime.calls += 1
            if SecondTime.calls == 2:
                raise KeyboardInterrupt
            return x

    model = trained().train()
    report = evaluate(model, BATCHES, ["bim", SecondTime()], 0.1, **FAST)
    assert {entry.images for entry in report.entries} == {40}
    assert report["bim", 0.1].asr == evaluate(model, BATCHES[:1], "bim", 0.1, **FAST)["bim", 0.1].asr
    assert model.training


def test_interrupted_before_anything_is_done_is_an_interrupt():
    def data():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        evaluate(trained(), data(), "bim", 0.1, **FAST)


def test_a_later_failure_leaves_the_file_of_what_was_done(tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(ValueError, match="10 classes"):
        evaluate(trained(), [BATCHES[0], (X, Y + 90)], "bim", 0.1, path=path, **FAST)
    assert json.loads(path.read_text())["settings"]["images"] == 40


def test_progress_names_the_attack(capsys):
    evaluate(trained(), BATCHES, ["bim", "random"], 0.1, **(FAST | {"progress": True}))
    shown = capsys.readouterr().err
    assert "4/4" in shown and "random" in shown
    evaluate(trained(), BATCHES, ["bim"], 0.1, **FAST)
    assert capsys.readouterr().err == ""


def test_attack_objects_keep_their_settings_and_are_told_apart():
    report = evaluate(trained(), BATCHES, [PGD(steps=1), PGD(steps=7), "pgd-margin"], [0.1], **FAST)
    assert report.attacks == ["pgd", "pgd #2", "pgd-margin", "worst case"]
    assert [report[name, 0.1].gradients for name in report.attacks[:3]] == [1, 7, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attacks": "pdg"}, "unknown attack 'pdg'"),
        ({"attacks": "transfer"}, "transfer_from"),
        ({"attacks": []}, "no attack"),
        ({"attacks": ["bim", "bim"]}, "twice"),
        ({"attacks": [7]}, "attack object"),
        ({"attacks": PGD(norm="l2")}, "another norm"),
        ({"eps": 0.0}, "eps"),
        ({"eps": []}, "eps"),
        ({"norm": "l1"}, "norm"),
        ({"draws": 0}, "draws"),
        ({"max_images": 0}, "max_images"),
        ({"mean": [0.5]}, "mean and std"),
        ({"data": []}, "no batch"),
        ({"data": [X]}, "images, labels"),
        ({"data": [(X * 255, Y)]}, "normalized"),
        ({"data": [(X, Y + 50)]}, "out of range"),
        ({"model": nn.Identity()}, "class logits"),
    ],
)
def test_bad_input_is_refused_with_advice(change, message):
    settings = {"model": trained(), "data": BATCHES, "attacks": "bim", "eps": 0.1} | FAST | change
    with pytest.raises(ValueError, match=message):
        evaluate(**settings)


def test_a_missing_extra_is_said_before_anything_is_computed(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)

    def data():
        raise AssertionError("started")
        yield

    with pytest.raises(ImportError, match=r"stocnoise\[foolbox\]"):
        evaluate(trained(), data(), ["bim", "boundary"], 0.1, **FAST)


def test_comparison_pairs_images_and_names_unequal_budgets():
    plain, student = trained(), trained(adversarial=True, gamma=0.1)
    first, second = (evaluate(m, BATCHES, ["pgd"], 0.15, name=n, **FAST) for m, n in ((plain, "a"), (student, "b")))
    comparison = first.compare(second)
    (row,) = comparison.to_dict()["rows"]
    ((gap, low, high),) = row["difference"]
    assert gap == pytest.approx(row["asr"][1] - row["asr"][0]) and low < gap < high < 0
    text = str(comparison)
    assert "budgets differ" in text and "a 4" in text and "b 8" in text
    elsewhere = evaluate(student, BATCHES[:1], ["pgd"], 0.15, name="c", **FAST)
    assert "no paired differences" in str(first.compare(elsewhere))
    with pytest.raises(ValueError, match="norm"):
        str(first.compare(evaluate(student, BATCHES[:1], ["pgd"], 0.15, norm="l2", **FAST)))


def test_plots_show_every_curve(tmp_path, student_report):
    pytest.importorskip("matplotlib")
    figure = student_report.plot(path=tmp_path / "one.png")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == student_report.attacks
    both = stocnoise.plot_asr([student_report, student_report], attack="pgd", path=tmp_path / "both.png")
    assert len(both.axes[0].containers) == 2
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("one.png", "both.png"))
    with pytest.raises(ValueError, match="no attack 'bim'"):
        stocnoise.plot_asr([student_report], attack="bim")


def test_no_clean_success_is_null_in_json():
    report = evaluate(trained(), [(X[:8], (Y[:8] + 1) % 10)], "bim", 0.01, **FAST)
    data = report.to_dict()["attacks"][0]
    assert math.isnan(report["bim", 0.01].asr.value) and data["asr"] is None
    assert json.dumps(report.to_dict(), allow_nan=False) and str(report)


@pytest.mark.slow
def test_several_processes_share_the_work_and_agree(tmp_path):
    pytest.importorskip("accelerate")
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            """
            import json, sys
            sys.path.insert(0, sys.argv[1])
            import torch
            from accelerate import Accelerator
            from attacks_models import SmallNet, digits
            import stocnoise
            accelerator = Accelerator(cpu=True)
            torch.manual_seed(0)
            model = accelerator.prepare(SmallNet())
            x, y = (t[:50] for t in digits()[2:])
            data = list(zip(x.split(10), y.split(10)))
            report = stocnoise.evaluate(model, data, stocnoise.BIM(steps=3), 0.1, progress=False, check_images=20,
                                        path=sys.argv[2] + "/shared.json")
            rank = accelerator.process_index
            report.save(f"{sys.argv[2]}/{rank}.json")
            try:
                stocnoise.evaluate(model, accelerator.prepare(torch.utils.data.DataLoader(data)), "bim", 0.1)
            except ValueError as error:
                open(f"{sys.argv[2]}/{rank}.refused", "w").write(str(error))
            accelerator.end_training()
            """
        )
    )
    command = [*LAUNCH, "--nproc-per-node=2", str(script), str(TESTS), str(tmp_path)]
    subprocess.run(command, check=True, timeout=HANG, capture_output=True)
    with contextlib.ExitStack() as stack:
        first, second, shared = (
            json.load(stack.enter_context((tmp_path / f"{name}.json").open())) for name in ("0", "1", "shared")
        )
    for report in (first, second, shared):
        report["attacks"][0].pop("seconds")
    assert first == second == shared
    assert first["settings"]["images"] == 50 and first["model"] == "SmallNet"
    torch.manual_seed(0)

    x, y = (t[:50] for t in digits()[2:])
    alone = evaluate(SmallNet(), [(x, y)], BIM(steps=3), 0.1, **FAST)
    assert first["attacks"][0]["asr"] == pytest.approx(alone["bim", 0.1].asr.value, abs=0.021)
    assert "plain loader" in (tmp_path / "0.refused").read_text()
