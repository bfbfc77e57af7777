"""The site builds from the notebooks, and what a reader's browser would trip over is named; see
.ci/site_check.py."""
import shutil, subprocess, sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT/".ci"))
pytestmark = pytest.mark.skipif(find_spec("smalldocs") is None, reason="no site builder here")


def run(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=900)


def test_the_site_is_whole():
    built = run(".ci/docs.py")
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    browser = find_spec("playwright") and any(map(shutil.which,
                                                  ("chromium", "chromium-browser", "google-chrome")))
    checked = run(".ci/site_check.py", "_docs", *([] if browser else ["--no-browser"]))
    assert checked.returncode == 0, checked.stdout[-4000:] + checked.stderr[-2000:]
    assert (ROOT/"_docs"/"index.html").stat().st_size < 500_000


@pytest.mark.parametrize("body, fault",
                         [('<a href="gone.html">x</a>', "gone"), ('<a href="#nowhere">x</a>', "nowhere"),
                          ('<img src="data:image/png;base64,AA">', "no alt text"),
                          ('<script src="https://cdn.example/x.js"></script>', "cdn.example")])
def test_the_check_sees(tmp_path, body, fault):
    import site_check
    (tmp_path/"index.html").write_text(f"<html><body><h1 id='top'>t</h1>{body}</body></html>")
    assert any(fault in line for line in site_check.links(tmp_path)), site_check.links(tmp_path)


def test_the_check_is_content_with_a_good_page(tmp_path):
    import site_check
    (tmp_path/"index.html").write_text("<html><body><h1 id='top'>t</h1><a href='#top'>x</a><img alt='a dot' "
                                       "src='data:image/png;base64,AA'></body></html>")
    assert site_check.links(tmp_path) == []
