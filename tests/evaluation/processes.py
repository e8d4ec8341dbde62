"""One evaluation in one process and in two, each started as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from patience import HANG

TESTS = Path(__file__).resolve().parents[1]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone"]

_JOB = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/evaluation"]
import torch
from {module} import *
from attacks_models import digits, noisy_net
import stocnoise
torch.manual_seed(0)
model = noisy_net()
stocnoise.calibrate(model, [digits()[0][:64]])
torch.distributed.init_process_group("gloo")
report = stocnoise.evaluate(model.eval(), {arguments}, **FAST)
report.save(f"{{sys.argv[2]}}/{{torch.distributed.get_rank()}}.json")
torch.distributed.destroy_process_group()
"""


def alone_and_in_two(folder: Path, module: str, arguments: str) -> list[dict[str, Any]]:
    """The reports of `evaluate(model, {arguments}, **FAST)`, with the names of a test file: alone, of rank 0 and 1.

    Without the seconds, which are nobody's.
    """
    script = folder / "job.py"
    script.write_text(_JOB.format(module=module, arguments=arguments))
    for processes in (1, 2):
        (folder / str(processes)).mkdir()
        command = [*LAUNCH, f"--nproc-per-node={processes}", str(script), str(TESTS), str(folder / str(processes))]
        subprocess.run(command, check=True, timeout=HANG, capture_output=True)
    return [_untimed(json.loads((folder / name).read_text())) for name in ("1/0.json", "2/0.json", "2/1.json")]


def _untimed(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _untimed(value) for key, value in found.items() if key != "seconds"}
    return [_untimed(each) for each in found] if isinstance(found, list) else found
