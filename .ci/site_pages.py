"""From notebooks and code to the pages of the site.

A notebook becomes a page without its directives; exported source is folded under the signatures and
docstrings that a reader needs, imports are left out. The API reference is read from the code itself, never
imported."""
import ast
import html
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import yaml

HIDDEN = re.compile(r"^#\|\s*(hide|default_exp)\b", re.M)
EXPORTED = re.compile(r"^#\|\s*export\w*\b", re.M)
DIRECTIVE = re.compile(r"^#\|\s*(export\w*|eval|notest|slow|gpu|vllm)\b.*\n?", re.M)
README_ONLY = re.compile(r"^(#\||<!--)\s*readme-only\b", re.M)
SITE_ONLY = re.compile(r"^(# |<!-- )site-only.*\n?", re.M)
TITLE = re.compile(r"\s*# (?P<title>.+?)\n+> (?P<about>(?:.+\n?)+)\s*(?P<rest>[\s\S]*)")
INK = "#7a7a7a"


# -- signatures

def signature(node: "ast.AST", owner: str = "") -> str:
    "A definition's first line, as a caller needs it; broken over lines where it is long."
    if isinstance(node, ast.ClassDef):
        init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if init is None:
            return f"class {node.name}" + (f"({', '.join(map(ast.unparse, node.bases))})" if node.bases
                                           else "")
        return "class " + signature(init, node.name)
    if any(isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list):
        kind = ast.unparse(node.returns).strip("'") if node.returns else ""
        return f"{node.name}{': ' if kind else ''}{kind}    # a property"
    arguments = ast.unparse(node.args).split(", ") if node.args else []
    text = ast.unparse(node.args)
    if owner: text = re.sub(r"^self(, )?", "", text)
    back = f" -> {ast.unparse(node.returns)}" if node.returns and not owner else ""
    name = owner or node.name
    word = "" if owner else "async def " if isinstance(node, ast.AsyncFunctionDef) else "def "
    line = f"{word}{name}({text}){back}"
    line = re.sub(r"(?<=[:>] )'([^']+)'", r"\1", line)
    if len(line) <= 96 or len(arguments) < 2: return line
    return line.replace(f"({text})", "(\n    " + ",\n    ".join(_split(text)) + ")", 1)


def _split(text: str) -> "list[str]":
    "Split a parameter list at its own commas, not at those inside brackets or quotes."
    parts, depth, quote, start = [], 0, "", 0
    for i, c in enumerate(text):
        if quote: quote = "" if c == quote else quote
        elif c in "'\"": quote = c
        elif c in "([{": depth += 1
        elif c in ")]}": depth -= 1
        elif c == "," and not depth: parts.append(text[start:i].strip()); start = i + 1
    return [*parts, text[start:].strip()]


def docs_of(node: "ast.AST") -> str:
    return ast.get_docstring(node) or ""


def is_public(node: "ast.AST") -> bool:
    return isinstance(node,
                      (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_")


def only_imports(tree: ast.Module) -> bool:
    return all(isinstance(n, (ast.Import, ast.ImportFrom)) or isinstance(n, ast.Expr)
               and isinstance(n.value, ast.Constant) for n in tree.body)


# -- notebooks

def folded(cell, page: str) -> "list":
    "An exported cell as signatures and docstrings, its source folded under them."
    source = DIRECTIVE.sub("", cell.source)
    try: tree = ast.parse(source)
    except SyntaxError: tree = ast.Module([], [])
    if only_imports(tree) and tree.body: return []
    shown, names = [], []
    for node in tree.body:
        if not is_public(node): continue
        names.append(node.name)
        doc = docs_of(node)
        shown.append(f"::: {{.signature}}\n```python\n{signature(node)}\n```\n\n{doc}\n:::\n")
    private = [n.name
               for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))
               and n.name.startswith("_")]
    label = "Source" + (f": {', '.join(names or private)}" if names or private else "")
    cell.source = f"#| code-fold: true\n#| code-summary: {label!r}\n{source}"
    return ([nbformat.v4.new_markdown_cell("\n".join(shown))] if shown else []) + [cell]


