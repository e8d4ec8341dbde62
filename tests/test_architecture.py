"""Imports run one way: no circles between files, and each layer uses only those below it."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]

# As in CONTRIBUTING.md, from the top; names of one line do not import one another, but for files of one folder.
LAYERS = [
    {"__init__"},
    {"cli"},
    {"doctor", "hub", "certification", "mixing"},
    {"training", "evaluation", "prediction"},
    {"attacks", "files"},
    {"portable"},
    {"description"},
    {"conversion"},
    {"controls"},
    {"noises"},
    {"layers"},
    {"recomputation", "functional", "distributed"},
    {"ways"},
    {"ops"},
    {"implementation"},
    {"kernels"},
    {"aten"},
    {"mixture"},
    {"predictors"},
    {"normals", "activations", "storage", "normalization", "tasks", "batches", "schema", "state_dicts"},
    {"input_noise", "threads", "architectures", "markup", "pieces", "quicker"},
    {"checks"},
    {"errors", "undo", "version"},
]


def modules() -> dict[str, Path]:
    paths = [*(ROOT / "stocnoise").rglob("*.py"), *(ROOT / "kernels").glob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}


def imports(name: str, path: Path, known: set[str], typed: bool = True) -> set[str]:
    """Modules of the project that a file imports, anywhere in it; those only a type checker sees if `typed`."""
    tree = ast.parse(path.read_text())
    hidden = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in hidden and not typed:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.ImportFrom):
            package = name.rsplit(".", node.level)[0]
            base = f"{package}.{node.module}" if node.module else package
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & known) - {name}


def test_no_file_imports_in_a_circle() -> None:
    files = modules()
    graph = {name: imports(name, path, set(files)) for name, path in files.items()}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(files)


def test_each_layer_uses_only_those_below_it() -> None:
    files = modules()
    level = {name: depth for depth, names in enumerate(LAYERS) for name in names}
    wrong = []
    for name, path in files.items():
        if not name.startswith("stocnoise."):
            continue
        own = name.split(".")[1]
        for other in imports(name, path, set(files), typed=False):
            theirs = other.split(".")[1] if other.startswith("stocnoise.") else "kernels"
            if theirs != own and level[theirs] <= level[own]:
                wrong.append(f"{name} imports {other}")
    assert not wrong, wrong


def test_every_file_has_its_place_in_the_list() -> None:
    listed = set().union(*LAYERS)
    assert {name.split(".")[1] for name in modules() if name.startswith("stocnoise.")} <= listed
