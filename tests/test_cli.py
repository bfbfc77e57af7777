import importlib, os, re, subprocess, sys, time

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


@pytest.mark.parametrize("code",
                         ["import spot_nb", "from spot_nb.cli import main; main(['--help'])",
                          "import spot_nb.records, spot_nb.verify, spot_nb.models, spot_nb.generate"])
def test_light_imports(code):
    probe = (f"import sys\n{code}\nprint('HEAVY', [m for m in ('torch', 'transformers', 'vllm', 'pandas', "
             "'matplotlib', 'datasets', 'fastcore', 'nbdev') if m in sys.modules])")
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": ""}, check=True).stdout
    assert out.strip().endswith("HEAVY []")


def test_help_is_fast():
    def once():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "spot_nb.cli", "--help"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start
    assert min(once() for _ in range(5)) < 0.6


# ---- one vocabulary
COMMON = {"elicit": ("model", "data", "output", "task", "config", "subset"),
          "rectify": ("data", "output", "task", "config"),
          "filter": ("model", "data", "output", "task", "config"),
          "inspect": ("model", "data", "output", "config"),
          "evaluate": ("model", "data", "output", "task", "config"),
          "train": ("model", "data", "output", "config"),
          "run": ("model", "data", "output", "task", "config", "subset"),
          "demo": ("model", "data", "output", "config"), "tables": ("output", "config"),
          "connect4": ("output", "config")}

def _help(capsys, name):
    try: status = cli.main([name, "--help"])
    except SystemExit as e: status = e.code
    assert status == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMON)
def test_every_command_shows_the_common_words(name, capsys):
    text = _help(capsys, name)
    shown = set(re.findall(r"(?m)^  (?:-\w, )?--(\w+)", text))
    assert set(COMMON[name]) <= shown, set(COMMON[name]) - shown
    # understood, and said once
    assert not shown & {"model_name_or_path", "model_path", "data_path", "output_dir", "input"}


def test_every_option_is_explained():
    from spot_nb import elicit, evaluate, inspection, pairs, pipeline, rectify, tables
    for p in (*(m._parser() for m in (elicit, evaluate, inspection, pairs, rectify, tables)),
              pipeline._parser("spot run", "")):
        assert not [a.dest for a in p._actions if not (a.help or "").strip()], p.prog


@pytest.mark.parametrize("parser, words",
                         [("elicit", "--model m --data d --output o"),
                          ("elicit", "--model_name_or_path m --data_path d --output_dir o"),
                          ("elicit", "--model-name-or-path m --input d --output-dir o"),
                          ("elicit", "--model_path m --dataset_name d -o o"),
                          ("elicit", "--model=m --input_path=d --output_path=o")])
def test_other_names_mean_the_same(parser, words):
    from spot_nb import elicit
    a = elicit._parser().parse(words.split())
    assert (a.model, a.data_path, str(a.output_dir)) == ("m", "d", "o")


def test_train_understands_the_same_words(tmp_path):
    from spot_nb.train import parse_config
    for words in ("--model m --data d --output {0}/o",
                  "--model_name_or_path m --data-path d --output_dir {0}/o",
                  "--model-path=m --input=d -o {0}/o"):
        c = parse_config([*words.format(tmp_path).split(), "--use_cpu", "true", "--report_to", "none"])
        assert (c.model_name_or_path, c.data_path, c.output_dir) == ("m", "d", f"{tmp_path}/o")
    (tmp_path/"t.yaml").write_text(f"model: m\ndata: d\noutput: {tmp_path}/o\nuse_cpu: true\nreport_to: "
                                   "none\n")
    assert parse_config(["--config", str(tmp_path/"t.yaml"), "--data", "e"]).data_path == "e"


@pytest.mark.parametrize("argv, hint",
                         [(["elicit", "--modle", "m"], "--model"),
                          (["elicit", "--max-token", "3"], "--max_tokens"),
                          (["rectify", "--max_cost", "3"], "--max_cost_usd"),
                          (["filter", "--gama", "1"], "--gamma"), (["inspect", "--titel", "x"], "--title"),
                          (["evaluate", "--trails", "3"], "--trials"),
                          (["train", "--lerning_rate", "1"], "--learning_rate"),
                          (["run", "--n_trian", "3"], "--n_train"),
                          (["demo", "--methdos", "[]"], "--methods"), (["tables", "--our", "a=b"], "--ours"),
                          (["connect4", "--sead", "1"], "--seed"), (["new", "--lst"], "--list")])
def test_unknown_flags_get_a_sentence_and_the_nearest(argv, hint, capsys):
    assert cli.main(argv) == 2
    err = capsys.readouterr().err.strip()
    assert err.count("\n") == 0 and f"did you mean {hint}?" in err and "usage" not in err


