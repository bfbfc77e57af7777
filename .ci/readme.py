"""README.md from nbs/index.ipynb: prose, code and stored text outputs; cells marked `#| hide` are left out,
and of those marked `#| echo: false` the code is."""
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).resolve().parents[1]
nb = nbformat.read(root/"nbs"/"index.ipynb", as_version=4)
# nbdev_clean strips it; the exporter needs it to mark code blocks
nb.metadata["language_info"] = {"name": "python"}
nb.cells = [c for c in nb.cells if not (c.cell_type == "code" and re.match(r"\s*#\|\s*hide\b", c.source))
            and not re.search(r"^(# |<!-- )site-only\b", c.source, re.M)]
for cell in nb.cells:
    if re.search(r"^#\| echo: false$", cell.source, re.M): cell.metadata["tags"] = ["no-input"]
    cell.source = re.sub(r"^(#\||<!-- readme-only).*\n?", "", cell.source, flags=re.M)
text, _ = MarkdownExporter(config=Config({"TagRemovePreprocessor": {"enabled": True,
                                                                    "remove_input_tags":
                                                                    ["no-input"]}})).from_notebook_node(nb)
# links between notebooks, as seen from the top folder
text = re.sub(r"\]\((?!https?:|#)([\w/]+\.(?:ipynb|qmd))", r"](nbs/\1", text)
text = re.sub(r"[ \t]+$", "", text, flags=re.M)
text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
(root/"README.md").write_text("<!-- Generated from nbs/index.ipynb by `make export`; edit that. -->\n\n"
                              + text, encoding="utf-8")
print(f"README.md: {len(text.splitlines())} lines", file=sys.stderr)
