"""Shared fixtures: the optional folder of public benchmark questions, and a quiet progress bar."""
import os
from pathlib import Path

import pytest

os.environ.setdefault("SPOT_PROGRESS", "0")
# torch asks oneDNN whether the processor can pack bf16: both are told the same.
if os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2"):
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
SHARED = Path(os.environ.get("SPOT_SHARED") or Path(__file__).resolve().parents[2]/"shared")


# The slow files go first, so that two processes end together.
ORDER = ["test_train", "test_sharded", "test_task_loop", "test_pipeline", "test_plan", "test_overlap",
         "test_evaluate", "test_rectify"]


def pytest_collection_modifyitems(items) -> None:
    items.sort(key=lambda t: ORDER.index(t.path.stem) if t.path.stem in ORDER else len(ORDER))


def small_tokenizer(texts):
    """The embedded student's tokenizer with its template and special tokens, and a vocabulary of 400 learned
    from `texts`: the LM head of a tiny model is then tiny as well."""
    from spot_nb.models import load_tokenizer
    tok = load_tokenizer("embedded")
    turns = [tok.apply_chat_template([{"role": r, "content": "x"} for r in ("user", "assistant")],
                                     tokenize=False)]
    return tok.train_new_from_iterator([*turns * 50, *texts], vocab_size=400)


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
