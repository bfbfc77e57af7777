"""Tries an installed spot_nb from an empty folder: commands, presets, data files, the inspect page. Run by
.ci/install-test."""
import importlib.metadata as metadata, json, os, subprocess, sys, tempfile
from importlib.resources import files
from pathlib import Path

TORCH = "--without-torch" not in sys.argv
PAIR = {"id": 1, "prompt": "1+1?", "rejected": "1 + 1 = 3", "chosen": "1 + 1 = 2", "answer": "2"}


def spot(*argv, status=0):
    "Run the command that was installed beside this Python, and return what it printed."
    command = Path(sys.executable).with_name("spot")
    p = subprocess.run([str(command), *argv], capture_output=True, text=True,
                       env={**os.environ, "PYTHONPATH": "", "SPOT_PROGRESS": "0"})
    assert p.returncode == status, f"spot {' '.join(argv)} ended with {p.returncode}:\n{p.stdout}{p.stderr}"
    return p.stdout


def main():
    os.chdir(tempfile.mkdtemp())
    import spot_nb
    where = Path(spot_nb.__file__).parent
    assert "site-packages" in where.parts, f"{where} is a checkout, not an installation"
    assert metadata.version("spot_nb") == spot_nb.__version__
    assert spot("--version").split()[-1] == spot_nb.__version__
    for command in ("demo", "run", "elicit", "rectify", "filter", "inspect", "train", "evaluate", "connect4",
                    "tables"):
        assert f"usage: spot {command}" in spot(command, "--help")
    presets = [p.name for p in (files("spot_nb")/"presets").iterdir()]
    assert "qwen3-8b-spot-bco.yaml" in presets, presets
    data = {p.name for p in (files("spot_nb")/"data").iterdir()}
    assert {"published.json", "general_prompts.jsonl", "inspect.js"} <= data, data
    Path("pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    spot("inspect", "--data", "pairs.jsonl", "--output", "page.html")
    page = Path("page.html").read_text()
    assert "<script>" in page and "spot-app" in page and "1 + 1" in page
    assert "SPoT" in spot("tables", "1")
    spot("connect4", "--n", "3", "--output", "c4.jsonl")
    spot("new", "task", "mine")
    if TORCH:
        import spot_nb.losses, spot_nb.train                                 # noqa: F401
        spot("filter", "--data", "pairs.jsonl", "--output", "kept.jsonl", status=0)
    print(f"spot_nb {spot_nb.__version__} works on Python {sys.version.split()[0]}"
          + ("" if TORCH else " (without torch)"))


main()
