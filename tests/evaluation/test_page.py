"""report.to_html: one file, nothing from outside, warnings first, everything escaped; read in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import HANG
from PIL import Image
from torch import Tensor, nn

import stocnoise
from stocnoise import PGD, evaluate
from stocnoise.evaluation import Budget, Strongest
from stocnoise.evaluation.curves import svg
from stocnoise.evaluation.pictures import data_address, triple
from stocnoise.evaluation.rates import Rate
from stocnoise.markup import html_table
from stocnoise.training.history import Epoch, History

VOID = {"meta", "input", "img", "line", "polygon", "polyline", "br"}


class Model(nn.Module):
    """Says whether the left half is brighter, with noise on its answer's input."""

    def forward(self, x: Tensor) -> Tensor:
        noisy = (x + 0.02 * torch.randn_like(x)).mean(1)
        gap = 40 * (noisy[:, :, :4].mean((1, 2)) - noisy[:, :, 4:].mean((1, 2)))
        return torch.stack([gap, -gap, gap * 0 - 9], 1)


torch.manual_seed(0)
X = torch.rand(20, 3, 8, 8)
Y = Model()(X).argmax(1)
SETTINGS = {"draws": 8, "steps": 3, "eot": 2, "progress": False, "checks": False}


def _report(**more: object) -> stocnoise.Report:
    attack = Strongest((Budget(2, 2, ("pgd",)), Budget(3, 2, ("apgd",))))
    data = [(X[:12], Y[:12]), (X[12:], Y[12:])]
    return evaluate(Model(), data, ["pgd", attack, "random"], [0.02, 0.05], **(SETTINGS | {"keep_examples": 5} | more))


@pytest.fixture(scope="module")
def report() -> stocnoise.Report:
    torch.manual_seed(0)
    return _report(name="<model> & co")


