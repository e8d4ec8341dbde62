"""The work of a scale in units: each trains one network or takes one measurement, once, and leaves a file."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import torch

from examples.paper import images, recipes
from examples.paper.measure import MEASUREMENTS, Subject
from examples.paper.recipes import Recipe
from examples.paper.scale import Scale
from examples.paper.train import folder, take, train, trained
from stocnoise.storage import replacing


@dataclass(frozen=True)
class Unit:
    """A training (`measurement` None), or a measurement on a trained network."""

    seed: int
    recipe: Recipe
    measurement: str | None = None

    def path(self, scale: Scale, work: Path) -> Path:
        home = folder(work, scale, self.seed, self.recipe.name)
        return home / ("model.safetensors" if self.measurement is None else f"{self.measurement}.json")

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.recipe.title}: {self.measurement or 'training'}"


def stages(scale: Scale) -> list[list[Unit]]:
    """The teachers, then every other training, then every measurement; within a stage the order does not matter."""
    table = {name: recipe for name, recipe in recipes.defences(scale).items() if recipes.asked(scale, name)}
    line, students, helped = recipes.at_line(scale), recipes.students(scale), recipes.helped(scale)
    ablations = {recipe.name: recipe for recipe in recipes.ablations(scale).values()}
    rates = recipes.learning_rates(scale)
    training, measuring = [], []
    for seed in scale.seeds:
        first = seed == scale.seeds[0]
        chosen = {**table, **line, **students, **helped}
        tables = ("plain", "expectation", "boundary") if scale.studies.tables else ()
        wanted = [(recipe, kind) for recipe in table.values() for kind in tables]
        if first and scale.attacks.autoattack_images:
            wanted += [(recipe, "autoattack") for recipe in table.values()]
        attacked = [recipes.teacher(scale), *(recipe for recipe in chosen.values() if recipe.name != "none")]
        wanted += [(recipe, "strongest") for recipe in attacked]
        wanted += [(r, kind) for r in (table["anis"], *students.values()) for kind in ("averaged", "noise-off")]
        stochastic = [recipe for recipe in helped.values() if recipe.layer is not None]
        wanted += [(recipe, "averaged") for recipe in stochastic]
        noisy = [name for name, recipe in chosen.items() if recipe.layer is not None]
        if unknown := sorted(set(scale.studies.harder) - set(noisy)):
            raise ValueError(
                f"{scale.name}: studies.harder names no recipe of this scale: {', '.join(unknown)}; "
                f"those with noise are {', '.join(noisy)}"
            )
        if scale.studies.harder and not scale.attacks.harder:
            raise ValueError(f"{scale.name}: studies.harder needs attacks.harder, stages after the first of strongest")
        wanted += [(chosen[name], kind) for name in scale.studies.harder for kind in ("harder", "harder-averaged")]
        if scale.studies.mixtures:
            wanted += [(table[name], "mixed") for name in ("at", "anis")]
        if seed in scale.studies.gamma_seeds:
            chosen |= ablations
            wanted += [(recipe, "ablation") for recipe in ablations.values()]
        if first:
            chosen |= rates | recipes.long_runs(scale)
        wanted += [(r, "held-out") for r in chosen.values() if r.name in {"at", "anis", *students, *rates, *helped}]
        training += [Unit(seed, recipe) for recipe in chosen.values()]
        measuring += [Unit(seed, recipe, kind) for recipe, kind in wanted]
    return [[Unit(seed, recipes.teacher(scale)) for seed in scale.seeds], training, measuring]


def take_teacher(weights: Path, scale: Scale, data: Path, work: Path) -> None:
    """Make these weights the teacher of every seed that has none yet."""
    split = images.load(scale.data, data)
    for unit in stages(scale)[0]:
        if not unit.path(scale, work).exists():
            take(weights, scale, split, unit.recipe, unit.seed, work)


def keep_apart(scale: Scale, work: Path) -> None:
    """Write down what every unit of this folder depends on: units of other settings must not be taken for done.

    Raises:
        ValueError: the folder was begun with other settings.
    """
    path = work / scale.name / "settings.json"
    # Through JSON, so that tuples are lists as in the file.
    given = json.loads(json.dumps({key: dataclasses.asdict(scale)[key] for key in ("data", "training", "attacks")}))
    del given["data"]["workers"]
    given["model"] = {"network": scale.network, "width": scale.width}
    given["means"] = {"awp": scale.studies.awp, "guide": scale.studies.guide}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(given, indent=1))
        return
    before = json.loads(path.read_text())
    changed = [
        f"{part}.{key}"
        for part in given.keys() & before.keys()  # earlier versions wrote fewer
        for key in given[part].keys() & before[part].keys()
        if before[part][key] != given[part][key]
    ]
    if changed:
        raise ValueError(
            f"{path.parent} was begun with other {', '.join(sorted(changed))}: give another --work, or delete what "
            "depends on them there, and settings.json"
        )


def run(scale: Scale, data: Path, work: Path, jobs: int) -> list[str]:
    """Do what is not done yet, `jobs` units at once; returns what failed. Killed, it goes on at the next call."""
    failed = []
    for stage in stages(scale):
        missing = [unit for unit in stage if not unit.path(scale, work).exists()]
        for done, (unit, seconds, error) in enumerate(_finished(missing, scale, data, work, jobs), start=1):
            print(f"[{done}/{len(missing)}] {unit} ({seconds:.0f} s){'' if error is None else ' FAILED'}", flush=True)
            if error is not None:
                failed.append(f"{unit}\n{error}")
        if failed:
            break
    return failed


Outcome = tuple[Unit, float, str | None]


def _finished(units: list[Unit], scale: Scale, data: Path, work: Path, jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        for unit in units:
            yield _do(unit, scale, data, work, None)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_end_with_parent) as pool:
        for future in as_completed([pool.submit(_do, unit, scale, data, work, threads) for unit in units]):
            yield future.result()


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on beside those of the next call."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _do(unit: Unit, scale: Scale, data: Path, work: Path, threads: int | None) -> Outcome:
    start = time.perf_counter()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        split = images.load(scale.data, data)
        if unit.measurement is None:
            train(scale, split, unit.recipe, unit.seed, work)
        else:
            teacher = trained(scale, split, recipes.teacher(scale), unit.seed, work)
            model = trained(scale, split, unit.recipe, unit.seed, work)
            found = MEASUREMENTS[unit.measurement](Subject(scale, split, model, teacher, unit.seed))
            with replacing(unit.path(scale, work)) as temporary:
                temporary.write_text(json.dumps(found | {"seconds": round(time.perf_counter() - start, 1)}))
    except Exception:
        return unit, time.perf_counter() - start, traceback.format_exc()
    return unit, time.perf_counter() - start, None
