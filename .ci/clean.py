"""After nbdev's export: strip what readers do not need from stored notebook outputs (progress bars and
warnings on stderr), and give `spot_nb/__init__.py` the names that people import most, each loaded when it
is asked for."""
import sys
from pathlib import Path

import nbformat

root = Path(__file__).resolve().parents[1]
for path in sorted((root/"nbs").rglob("*.ipynb")):
    nb, changed = nbformat.read(path, as_version=4), False
    for cell in nb.cells:
        kept = [o for o in cell.get("outputs", []) if not (o.output_type == "stream" and o.name == "stderr")]
        if kept != cell.get("outputs", []): cell.outputs, changed = kept, True
    if changed:
        with open(path, "w", encoding="utf-8") as f: f.write(nbformat.writes(nb, indent=1) + "\n")
        print(f"stripped stderr from {path.relative_to(root)}", file=sys.stderr)

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
