"""The model card: what the student was made of, how it was trained, what was measured and what to make of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from stocnoise.controls import stochastic_layers
from stocnoise.conversion.summary import summary
from stocnoise.description import apart
from stocnoise.hub.config import Config

if TYPE_CHECKING:
    from huggingface_hub import ModelCard


def card(
    student: nn.Module, config: Config, report: Mapping[str, Any] | None, dataset: str | None, license: str | None
) -> ModelCard:
    """The card of `student`; `report` is what `Report.to_dict` gives."""
    from huggingface_hub import ModelCard, ModelCardData

    name = f"{config.teacher or type(student).__name__}, ANIS² student"
    data = ModelCardData(
        library_name="stocnoise",
        license=license,
        tags=["stocnoise", "adversarial-robustness", "stochastic"],
        model_name=name if report and dataset else None,
        eval_results=list(_results(report, dataset)) if report and dataset else None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        "A stochastic network: every activation below adds Gaussian noise of variance γσ² to its input, σ a moving "
        "average of that input's standard deviation for each channel (ANIS²; Tan, Elovici, Binder, ICPR 2020). Its "
        "answers differ from call to call; `stocnoise.predict` averages several.",
        *_use(config),
        *_sites(student),
        *_training(config),
        *_measured(report, dataset),
    ]
    return ModelCard("\n\n".join(parts) + "\n")


def _use(config: Config) -> list[str]:
    model = "" if config.teacher else ", model"
    needs = "" if config.teacher else "  # model: of the class that was converted, its weights do not matter"
    pixels = f"mean {config.normalization['mean']}, std {config.normalization['std']}" if config.normalization else ""
    return [
        "```python\nimport stocnoise\n\n"
        f'student = stocnoise.hub.load("FOLDER OR REPOSITORY"{model}).eval(){needs}\n```',
        f"Images are pixels in [0, 1]; the model normalises them itself ({pixels})."
        if pixels
        else "The model does not normalise its input.",
    ]


def _sites(student: nn.Module) -> list[str]:
    rows = summary(student).rows
    alpha = {path: layer.alpha for path, layer in stochastic_layers(student)}
    header = ("layer", "kind", "activation", "channels", "γ", "α", "mean σ")
    lines = [
        (
            f"`{row.layer}`" if row.layer else "(root)",
            row.kind,
            row.activation,
            str(row.channels),
            f"{row.gamma:.3g}",
            f"{alpha[row.layer]:.3g}",
            f"{row.sigma:.3g}",
        )
        for row in rows
    ]
    _, sigma = apart(student)
    added = [] if sigma is None else [f"Its input gets Gaussian noise of standard deviation {sigma:g} too."]
    return [f"## Noise: {len(rows)} places", *added, _table(header, lines)]


def _training(config: Config) -> list[str]:
    teacher = f"Converted from {config.teacher}" if config.teacher else "Converted from a model of its author's own"
    classes = f" with {config.classes} classes" if config.classes else ""
    lines = [f"- {name}: {value}" for name, value in config.training.items()]
    return ["## Training", f"{teacher}{classes}.", "\n".join(lines) or "Nothing is said of how it was trained."]


def _measured(report: Mapping[str, Any] | None, dataset: str | None) -> list[str]:
    if report is None:
        return ["## Evaluation", "Not evaluated: nothing is known of how it withstands attacks."]
    clean, settings = report["clean"], report["settings"]
    lines = [
        (
            _attack(entry),
            "free" if entry["eps"] is None else f"{entry['eps']:.4g}",
            _percent(entry["asr"], entry["asr_interval"]),
            _percent(entry["robust_accuracy"], entry["robust_accuracy_interval"]),
            f"{entry['gradients_per_image']:.0f}",
        )
        for entry in report["attacks"]
    ]
    warnings = report["warnings"]
    return [
        "## Evaluation",
        f"On {settings['images']} images{f' of {dataset}' if dataset else ''}, {settings['draws']} draws each; in "
        f"brackets 95 % over images and draws. Clean accuracy {_percent(clean['accuracy'], clean['interval'])} % a "
        f"draw, {100 * clean['averaged_accuracy']:.1f} % averaged over draws. Gradients are means over "
        f"{settings['eot']} draws; ε is in the {settings['norm']} norm.",
        _table(("attack", "ε", "ASR %", "robust accuracy %", "gradients"), lines),
        "\n".join(["Signs of false robustness that the evaluation found:", "", *(f"- {text}" for text in warnings)])
        if warnings
        else "The evaluation has no warnings.",
    ]


def _results(report: Mapping[str, Any], dataset: str) -> Iterator[Any]:
    """What the Hub reads: clean accuracy, and robust accuracy under each attack at each ε."""
    from huggingface_hub import EvalResult

    def result(kind: str, name: str, value: float) -> EvalResult:
        return EvalResult(
            task_type="image-classification",
            dataset_type=dataset.lower().replace(" ", "-"),
            dataset_name=dataset,
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )

    yield result("accuracy", "clean accuracy", report["clean"]["accuracy"])
    for entry in report["attacks"]:
        if entry["eps"] is not None:
            name = f"robust accuracy, {_attack(entry)}, ε = {entry['eps']:.4g}"
            yield result("robust_accuracy", name, entry["robust_accuracy"])


def _attack(entry: Mapping[str, Any]) -> str:
    queries = entry.get("query_budget")
    return str(entry["attack"]) if queries is None else f"{entry['attack']} at {queries} queries"


def _percent(value: float | None, interval: Sequence[float | None]) -> str:
    if value is None:
        return "–"
    low, high = (100 * end if end is not None else float("nan") for end in interval)
    return f"{100 * value:.1f} [{low:.1f}, {high:.1f}]"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *lines])
