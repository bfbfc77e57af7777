"""What is shipped: a wheel and a source distribution that install outside the checkout and hold every file;
the release check."""
import os, re, subprocess, sys, tarfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _settings():
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def _run(*command, cwd, **env):
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, **env})


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    "Both distributions: the source from a copy of the tracked files, the wheel from the source."
    pytest.importorskip("build")
    if not (ROOT/".git").exists(): pytest.skip("not a checkout")
    copy, out = tmp_path_factory.mktemp("copy")/"spot", tmp_path_factory.mktemp("dist")
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT).decode().split("\0")
    for name in filter(None, names):
        if not (ROOT/name).is_file(): continue
        (copy/name).parent.mkdir(parents=True, exist_ok=True)
        (copy/name).write_bytes((ROOT/name).read_bytes())
    p = _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy, cwd=copy)
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr[-2000:]
    return out


def test_both_distributions_are_whole(dist):
    p = _run(sys.executable, ROOT/".ci"/"check-dist", dist, cwd=dist)
    assert p.returncode == 0, p.stdout + p.stderr


def test_a_missing_file_would_be_seen(dist, tmp_path):
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    (tmp_path/wheel.name).write_bytes(wheel.read_bytes())
    with tarfile.open(sdist) as old, tarfile.open(tmp_path/sdist.name, "w:gz") as new:
        for m in old.getmembers():
            if not m.name.endswith("settings.ini"): new.addfile(m, old.extractfile(m) if m.isfile() else None)
    p = _run(sys.executable, ROOT/".ci"/"check-dist", tmp_path, cwd=tmp_path)
    assert p.returncode != 0 and "settings.ini" in p.stderr


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_installs_and_works_outside_the_checkout(dist, kind, tmp_path):
    "Into an environment of its own; the dependencies come from the one that runs the tests."
    (what,) = dist.glob(kind)
    env = tmp_path/"env"
    assert _run(sys.executable, "-m", "venv", "--without-pip", env, cwd=tmp_path).returncode == 0
    site = next((env/"lib").glob("python*/site-packages"))
    target = [sys.executable, "-m", "pip", "--python", env/"bin"/"python", "install", "-q", "--no-deps",
              "--no-index", "--no-build-isolation"]
    theirs = next(p for p in sys.path if p.endswith("site-packages"))
    p = _run(*target, what, cwd=tmp_path) if kind == "*.whl" else None
    if p is None:  # building needs setuptools, which lies in the other environment
        (site/"z_deps.pth").write_text(theirs)
        p = _run(*target, what, cwd=tmp_path, PYTHONPATH=theirs)
    assert p.returncode == 0, p.stdout + p.stderr
    (site/"z_deps.pth").write_text(theirs)
    p = _run(env/"bin"/"python", ROOT/".ci"/"smoke.py", "--without-torch", cwd=tmp_path)
    assert p.returncode == 0 and "works on Python" in p.stdout, p.stdout + p.stderr


def test_one_python_range_everywhere():
    cfg = _settings()
    workflow = (ROOT/".github"/"workflows"/"install.yml").read_text()
    pythons = re.findall(r'"(3\.\d+)"', workflow)
    assert pythons == cfg["pythons"].split() and pythons[0] == cfg["min_python"]
    assert all(v in (ROOT/"Makefile").read_text() for v in pythons)
    assert f"version: {cfg['version']}\n" in (ROOT/"CITATION.cff").read_text()


def test_every_named_extra_exists():
    extras = {k.removesuffix("_requirements") for k in _settings() if k.endswith("_requirements")}
    texts = [p.read_text(encoding="utf-8")
             for p in (*(ROOT/"spot_nb").rglob("*.py"), *(ROOT/"nbs").rglob("*.ipynb"), ROOT/"README.md")]
    named = {e for t in texts for m in re.findall(r"spot_nb\[([a-z,]+)\]|'\.\[([a-z,]+)\]", t)
             for e in ",".join(m).split(",") if e}
    assert named and named <= extras, named - extras


@pytest.mark.parametrize("state, message",
                         [("dirty", "not committed"), ("no section", "no section"),
                          ("unreleased", "unreleased"), ("other", "names another")])
def test_a_release_is_refused(tmp_path, state, message):
    for name in (".ci/release", "settings.ini", "CITATION.cff", "CHANGELOG.md", "spot_nb/__init__.py"):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_bytes((ROOT/name).read_bytes())
    git = lambda *a: subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *a], cwd=tmp_path,
                                    check=True, capture_output=True)
    version = _settings()["version"]
    (tmp_path/"CHANGELOG.md").write_text(f"# Changelog\n\n## {version} (unreleased)\n"
                                         if state != "no section" else "# Changelog\n")
    if state == "other": (tmp_path/"CITATION.cff").write_text("version: 9.9.9\n")
    git("init", "-q"); git("add", "-A"); git("commit", "-qm", "x")
    if state == "dirty": (tmp_path/"settings.ini").write_text((tmp_path/"settings.ini").read_text() + "\n")
    p = _run("bash", ".ci/release", *(["--tag"] if state == "unreleased" else []), cwd=tmp_path)
    assert p.returncode == 1 and message in p.stderr, p.stdout + p.stderr


def test_the_names_at_the_top_exist_and_load_late():
    said = subprocess.run([sys.executable, "-c",
                           "import sys, spot_nb\nassert not {'torch', 'numpy', 'pandas'} & set(sys.modules)\n"
                           "for name in spot_nb.__all__: assert getattr(spot_nb, name).__name__ == name "
                           "and name in dir(spot_nb)\n"
                           "try: spot_nb.nonesuch\nexcept AttributeError as e: print(e)"],
                          capture_output=True, text=True)
    assert said.returncode == 0 and "nonesuch" in said.stdout, said.stderr