@pytest.fixture(scope="module")
def page(report: stocnoise.Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report.warnings.append("a <script>alert(1)</script> warning")
    path = tmp_path_factory.mktemp("page") / "new" / "report.html"
    report.to_html(path)
    return path


class Parsed(HTMLParser):
    """Tags with their attributes, and whether every one that opens closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def of(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in attributes.items())]


def test_the_page_is_whole_and_asks_for_nothing_from_outside(page):
    text = page.read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert parsed.open == [] and [path.name for path in page.parent.iterdir()] == ["report.html"]
    for _, attributes in parsed.tags:
        for name in ("src", "href", "action", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"https?://|@import|url\(|//cdn", text)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"link", "iframe", "object", "embed"})


def test_warnings_stand_first_and_everything_is_escaped(page):
    text = page.read_text(encoding="utf-8")
    assert text.index('class="warnings"') < text.index("<table") < text.index("<svg")
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text and "&lt;model&gt; &amp; co" in text


def test_every_figure_stage_and_example_is_there(report, page):
    parsed = Parsed(page.read_text(encoding="utf-8"))
    rows = [a for a in parsed.of("tr") if "data-attack" in a]
    assert len(rows) == len(report.entries) == 2 * 4
    assert len(parsed.of("polyline")) == 4 and len(parsed.of("polygon", **{"class": "band"})) == 4
    assert len(parsed.of("article")) == 5 * 2 * 4 and len(parsed.of("img")) == 3 * 5 * 2 * 4
    assert all(image["alt"] for image in parsed.of("img"))
    assert [box["value"] for box in parsed.of("input", **{"data-filter": "eps"})] == ["0.02", "0.05"]
    assert ("Converged" in page.read_text()) or ("Not converged" in page.read_text())


def test_examples_are_the_first_that_are_answered_rightly_and_the_same_for_every_attack():
    # Of the first batch, three answers are made wrong.
    wrong = Y.clone()
    wrong[:3] = 2
    torch.manual_seed(0)
    data = [(X[:5], wrong[:5]), (X[5:], wrong[5:])]
    report = evaluate(Model(), data, [PGD(steps=2), "random"], 0.05, **(SETTINGS | {"keep_examples": 4}))
    assert len(report.examples) == 4 * 3
    assert [example.number for example in report.examples[:4]] == [3, 4, 5, 6]
    for example in report.examples:
        assert torch.equal(example.clean, X[example.number]) and example.target == str(int(Y[example.number]))
        assert (example.attacked - example.clean).abs().max() <= 0.05 + 1e-6
        assert sum(example.before.values()) == pytest.approx(1) == sum(example.after.values())
        assert example.before[example.target] > 0.5


def test_an_example_of_the_worst_case_is_that_of_the_attack_that_did_best_on_it(report):
    names = ["pgd", "strongest", "random"]
    shown = {(each.attack, each.eps, each.number): each for each in report.examples}
    best_of: set[str] = set()
    for each in report.examples:
        if each.attack == "worst case":
            rivals = {name: report[name, each.eps].score.correct[each.number] for name in names if name != "strongest"}
            same = [name for name in names if torch.equal(shown[name, each.eps, each.number].attacked, each.attacked)]
            best_of.update(same)
            (best, *_) = same
            if best != "strongest":  # whose score in the report is of the other draws
                assert rivals[best][:4].sum() == min(right[:4].sum() for right in rivals.values())
            assert each.after == shown[best, each.eps, each.number].after
    assert len(best_of) > 1, "one attack alone tells nothing of the choice"


def test_one_attack_alone_has_no_worst_case():
    torch.manual_seed(0)
    report = evaluate(Model(), [(X[:5], Y[:5])], "pgd", 0.05, **(SETTINGS | {"keep_examples": 2}))
    assert [each.attack for each in report.examples] == ["pgd", "pgd"]


def test_keeping_examples_changes_no_figure_and_none_are_kept_unasked():
    first, second = _report(), _report(keep_examples=0)
    assert second.examples == [] and len(first.examples) == 5 * 4 * 2
    assert [(e.asr, e.median_l2) for e in first.entries] == [(e.asr, e.median_l2) for e in second.entries]
    with pytest.raises(ValueError, match="keep_examples"):
        _report(keep_examples=-1)


def test_what_is_no_picture_shows_its_answers_alone(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2))
    x = torch.rand(6, 3)
    y = (torch.rand(6, 2) > 0.5).long()
    report = evaluate(model, [(x, y)], "pgd", 0.1, task="multilabel", **(SETTINGS | {"keep_examples": 3}))
    report.to_html(tmp_path / "r.html")
    parsed = Parsed((tmp_path / "r.html").read_text())
    assert parsed.of("img") == [] and len(parsed.of("article")) == len(report.examples)
    assert parsed.open == []


def _decoded(address: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def test_a_difference_is_magnified_around_grey():
    clean = torch.full((1, 4, 4), 0.5)
    attacked = clean.clone()
    attacked[0, 0, 0], attacked[0, 3, 3] = 0.55, 0.45
    *addresses, factor = triple(clean, attacked)
    assert factor == pytest.approx(10, rel=1e-3)
    pixels = _decoded(addresses[2])
    assert pixels.shape == (4, 4)
    assert pixels[0, 0] == 255 and pixels[3, 3] <= 1 and pixels[1, 1] in (127, 128)
    colours = torch.rand(3, 5, 7)
    rows = torch.from_numpy(_decoded(data_address(colours))).movedim(2, 0)
    assert torch.equal(rows, (colours * 255).round().to(torch.uint8))


def test_curves_lie_where_they_should():
    points = [(0.1, Rate(0.0, 0.0, 0.5)), (0.3, Rate(1.0, 0.5, 1.0))]
    drawn = svg(
        [("a", points), ("one", [(0.2, Rate(0.5, 0.4, 0.6))]), ("none", [(0.1, Rate(*[float("nan")] * 3))])], "L2"
    )
    (line,) = re.findall(r'<polyline[^>]*points="([^"]*)"', drawn)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line.split())
    assert x0 < x1 and y1 < y0, "rising to the right is down to up in SVG"
    assert drawn.count("<circle") == 3 and "none" not in drawn
    assert svg([("a", [])], "L2") == ""


def test_history_and_summary_are_tables_in_a_notebook():
    history = History([Epoch(1, 0.5, 0.25, None, None, 0.125, 0.01, {"<a>": 0.5}, 0.1, 3.0)])
    shown = history._repr_html_()
    assert Parsed(shown).open == [] and "25.0" in shown and "12.5" in shown and "–" in shown
    student = stocnoise.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3))
    summary = stocnoise.summary(student)._repr_html_()
    assert Parsed(summary).open == [] and summary.count("<tr>") == 1 + 1 and "relu" in summary.lower()
    assert "&lt;b&gt;" in html_table(["x"], [["<b>"]])


PROBE = """
<script>{
const out={wide:document.documentElement.scrollWidth-innerWidth,before:document.getElementById('count').textContent};
const boxes=[...document.querySelectorAll('input')];
boxes[0].focus();out.focus=document.activeElement===boxes[0];
out.outline=getComputedStyle(boxes[0]).outlineStyle;
boxes[0].click();out.after=document.getElementById('count').textContent;
out.curve=document.querySelector('g[data-attack=pgd]').style.display;
out.rows=[...document.querySelectorAll('tr[data-attack]')].filter(r=>!r.hidden).length;
boxes.find(b=>b.dataset.filter==='eps').click();out.end=document.getElementById('count').textContent;
out.broken=[...document.images].filter(i=>!i.naturalWidth).length;
out.ground=getComputedStyle(document.body).backgroundColor;
document.body.innerHTML='<pre>'+JSON.stringify(out)+'</pre>';
}</script>
"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (500, True)])
def test_a_browser_filters_it_and_a_phone_has_room_for_it(page, tmp_path, width, dark):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={width},900"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=5000", "--dump-dom", probed.as_uri()],
        check=True,
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    found = re.search(r"<pre>(.*?)</pre>", done.stdout)
    assert found is not None, done.stdout[:500]
    said = json.loads(found[1])
    assert said["wide"] <= 0, "the page scrolls sideways"
    assert said["before"] == "40 shown" and said["after"] == "30 shown" and said["end"] == "15 shown"
    assert said["focus"] and said["curve"] == "none" and said["rows"] == 6 and said["broken"] == 0
    assert (said["ground"] == "rgb(255, 255, 255)") == (not dark)
