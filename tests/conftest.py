"""Shared fixtures: the optional folder of public benchmark questions, and a quiet progress bar."""
import os
from pathlib import Path

import pytest

os.environ.setdefault("SPOT_PROGRESS", "0")
# torch asks oneDNN whether the processor can pack bf16: both are told the same.
if os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2"):
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
SHARED = Path(os.environ.get("SPOT_SHARED") or Path(__file__).resolve().parents[2]/"shared")


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    "Folder with public benchmark questions; tests that need it are skipped where it is absent."
    path = SHARED/"benchmarks"
    if not path.is_dir(): pytest.skip("no benchmark questions beside the project (set SPOT_SHARED)")
    return path


@pytest.fixture(scope="session")
def published() -> dict:
    "Every published figure of the paper, from the optional shared folder."
    import json
    path = SHARED/"paper"/"results.json"
    if not path.is_file(): pytest.skip("no published figures beside the project (set SPOT_SHARED)")
    return json.loads(path.read_text(encoding="utf-8"))