@pytest.mark.parametrize("argv, words",
                         [(["elicit"], "--model is missing"),
                          (["elicit", "--model", "m", "--data", "d", "--output", "o", "--max_tokens", "many"],
                           "whole number, not 'many'"),
                          (["rectify", "--data", "d", "--oracle", "gemni"], "did you mean gemini?"),
                          (["filter"], "--data is missing"), (["filter", "--data"], "needs a value"),
                          (["inspect"], "--data is missing"), (["evaluate"], "--model is missing"),
                          (["train", "--learning_rate", "fast"], "--learning_rate must be a number"),
                          (["connect4", "--n", "3.5"], "whole number"),
                          (["run", "--n_train", "x"], "whole number")])
def test_bad_values_get_a_sentence(argv, words, capsys):
    assert cli.main(argv) == 2
    err = capsys.readouterr().err.strip()
    assert words in err and err.count("\n") == 0


def test_config_is_always_yaml(tmp_path, capsys):
    from spot_nb import elicit
    (tmp_path/"c.yaml").write_text("model_path: m\ndata: d\noutput-dir: o\nmax_tokens: 5\ndisable_thinking: "
                                   "true\nchat_template: null\n")
    a = elicit._parser().parse(["--config", str(tmp_path/"c.yaml"), "--max_tokens", "6"])
    assert (a.model, a.data_path, a.max_tokens, a.disable_thinking, a.chat_template) == ("m", "d", 6, True,
                                                                                         None)
    for text, words in (("max_toks: 5\n", "did you mean max_tokens"), ("max_tokens: [1, 2]\n", "one value"),
                        ("resume: maybe\n", "true or false"), ("- a\n", "name: value"),
                        (": :\n", "not valid YAML")):
        (tmp_path/"c.yaml").write_text(text)
        with pytest.raises(SpotError, match=words):
            elicit._parser().parse(["--config", str(tmp_path/"c.yaml")])
    with pytest.raises(SpotError, match="--subset en"): elicit._parser().parse(["--config", "en"])


def test_the_oracles_model_has_its_own_name(tmp_path, capsys):
    from spot_nb import rectify
    assert rectify._parsed(["--oracle_model", "a"]).model == "a" and not capsys.readouterr().err
    assert rectify._parsed(["--model", "a"]).model == "a" and "--oracle_model" in capsys.readouterr().err
    with pytest.raises(SpotError, match="both name"): rectify._parsed(["--model", "a", "--oracle_model", "b"])


def test_train_help_is_short_fast_and_grouped():
    probe = ("import sys\nfrom spot_nb.cli import main\nmain(['train', '--help'])\nprint('HEAVY', [m for m "
             "in ('torch', 'transformers') if m in sys.modules])")
    text = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert text.strip().endswith("HEAVY []") and text.index("--loss") < text.index("--lora_r") < text.index(
        "--learning_rate") and "--help-all" in text and "--hub_token" not in text
    import dataclasses, spot_nb.train as t
    shown = set(re.findall(r"(?m)^  (?:-\w, )?--(\w+)", text))
    own = ({f.name for f in dataclasses.fields(t.SPoTConfig)}
           - {f.name for f in dataclasses.fields(t.TrainingArguments)})
    assert own - {"model_name_or_path", "data_path"} <= shown and {"model", "data", "output"} <= shown


def test_python_m_and_the_last_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "spot_nb", "connect4", "--n", "3", "--output",
                           "states.jsonl"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("wrote states.jsonl; next: spot evaluate --model MODEL "
                                                   "--tasks connect4")


def test_log_files_get_lines(tmp_path):
    code = ("import time\nfrom spot_nb.records import progress\nfor _ in progress(range(8), desc='work'): "
            "time.sleep(0.05)")
    env = {k: v for k, v in os.environ.items() if k != "SPOT_PROGRESS"}
    err = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         env={**env, "SPOT_LOG_EVERY": "0.1"}, check=True).stderr
    assert err.count("\n") >= 2 and "\r" not in err and all(l.startswith("work:") for l in err.splitlines())
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**env, "SPOT_PROGRESS": "0", "SPOT_LOG_EVERY": "0"}, check=True).stderr == ""


@pytest.mark.parametrize("command", [["train"], ["run"], ["elicit"]])
def test_a_broken_settings_file_names_its_line(command, tmp_path, capsys):
    (tmp_path/"settings.yaml").write_text("model: embedded\ntemperature: 1\n\tseed: 3\n")
    assert cli.main([*command, "--config", str(tmp_path/"settings.yaml")]) == 2
    err = capsys.readouterr().err
    assert "settings.yaml: not valid YAML (line 3: " in err and len(err.splitlines()) == 1


def test_a_switch_takes_no_value(capsys):
    assert cli.main(["elicit", "--overwrite=yes", "--data", "x"]) == 2
    assert "--overwrite takes no value, and 'yes' is one" in capsys.readouterr().err
