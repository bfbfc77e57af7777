"""Render the documentation site into _docs/: the notebooks as they stand, stored outputs included; nothing is
run.

    python .ci/docs.py [--out FOLDER]

`site_pages` turns notebooks into pages and makes the reference; Quarto renders where it is installed, else
smalldocs; `finish` puts in what smalldocs leaves out (formulas as MathML, canonical links). `site_check.py`
looks at the result."""
import argparse
import html
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import yaml

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root/".ci"))
import site_pages  # noqa: E402

MATH = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.S)
CDN = re.compile(r'\s*<(?:link|script)[^>]*cdn\.jsdelivr\.net/npm/katex[^>]*>(?:</script>)?')
WEB_FONT = re.compile(r"@import\s*url\(\s*['\"]?https?:[^)]*\)\s*;")
KATEX_CALL = re.compile(r'<script>[^<]*renderMathInElement[^<]*</script>')


def settings() -> dict:
    "The one place that names the repository and the site: settings.ini."
    parser = ConfigParser(delimiters=["="])
    parser.read(root/"settings.ini", encoding="utf-8")
    cfg = parser["DEFAULT"]
    return {"repo": cfg["git_url"], "site": cfg["doc_host"] + cfg["doc_baseurl"], "branch": cfg["branch"]}


def config(own: dict) -> dict:
    "_quarto.yml as the site's project file: paths from nbs/, addresses from settings.ini."
    text = (root/"_quarto.yml").read_text(encoding="utf-8").replace("nbs/", "").replace("REPO", own["repo"])
    cfg = yaml.safe_load(text)
    for section in cfg["website"]["sidebar"]["contents"]:
        if isinstance(section, dict) and "MODULES" in (pages := section["contents"]):
            at = pages.index("MODULES")
            pages[at:at + 1] = [f"reference/{name}.qmd" for name, _ in site_pages.modules(root)]
    cfg["website"] |= {"site-url": own["site"], "repo-url": own["repo"], "repo-subdir": "nbs",
                       "repo-branch": own["branch"]}
    return cfg


def mathml(page: str, where: str) -> str:
    "Formulas as MathML, which browsers draw by themselves."
    from latex2mathml.converter import convert
    def one(m):
        tex = html.unescape(m[2]).strip()
        try: return convert(tex, display="block" if m[1] == "display" else "inline")
        except Exception as e:
            raise SystemExit(f"error: {where}: formula {tex!r} cannot be shown ({e})") from None
    return KATEX_CALL.sub("", CDN.sub("", MATH.sub(one, page)))


def finish(out: Path, own: dict) -> None:
    "What the renderer leaves out, page by page."
    for path in out.rglob("*.html"):
        where = path.relative_to(out).as_posix()
        page = mathml(path.read_text(encoding="utf-8"), where)
        address = own["site"] + "/" + where.removesuffix("index.html")
        page = page.replace("</head>", f'<link rel="canonical" href="{address}">\n</head>', 1)
        page = site_pages.sharpen(page)
        path.write_text(page, encoding="utf-8")
    for path in out.rglob("*.css"):  # the theme's web fonts: the reader's own will do
        path.write_text(WEB_FONT.sub("", path.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--out", default=str(root/"_docs"),
                     help="folder of the finished site (default: %(default)s)")
    out, own = Path(ask.parse_args().out).resolve(), settings()
    site = root/"_site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir()
    site_pages.write(root, site, own)
    (site/"_quarto.yml").write_text(yaml.safe_dump(config(own), allow_unicode=True, sort_keys=False),
                                    encoding="utf-8")
    quarto = shutil.which("quarto")
    how = [quarto, "render", "--no-execute"] if quarto else [str(Path(sys.executable).parent/"smalldocs"),
                                                             "render", "--quiet"]
    subprocess.run(how, cwd=site, check=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(site/"_docs", out)
    finish(out, own)
    shutil.rmtree(site)
    print(f"{len(list(out.rglob('*.html')))} pages: open {out.name}/index.html")


if __name__ == "__main__": main()