def pictures(cell, page: str) -> None:
    "Every picture gets words: the cell's `fig-alt`. PNGs without them stop the build."
    alt = re.search(r"^#\|\s*fig-alt:\s*(.+)$", cell.source, re.M)
    for out in cell.get("outputs", []):
        data = out.get("data", {})
        kinds = [k for k in data if k.startswith("image/")]
        if not kinds: continue
        if not alt:
            raise SystemExit(f"error: {page}: a figure without `#| fig-alt:` (cell {cell.source[:60]!r})")
        if "image/svg+xml" in data:
            svg = data["image/svg+xml"]
            svg = svg[svg.index("<svg"):].replace(INK, "currentColor")
            words = html.escape(alt[1].strip().strip("'\""), quote=True)
            svg = re.sub(r'^<svg (?![^>]*role=)', f'<svg role="img" aria-label="{words}" ', svg)
            data.pop("image/png", None)
            data["image/svg+xml"] = svg


def colab(own: dict, name: str) -> str:
    "A line with the address that runs a notebook in Colab."
    address = own["repo"].replace("https://github.com/", "https://colab.research.google.com/github/")
    return f"::: {{.run-it}}\n[Run in Colab]({address}/blob/{own['branch']}/nbs/{name})\n:::\n\n"


SHOWS = ("Markdown", "HTML", "SVG", "print", "display")


def empty_handed(cell) -> bool:
    "Whether a cell ends by showing something, and nothing is stored."
    try: body = ast.parse(DIRECTIVE.sub("", cell.source)).body
    except SyntaxError: return False
    last = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    shows = isinstance(last, ast.Name) or isinstance(last, ast.Call) and getattr(last.func, "id", "") in SHOWS
    return shows and not cell.get("outputs")


def notebook_page(path: Path, name: str, own: dict) -> "nbformat.NotebookNode":
    "The notebook as a page: title and summary as front matter, directives gone, exported source folded."
    nb = nbformat.read(path, as_version=4)
    m = TITLE.match(nb.cells[0].source)
    if not m: raise SystemExit(f"error: {name} does not begin with '# Title' and '> summary'")
    cells = []
    for c in nb.cells:
        if README_ONLY.search(c.source): continue
        if c.cell_type != "code":
            c.source = SITE_ONLY.sub("", c.source)
            cells.append(c)
            continue
        if HIDDEN.search(c.source): continue
        if empty_handed(c) and not EXPORTED.search(c.source):
            raise SystemExit(f"error: {name}: run it again: an output is missing (cell {c.source[:60]!r})")
        pictures(c, name)
        if EXPORTED.search(c.source): cells += folded(c, name)
        else:
            c.source = SITE_ONLY.sub("", DIRECTIVE.sub("", c.source))
            cells.append(c)
    about = " ".join(m["about"].replace("\n> ", " ").split())
    head = yaml.safe_dump({"title": m["title"], "description": about}, allow_unicode=True)
    runs = name != "index.ipynb" and any(c.cell_type == "code" for c in nb.cells)
    cells[0].source = (colab(own, name) if runs else "") + m["rest"]
    nb.cells = [nbformat.v4.new_raw_cell(f"---\n{head}---"), *cells]
    return nb


# -- reference

def names_of(tree: ast.Module) -> "list[str]":
    "A module's `__all__`."
    return next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)
                 and getattr(n.targets[0], "id", "") == "__all__"), [])


def module_page(path: Path, own: dict) -> str:
    "One module's public names: signature, docstring, methods, and where the source is."
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    module = "spot_nb." + ".".join(path.relative_to(own["package"]).with_suffix("").parts)
    listed = names_of(tree)
    origin = re.search(r"File to edit: (?:\.\./)+nbs/(\S+?\.ipynb)", text)
    summary = docs_of(tree)
    out = ["---", yaml.safe_dump({"title": module, "description": summary}, allow_unicode=True).strip(),
           "---", ""]
    if origin: out += [f"Told in the notebook [{Path(origin[1]).stem}](../{origin[1]}).", ""]
    for node in tree.body:
        if not is_public(node) or node.name not in listed: continue
        file = path.relative_to(own["package"]).as_posix()
        link = f"{own['repo']}/blob/{own['branch']}/spot_nb/{file}#L{node.lineno}"
        out += [f"## {node.name} {{#{node.name}}}", "", "```python", signature(node), "```", "",
                docs_of(node), "", f"[source]({link})", ""]
        if isinstance(node, ast.ClassDef):
            fields = [n for c in parts_of(tree, node) for n in c.body if isinstance(n, ast.AnnAssign)]
            if fields and not any(isinstance(n, ast.FunctionDef) and n.name == "__init__" for n in node.body):
                out += ["| field | type | default | |", "|---|---|---|---|"]
                out += [field_row(n, text) for n in fields] + [""]
            for m in [*node.body, *patches_of(tree, node.name)]:
                if isinstance(m, (ast.FunctionDef, ast.AsyncFunctionDef)) and not m.name.startswith("_"):
                    out += [f"### {node.name}.{m.name} {{#{node.name}.{m.name}}}", "", "```python",
                            signature(m), "```", "", docs_of(m), ""]
    return "\n".join(out)


