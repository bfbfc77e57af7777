import importlib, os, subprocess, sys, time

import pytest
from spot_nb import cli
from spot_nb.records import SpotError


def test_every_command_has_help():
    for name, (target, about) in cli.COMMANDS.items():
        if target is None: continue
        module, _, function = target.partition(":")
        assert about and callable(getattr(importlib.import_module(module), function or "cli"))
    for name in cli.BENCHES: assert callable(importlib.import_module(f"spot_nb.bench.{name}").cli)


def test_user_errors_are_one_sentence_and_exit_2(monkeypatch, capsys):
    def fail(argv): raise SpotError("data.jsonl, line 3: not valid JSON: fix that line")
    monkeypatch.setattr("spot_nb.connect4.cli", fail)
    assert cli.main(["connect4"]) == 2
    err = capsys.readouterr().err
    assert err.strip() == "spot connect4: data.jsonl, line 3: not valid JSON: fix that line"
    monkeypatch.setenv("SPOT_DEBUG", "1")
    with pytest.raises(SpotError): cli.main(["connect4"])


def test_interruption_exits_130(monkeypatch, capsys):
    def stop(argv): raise KeyboardInterrupt
    monkeypatch.setattr("spot_nb.connect4.cli", stop)
    assert cli.main(["connect4"]) == 130 and "goes on from there" in capsys.readouterr().err


def test_unknown_commands_get_a_hint(capsys):
    assert cli.main(["ellicit"]) == 2
    assert "elicit" in capsys.readouterr().err


@pytest.mark.parametrize("code", ["import spot_nb", "from spot_nb.cli import main; main(['--help'])", "import spot_nb.records, spot_nb.verify, spot_nb.models, spot_nb.generate"])
def test_light_imports(code):
    probe = f"import sys\n{code}\nprint('HEAVY', [m for m in ('torch', 'transformers', 'vllm', 'pandas', 'matplotlib', 'datasets', 'fastcore', 'nbdev') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}, check=True).stdout
    assert out.strip().endswith("HEAVY []")


def test_help_is_fast():
    def once():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "spot_nb.cli", "--help"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start
    assert min(once() for _ in range(5)) < 0.6
