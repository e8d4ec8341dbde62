"""What every program at a scale is asked, and what it refuses."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from safetensors.torch import save_file

from examples.paper import asked, networks, scale
from examples.paper.train import folder


def asked_for(*words: str, seeds: list[int] | None = None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser()
    asked.arguments(parser, seeds)
    return parser, parser.parse_args(words)


def test_seeds_are_those_given_then_the_programs_then_the_scales():
    assert asked.chosen(*asked_for("digits")).seeds == scale.load("digits").seeds
    assert asked.chosen(*asked_for("digits", seeds=[0])).seeds == (0,)
    assert asked.chosen(*asked_for("digits", "--seeds", "4", "2", seeds=[0])).seeds == (4, 2)


def test_an_unknown_scale_ends_the_program_with_its_name(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        asked.chosen(*asked_for("digitz"))
    assert "digitz" in capsys.readouterr().err


def test_a_teacher_is_put_where_every_seed_looks_for_it_and_one_that_does_not_fit_is_refused(tmp_path: Path, capsys):
    weights, work = tmp_path / "given.safetensors", tmp_path / "work"
    chosen = scale.load("digits")
    save_file(networks.network(chosen.network, chosen.width, 1, 10).state_dict(), weights)
    parser, given = asked_for("digits", "--teacher", str(weights), "--work", str(work))
    asked.begin(parser, given, chosen)
    assert all((folder(work, chosen, seed, "teacher") / "model.safetensors").exists() for seed in chosen.seeds)
    save_file(networks.network(chosen.network, 2 * chosen.width, 1, 10).state_dict(), weights)
    given.work = tmp_path / "other"
    with pytest.raises(SystemExit):
        asked.begin(parser, given, chosen)
    assert f"{weights} does not fit" in capsys.readouterr().err