def patches_of(tree: ast.Module, name: str) -> "list[ast.FunctionDef]":
    "The methods that `@patch` adds to the class `name`, each in a cell of its own."
    return [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) and n.args.args
            and any("patch" in ast.unparse(d) for d in n.decorator_list)
            and n.args.args[0].annotation is not None
            and ast.unparse(n.args.args[0].annotation).strip("'\"") == name]


def parts_of(tree: ast.Module, node: ast.ClassDef) -> "list[ast.ClassDef]":
    "A class after the private classes of its module that it continues."
    private = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef) and n.name.startswith("_")}
    chain = [node]
    while chain[0].bases and (base := private.get(ast.unparse(chain[0].bases[0]))): chain.insert(0, base)
    return chain


def field_row(n: ast.AnnAssign, text: str) -> str:
    "A dataclass field as a table row; its words come from the comment beside it or from `help`."
    line = text.splitlines()[n.end_lineno - 1]
    words = line.split("  # ")[-1].strip() if "  # " in line else ""
    value = ast.unparse(n.value) if n.value is not None else ""
    if isinstance(n.value, ast.Call):
        strings = [a.value
                   for a in ast.walk(n.value) if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if not words and strings: words = max(strings, key=len)
        value = ast.unparse(n.value.args[0]) if n.value.args else ""
    kind = ast.unparse(n.annotation).strip("'\"")
    esc = lambda s: s.replace("|", "\\|").replace("\n", " ")
    return f"| `{n.target.id}` | `{esc(kind)}` | {'`' + esc(value) + '`' if value else ''} | {esc(words)} |"


def modules(root: Path) -> "list[tuple[str, Path]]":
    "The public modules, `(dotted name, file)`."
    package = root/"spot_nb"
    return [(".".join(p.relative_to(package).with_suffix("").parts), p) for p in sorted(package.rglob("*.py"))
            if not p.name.startswith("_")]


def reference(root: Path, site: Path, own: dict) -> None:
    "reference/: an index, and one page a module."
    folder = site/"reference"
    folder.mkdir(exist_ok=True)
    own = own | {"package": root/"spot_nb"}
    rows = []
    for name, path in modules(root):
        (folder/f"{name}.qmd").write_text(module_page(path, own), encoding="utf-8")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        rows.append((name, docs_of(tree),
                     [n.name for n in tree.body if is_public(n) and n.name in names_of(tree)]))
    head = yaml.safe_dump({"title": "API",
                           "description": "Every public name, with its signature, docstring and source."})
    lines = ["---", head.strip(), "---", "", "| module | what it does | names |", "|---|---|---|"]
    lines += [f"| [`spot_nb.{n}`]({n}.qmd) | {d} | {', '.join(f'[`{x}`]({n}.qmd#{x})' for x in names)} |"
              for n, d, names in rows]
    (folder/"index.qmd").write_text("\n".join(lines) + "\n", encoding="utf-8")


# -- commands

COMMANDS = ("demo", "run", "elicit", "rectify", "filter", "inspect", "train", "train --plan", "grpo",
            "evaluate", "connect4", "tables", "study", "new", "bench train", "bench memory", "bench diff",
            "bench oracle", "bench elicit", "bench eval")
OPTION = re.compile(r"^  (-\S.*?|[a-z_.]+)(?:\s{2,}(.*))?$")


def front(title: str, description: str) -> "list[str]":
    return ["---", yaml.safe_dump({"title": title, "description": description}, allow_unicode=True).strip(),
            "---", ""]


def about_of(text: str) -> str:
    "The sentences under `usage:` in a help text."
    m = re.search(r"usage:(?:.+\n)+\n((?:.+\n)+)", text)
    return " ".join(m[1].split()) if m else ""


def page_of(command: str) -> str:
    "The file name of a command's page: `train --plan` is `spot-train-plan`."
    return "spot-" + re.sub(r"\W+", "-", command)


def help_page(name: str, text: str) -> str:
    "A command's `--help` as a page: each group a section, each option a row, what follows a paragraph."
    def cell(t):
        t = " ".join(t.split()).replace("|", "\\|").replace("<", "&lt;").replace("{", "\\{")
        parts = t.split("`")                                  # typographers make one dash of two outside code
        parts[::2] = [re.sub(r"(?<![\w-])--[a-z][\w-]*", r"`\g<0>`", x) for x in parts[::2]]
        return "`".join(parts)
    out, rows, said = front(f"spot {name}", about_of(text)), [], []
    def close():
        if rows:
            out.extend(["| option | meaning |", "|---|---|"]
                       + [f"| `{a.replace('|', chr(92) + '|')}` | {cell(b)} |" for a, b in rows] + [""])
        if said: out.extend([cell(" ".join(said)), ""])
        rows.clear(); said.clear()
    lines = text.splitlines()
    for line, following in zip(lines, lines[1:] + [""]):
        begun = any(x.startswith("## ") for x in out)
        if re.match(r"^[A-Za-z].*:$", line) and following.startswith("  "):
            close()
            out.extend([f"## {line[:-1][0].upper()}{line[1:-1]}", ""])
        elif (m := OPTION.match(line)) and begun:
            rows.append([m[1], m[2] or ""])
        elif rows and re.match(r"^\s{4,}\S", line): rows[-1][1] += " " + line.strip()
        elif begun and re.match(r"\S", line):
            if rows: close()
            said.append(line.strip())
    close()
    return "\n".join(out) + "\n"


def commands(root: Path, site: Path) -> None:
    "reference/spot-*.qmd from the parsers themselves, two at a time."
    env = {**os.environ, "PYTHONPATH": str(root), "SPOT_PROGRESS": "0"}
    def ask(name):
        done = subprocess.run([sys.executable, "-m", "spot_nb.cli", *name.split(), "--help"],
                              capture_output=True, text=True, env=env, cwd=root)
        return name, done.stdout if done.returncode == 0 else ""
    with ThreadPoolExecutor(2) as pool: told = [(n, t) for n, t in pool.map(ask, COMMANDS) if t]
    if len(told) < len(COMMANDS): raise SystemExit(f"error: only {[n for n, _ in told]} answered --help")
    for name, text in told:
        (site/"reference"/f"{page_of(name)}.qmd").write_text(help_page(name, text), encoding="utf-8")
    lines = (front("Commands", "Every command and every option, from the parsers.")
             + ["| command | what it does |", "|---|---|"])
    lines += [f"| [`spot {n}`]({page_of(n)}.qmd) | {about_of(t)} |" for n, t in told]
    (site/"reference"/"commands.qmd").write_text("\n".join(lines) + "\n", encoding="utf-8")


def presets(root: Path, site: Path) -> None:
    "reference/presets.qmd: every settings file that comes with the package."
    out = front("Presets", "Settings files that come with the package: `spot train --config NAME`.")
    for path in sorted((root/"spot_nb"/"presets").glob("*.yaml")):
        out += [f"## {path.stem}", "", "```yaml", path.read_text(encoding="utf-8").strip(), "```", ""]
    (site/"reference"/"presets.qmd").write_text("\n".join(out), encoding="utf-8")


def write(root: Path, site: Path, own: dict) -> None:
    "All sources of the site, in `site`."
    for path in sorted((root/"nbs").rglob("*")):
        parts = path.relative_to(root/"nbs").parts
        if ".ipynb_checkpoints" in parts or path.is_dir() or "data" in parts:
            continue
        target = site/path.relative_to(root/"nbs")
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            nbformat.write(notebook_page(path, path.relative_to(root/"nbs").as_posix(), own), target)
        elif path.suffix in (".qmd", ".css", ".svg", ".png", ".js"): target.write_bytes(path.read_bytes())
    reference(root, site, own)
    commands(root, site)
    presets(root, site)


# -- after rendering

def sharpen(page: str) -> str:
    "Small things that every page shares: tables in a box that scrolls, the pair card out of Bootstrap's way."
    return re.sub(r"(<table\b(?![^>]*class=\"[^\"]*spot)[\s\S]*?</table>)",
                  r'<div class="table-box">\1</div>', page)
