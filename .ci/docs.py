"""Render the documentation site into _docs/: the notebooks as they stand, stored outputs included; nothing is run.

Cells marked `#| hide` are left out and nbdev's directives are stripped. Quarto renders where it is installed, else smalldocs."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

root = Path(__file__).resolve().parents[1]
HIDDEN = re.compile(r"^#\|\s*(hide|default_exp)\b", re.M)
DIRECTIVE = re.compile(r"^#\|\s*(export\w*|exporti|eval|notest|slow|gpu|vllm)\b.*\n?", re.M)
TITLE = re.compile(r"\s*# (?P<title>.+?)\n+> (?P<about>(?:.+\n?)+)\s*(?P<rest>[\s\S]*)")


def page(path: Path) -> nbformat.NotebookNode:
    "The notebook as a page: title and summary as front matter, directives gone."
    nb = nbformat.read(path, as_version=4)
    nb.cells = [c for c in nb.cells if not (c.cell_type == "code" and HIDDEN.search(c.source))]
    for cell in nb.cells:
        if cell.cell_type == "code": cell.source = DIRECTIVE.sub("", cell.source)
    m = TITLE.match(nb.cells[0].source)
    if not m: raise SystemExit(f"error: {path.name} does not begin with '# Title' and '> summary'")
    head = yaml.safe_dump({"title": m["title"], "description": " ".join(m["about"].replace("\n> ", " ").split())}, allow_unicode=True)
    nb.cells[0].source = m["rest"]
    nb.cells.insert(0, nbformat.v4.new_raw_cell(f"---\n{head}---"))
    return nb


def main() -> None:
    site, out = root/"_site", root/"_docs"
    shutil.rmtree(site, ignore_errors=True)
    for path in sorted((root/"nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        target = site/path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(page(path), target)
    shutil.copy(root/"_quarto.yml", site)
    shutil.copy(root/"nbs"/"styles.css", site/"nbs")
    (site/"index.html").write_text('<!doctype html><meta charset="utf-8"><title>spot_nb</title><meta http-equiv="refresh" content="0; url=nbs/index.html"><a href="nbs/index.html">spot_nb</a>\n')
    quarto = shutil.which("quarto")
    subprocess.run([quarto, "render", "--no-execute"] if quarto else [Path(sys.executable).parent/"smalldocs", "render", "--quiet"], cwd=site, check=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(site/"_docs", out)
    shutil.copy(site/"index.html", out)
    shutil.rmtree(site)
    print(f"{len(list(out.rglob('*.html')))} pages: open {out.name}/index.html")


if __name__ == "__main__": main()
