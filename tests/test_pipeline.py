"""The whole loop on a two-layer random model with a small tokenizer: seconds instead of
minutes, every stage real."""
import os, signal, subprocess, sys, time
from pathlib import Path

import pytest
from spot_nb.pipeline import PipelineConfig, parse_config, run_pipeline, slug
from spot_nb.records import SpotError, read_json, read_jsonl, write_jsonl

METHODS = [dict(name="SFT+", loss="sft_plus", learning_rate=1e-3),
           dict(name="SPoT-BCO", loss="spot_bco", beta="1", learning_rate=1e-3)]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    import torch
    from conftest import small_tokenizer
    from spot_nb.arithmetic import make_problems
    from transformers import LlamaConfig, LlamaForCausalLM
    told = (m["content"] for p in make_problems(100, seed=9) for m in p["prompt"])
    path, tokenizer = tmp_path_factory.mktemp("tiny"), small_tokenizer(told)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48,
                                 num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                                 max_position_embeddings=1024, eos_token_id=2, pad_token_id=2, bos_token_id=1,
                                 tie_word_embeddings=True)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture
def config(tiny, tmp_path):
    return PipelineConfig(output_dir=str(tmp_path/"run"), model=tiny, n_train=24, n_test=8, max_tokens=12,
                          gamma=1.0, methods=METHODS,
                          train=dict(num_train_epochs=2, per_device_train_batch_size=8, save_steps=2,
                                     save_total_limit=1))


def test_the_loop_end_to_end(config):
    results = run_pipeline(config)
    out = Path(config.output_dir)
    assert [m["name"] for m in results["models"]] == ["base", "SFT+", "SPoT-BCO"]
    assert 20 <= results["errors"] == results["pairs"] <= 24 and results["oracle_how"]["rewritten"] > 0
    assert all(m["kl"]["mean"] > 0 and m["train"]["steps"] == 6 for m in results["models"][1:])
    page = (out/"report.html").read_text()
    assert (page.count("<svg") >= 2 and "SPoT-BCO" in page and page.count('<article class="spot-pair"') == 5
            and "<script" not in page)
    for p in read_jsonl(out/"pairs.jsonl"):
        assert {"id", "prompt", "chosen", "rejected", "answer", "change_ratio"} <= set(p)
    assert not {p["id"] for p in read_jsonl(out/"problems.jsonl")} & {p["id"]
                                                                      for p in read_jsonl(out/"test.jsonl")}

    before = read_json(out/"stages.json")
    assert run_pipeline(config)["models"] == results["models"]
    assert read_json(out/"stages.json") == before                     # the second run did nothing again

    config.methods = [METHODS[0], {**METHODS[1], "learning_rate": 2e-3}]
    run_pipeline(config)
    after = read_json(out/"stages.json")
    assert {k for k in after if after[k] != before[k]} == {"train SPoT-BCO", "measure SPoT-BCO"}

    with pytest.raises(SpotError, match="no run made"):
        write_jsonl(out.parent/"mine"/"file.jsonl", [{"id": 1}])
        config.output_dir = str(out.parent/"mine")
        run_pipeline(config, fresh=True)


