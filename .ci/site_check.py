"""Look at the built site as a reader's browser does, and name what is wrong.

    python .ci/site_check.py [FOLDER] [--no-browser] [--shots FOLDER]

On every page: links and anchors lead somewhere, nothing is asked of another host, images have words. In
Chromium, at 1400 and 390 px, light and dark: no error in the console, nothing wider than its box, text has a
contrast of at least 4.5 to 1."""
import argparse
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
         "--disable-component-update"]
VIEWS = [(1400, "light"), (1400, "dark"), (390, "light"), (390, "dark")]


class Page(HTMLParser):
    "The ids, links, fetched addresses and wordless images of a page."
    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.fetched, self.wordless = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get("id"): self.ids.add(a["id"])
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag == "link" and a.get("rel") not in ("canonical", "alternate") and a.get("href"):
            self.fetched.append(a["href"])
        if tag in ("script", "img", "iframe", "source", "video") and a.get("src"):
            self.fetched.append(a["src"])
        if tag == "img" and not (a.get("alt") or "").strip(): self.wordless.append(a.get("src", "")[:60])
        if tag == "svg" and a.get("role") == "img" and not (a.get("aria-label") or "").strip():
            self.wordless.append("an svg")


def links(folder: Path) -> "list[str]":
    "Broken links and anchors, addresses of other hosts, images without words."
    pages = {p.relative_to(folder).as_posix(): Page(p.read_text(encoding="utf-8"))
             for p in folder.rglob("*.html")}
    found = []
    for name, page in pages.items():
        found += [f"{name}: an image has no alt text ({w})" for w in page.wordless]
        for address in page.fetched:
            if urlsplit(address).scheme in ("http", "https") or address.startswith("//"):
                found.append(f"{name}: asks another host for {address}")
            elif not address.startswith("data:"): found += missing(folder, name, address, pages)
        for address in page.links:
            if urlsplit(address).scheme or address.startswith(("//", "javascript:")): continue
            found += missing(folder, name, address, pages)
    for css in folder.rglob("*.css"):
        for address in re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)|@import\s+['\"](https?:[^'\"]+)",
                                  css.read_text(encoding="utf-8", errors="replace")):
            if any(address):
                found.append(f"{css.relative_to(folder)}: asks another host for "
                             f"{next(filter(None, address))}")
    return found


def missing(folder: Path, name: str, address: str, pages: dict) -> "list[str]":
    parts = urlsplit(address)
    target = (folder/name).parent/unquote(parts.path) if parts.path else folder/name
    if target.is_dir(): target = target/"index.html"
    if not target.exists(): return [f"{name}: broken link {address}"]
    where = target.resolve().relative_to(folder.resolve()).as_posix()
    if parts.fragment and where in pages and unquote(parts.fragment) not in pages[where].ids:
        return [f"{name}: no such anchor {address}"]
    return []


