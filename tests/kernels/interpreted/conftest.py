"""These tests need TRITON_INTERPRET=1 before Triton is imported: see `tests/kernels/test_interpreted.py`."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