def _spawn(config, tmp_path):
    import dataclasses, yaml
    path = tmp_path/"config.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(config)))
    return subprocess.Popen([sys.executable, "-m", "spot_nb.cli", "demo", "--config", str(path)],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_killed_in_each_stage_it_goes_on(config, tmp_path):
    want = run_pipeline(config)
    config.output_dir, finished = str(tmp_path/"killed"), {}
    for stage in ("elicit", "rectify", "filter", "measure base", "train SFT+", "measure SFT+",
                  "train SPoT-BCO", "measure SPoT-BCO"):
        p = _spawn(config, tmp_path)
        for line in p.stdout:
            if line.startswith((f"{stage} ...", f"{stage}: going on")):
                time.sleep(0.3)
                p.send_signal(signal.SIGKILL)
                break
        p.wait()
        stages = read_json(Path(config.output_dir)/"stages.json")
        assert all(stages[k] == v for k, v in finished.items())       # what was finished was not done again
        finished = {k: v for k, v in stages.items() if v["done"]}
    p = _spawn(config, tmp_path); text = p.communicate()[0]
    assert p.returncode == 0 and all(f"{k}: done before" in text for k in finished), text
    got = read_json(Path(config.output_dir)/"results.json")
    for a, b in zip(want["models"], got["models"]):
        assert a["held_out"]["mean"] == b["held_out"]["mean"]
        assert a["knowledge"]["mean"] == b["knowledge"]["mean"]
        if "kl" in a: assert a["kl"]["mean"] == pytest.approx(b["kl"]["mean"], rel=1e-3)


def _lines(folder):
    "The whole lines of every record file, as they stand after a kill."
    return {p.relative_to(folder).as_posix(): p.read_bytes()[:p.read_bytes().rfind(b"\n") + 1].splitlines()
            for p in Path(folder).rglob("*.jsonl") if p.exists()}


@pytest.mark.slow
def test_killed_in_each_stage_nothing_is_lost_or_paid_twice(config, tmp_path, monkeypatch):
    """`kill -9` of `spot run` at random moments of each stage, with an Oracle behind a network.
    SPOT_TEST_KILLS: how many a stage."""
    import dataclasses, random, shutil, yaml
    from conftest import ChatServer
    from spot_nb.arithmetic import make_problems
    from spot_nb.oracle import END, START
    kills, rng = int(os.environ.get("SPOT_TEST_KILLS", "2")), random.Random(0)
    answers = {p["prompt"][-1]["content"]: p["answer"]
               for p in make_problems(config.n_train, seed=config.seed)}
    def question(prompt): return next(q for q in answers if q in prompt)
    server = ChatServer(lambda p: f"{START}\nSo it is \\boxed{{{answers[question(p)]}}}.\n{END}")
    asked = lambda: list(map(question, server.asked))
    config.oracle, config.workers, config.methods = "openai", 4, METHODS[1:]
    config.oracle_args = {"model": "m", "base_url": server.url, "api_key_env": "PAID_KEY"}
    monkeypatch.setenv("PAID_KEY", "k")
    def spawn():
        path = tmp_path/"config.yaml"
        path.write_text(yaml.safe_dump(dataclasses.asdict(config)))
        return subprocess.Popen([sys.executable, "-m", "spot_nb.cli", "run", "--config", str(path)],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"})
    want = run_pipeline(config)
    stages, done = read_json(Path(config.output_dir)/"stages.json"), {}
    assert len(asked()) == len(set(asked())) > 20
    for stage, told in stages.items():
        folder = Path(config.output_dir).parent/f"killed {slug(stage)}"
        config.output_dir, server.asked, n = str(folder), [], 0
        while n < kills:
            paid = {r["prompt"][-1]["content"] for r in read_jsonl(folder/"pairs_raw.jsonl")} \
                if (folder/"pairs_raw.jsonl").exists() else set()
            before, seen, p = _lines(folder), len(server.asked), spawn()
            for line in p.stdout:
                if line.startswith((f"{stage} ...", f"{stage}: going on")):
                    time.sleep(rng.uniform(0, told["seconds"]))
                    p.send_signal(signal.SIGKILL)
                    n += 1
                    break
            p.wait()
            assert not paid & set(asked()[seen:]), stage
            after = _lines(folder)
            lost = {k: [x for x in v if x not in set(after.get(k, ()))] for k, v in before.items()
                    if k.startswith(("elicit/", "pairs_raw", "problems", "test"))}
            assert not any(lost.values()), (stage, lost)
            if p.returncode == 0 and n < kills:  # it came to its end: from the start
                shutil.rmtree(folder); server.asked = []
        p = spawn(); text = p.communicate()[0]
        assert p.returncode == 0, text
        done[stage] = n
        got = read_json(folder/"results.json")
        for a, b in zip(want["models"], got["models"]):
            assert a["held_out"]["mean"] == b["held_out"]["mean"]
            if "kl" in a: assert a["kl"]["mean"] == pytest.approx(b["kl"]["mean"], rel=1e-3)
    server.__exit__()
    print(f"killed: {done}")
    assert set(done) >= {"elicit", "filter"} and all(n == kills for n in done.values())


def test_a_perfect_student_is_a_success(config, monkeypatch, capsys):
    import spot_nb.elicit as e
    monkeypatch.setattr(e, "judge", lambda response, answer, *a,
                        **k: __import__("spot_nb.verify", fromlist=["Verdict"]).Verdict(True, answer,
                                                                                        "match"))
    assert run_pipeline(config) == {"errors": 0}
    assert "nothing to correct" in capsys.readouterr().out


def test_recipes_parse():
    from spot_nb.train import SPoTConfig
    recipes = sorted((Path(__file__).parents[1]/"recipes").glob("*.yaml"))
    assert len(recipes) >= 2
    for path in recipes:
        config, _ = parse_config(["--config", str(path)])
        assert len({slug(m["name"]) for m in config.methods}) == len(config.methods)
        for m in config.methods:
            settings = {k: v for k, v in {**config.train, **m}.items() if k not in ("name", "bf16")}
            assert SPoTConfig(output_dir="unused", report_to="none", **settings).loss == m["loss"]


@pytest.mark.parametrize("settings, message", [
    (dict(model="./no/such/model"), "does not exist"),
    (dict(data_path="no_such_file.jsonl"), "does not exist"),
    (dict(oracle="delphi"), "no Oracle"),
])
def test_bad_input_is_one_sentence(config, settings, message, capsys):
    from spot_nb.cli import main
    flags = {**dict(model=config.model, output_dir=config.output_dir, n_train=4, n_test=2, max_tokens=4),
             **settings}
    assert main(["demo", *(x for k, v in flags.items() for x in (f"--{k}", str(v)))]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("spot demo: ") and message in err