LOOK = r"""
() => {
  const out = {wide: [], faint: []}, shown = e => e.checkVisibility ? e.checkVisibility({opacityProperty: true, visibilityProperty: true}) : true;
  const name = e => (e.tagName.toLowerCase() + (e.className && e.className.split ? '.' + e.className.trim().split(/\s+/).join('.') : '')).slice(0, 70);
  if (document.documentElement.scrollWidth > innerWidth + 1) out.wide.push('the page (' + document.documentElement.scrollWidth + ' px)');
  const scrolls = e => { for (let p = e; p; p = p.parentElement) { const o = getComputedStyle(p).overflowX; if (o === 'auto' || o === 'scroll' || o === 'hidden') return true; } return false; };
  for (const e of document.querySelectorAll('main *')) {
    const r = e.getBoundingClientRect();
    if (r.width && r.right > innerWidth + 1 && shown(e) && !scrolls(e)) { out.wide.push(name(e)); if (out.wide.length > 4) break; }
  }
  const dot = document.createElement('canvas').getContext('2d', {willReadFrequently: true}), known = {};
  // any colour, oklab too, as the browser itself draws it
  const parse = c => { if (c in known) return known[c]; dot.clearRect(0, 0, 1, 1); dot.fillStyle = '#000'; dot.fillStyle = c; dot.fillRect(0, 0, 1, 1);
    const v = dot.getImageData(0, 0, 1, 1).data; return known[c] = [v[0], v[1], v[2], v[3] / 255]; };
  const lum = c => { const f = c.slice(0, 3).map(x => { x /= 255; return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; }); return .2126*f[0] + .7152*f[1] + .0722*f[2]; };
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const paper = e => { const stack = []; for (let p = e; p; p = p.parentElement) { const c = parse(getComputedStyle(p).backgroundColor); if (c && c[3] > 0) { stack.push(c); if (c[3] === 1) break; } }
    let base = [255, 255, 255, 1]; if (document.documentElement.style.colorScheme === 'dark') base = [0, 0, 0, 1]; return stack.reverse().reduce((b, c) => over(c, b), base); };
  const seen = new Set(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
    if (!text || !e || ['SCRIPT', 'STYLE', 'TITLE', 'NOSCRIPT'].includes(e.tagName) || !shown(e)) continue;
    const r = e.getBoundingClientRect(); if (!r.width || !r.height) continue;
    if (e.namespaceURI.endsWith('svg')) continue;   // drawn over shapes: its paper is not the page's
    const s = getComputedStyle(e), ink = parse(s.color); if (!ink || ink[3] === 0) continue;
    let dim = 1; for (let p = e; p; p = p.parentElement) dim *= Number(getComputedStyle(p).opacity);
    const bg = paper(e), fg = over([ink[0], ink[1], ink[2], ink[3] * dim], bg), a = lum(fg), b = lum(bg), ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const key = name(e) + s.color + bg; if (ratio >= 4.5 || seen.has(key)) continue; seen.add(key);
    out.faint.push(`${ratio.toFixed(1)}:1 ${name(e)} '${text.slice(0, 30)}'`);
  }
  return out;
}
"""


def browse(folder: Path, shots: "Path | None" = None, only: "list[str] | None" = None) -> "list[str]":
    "What Chromium sees: errors, overflow and faint text, at each width and in each mode."
    from playwright.sync_api import sync_playwright
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if binary is None:
        raise SystemExit("error: no Chromium on PATH (Debian: apt-get install chromium), or pass "
                         "--no-browser")
    found = []
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=binary, args=FLAGS)
        for width, mode in VIEWS:
            context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=mode)
            page, told = context.new_page(), []
            page.on("console", lambda m: told.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda e: told.append(str(e)))
            page.on("request",
                    lambda r: told.append(f"asks {r.url}")
                    if not r.url.startswith(("file:", "data:", "blob:")) else None)
            for path in sorted(folder.rglob("*.html")):
                name = path.relative_to(folder).as_posix()
                if only and name not in only: continue
                page.goto(path.as_uri())
                seen = page.evaluate(LOOK)
                where = f"{name} at {width} px, {mode}"
                found += [f"{where}: console: {t[:120]}" for t in told]
                found += [f"{where}: wider than its box: {w}" for w in seen["wide"]]
                found += [f"{where}: faint text {f}" for f in seen["faint"]]
                told.clear()
                if shots:
                    shots.mkdir(parents=True, exist_ok=True)
                    page.screenshot(path=str(shots/f"{name.replace('/', '_')}-{width}-{mode}.png"),
                                    full_page=False)
            context.close()
        chromium.close()
    return found


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("folder", nargs="?", default="_docs")
    ask.add_argument("--no-browser", action="store_true")
    ask.add_argument("--only", nargs="*")
    ask.add_argument("--shots", type=Path, help="keep a screenshot of every view here")
    args = ask.parse_args()
    folder = Path(args.folder).resolve()
    found = links(folder) + ([] if args.no_browser else browse(folder, args.shots, args.only))
    for line in found: print(line)
    print(f"{len(list(folder.rglob('*.html')))} pages, {len(found)} faults")
    sys.exit(bool(found))


if __name__ == "__main__": main()
