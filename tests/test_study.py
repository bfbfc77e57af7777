"""The study: power, decision rules on made-up results, disjoint problems, the multiple-choice scorer, and the
data files."""
import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest

from spot_nb import experiments, study, worlds

ROOT = Path(__file__).resolve().parents[1]
PROTOCOL = ROOT/"recipes"/"study"/"claims.yaml"
LEARNED = [.15, .25, .35, .5, .6, .7]


# -- problems

@pytest.mark.parametrize("name", list(worlds.FAMILIES))
def test_no_test_problem_is_trained_or_validated_on(name):
    p = experiments.load_protocol(PROTOCOL)
    w = p["world"]
    seeds = {s for r in p["runs"] if r["family"] == name for s in r["seeds"]} | {p["pilot"]["seed"]}
    parts = [worlds.splits(name, s, w["problems"], w["val"], w["test"], w["near"]) for s in seeds]
    test = {x["id"] for k in ("test", "near") for x in parts[0][k]}
    chains = {worlds.chain_of(x) for k in ("test", "near") for x in parts[0][k]}
    for part in parts:
        assert part["test"] == parts[0]["test"] and part["val"] == parts[0]["val"]
        seen = part["train"] + part["val"]
        assert not test & {x["id"] for x in seen}
        assert not chains & {worlds.chain_of(x) for x in seen}
        assert not {x["id"] for x in part["train"]} & {x["id"] for x in part["val"]}


# -- what is kept

def tiny():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    from spot_nb.logps import register_tree_attention
    config = LlamaConfig(vocab_size=49152, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2)
    make = lambda kind: LlamaForCausalLM._from_config(copy.deepcopy(config), attn_implementation=kind).eval()
    packed, eager = make(register_tree_attention()), make("eager")
    eager.load_state_dict(packed.state_dict())
    return packed, eager


def test_multiple_choice_scores_equal_an_eager_forward():
    import torch
    from spot_nb.models import load_tokenizer
    tok, (packed, eager) = load_tokenizer("embedded"), tiny()
    items = worlds.mc_items()[::25]
    got = worlds.mc_logps(packed, tok, items)
    expected = np.zeros_like(got)
    for i, group in enumerate(worlds.mc_groups(tok, items)):
        for j, (prompt, option) in enumerate(group):
            with torch.no_grad():
                z = eager(torch.tensor([prompt + option])).logits[0].double().log_softmax(-1)
            expected[i, j] = sum(float(z[len(prompt) - 1 + t, o]) for t, o in enumerate(option))
    assert np.allclose(got, expected, rtol=1e-4) and got.shape == (len(items), 4)
    scores = worlds.mc_scores(np.log([[.4, .2, .2, .2], [.1, .3, .3, .3]]))
    assert scores["correct"].tolist() == [True, False] and np.allclose(scores["prob"], [.4, .1])


# -- power

@pytest.mark.parametrize("n,changed", [(100, .3), (340, .06), (160, .2)])
def test_power_is_what_it_says(n, changed):
    d = study.smallest_difference(n, changed)
    rng = np.random.default_rng(1)
    for true, low, high in ((d, .7, .92), (d / 3, .0, .35)):
        x = rng.choice([1, -1, 0], p=[(changed + true) / 2, (changed - true) / 2, 1 - changed],
                       size=(1500, n))
        found = np.abs(x.mean(1)) > 1.96 * x.std(1) / math.sqrt(n)
        assert low <= found.mean() <= high


# -- decisions, through files as jobs write them

def results_of(p, folder, kl_of, seeds=(0, 1, 2), questions=100, prompts=100, noise=.12, spread=.2):
    "Made-up result files of the base, the pilots and the runs of `kl_of`: {method: KL at each point}."
    rng = np.random.default_rng(3)
    hard, wide = rng.uniform(size=questions), np.exp(rng.normal(0, .5, prompts))
    def point(epoch, accuracy, kl):
        right = np.clip(hard + rng.normal(0, noise, questions), 0, 1) < accuracy
        return {"epoch": epoch, "correct": "".join("01"[int(x)] for x in right),
                "kl": (kl * wide * np.exp(rng.normal(0, spread, prompts))).tolist(),
                "nats": {"chosen": rng.normal(epoch, .1, 24).tolist(),
                         "rejected": rng.normal(0, .1, 24).tolist()}}
    def write(job, points):
        (folder/f"{job.name}.json").write_text(json.dumps({"key": job.key, "spec": job.spec,
                                                           "points": points}))
    write(experiments.base_job(p, "short"), [point(0, LEARNED[0], 0)])
    for method, kls in kl_of.items():
        for rate in p["rates"]:
            write(experiments.train_job(p, "short", method, rate, p["pilot"]["seed"], True),
                  [point(2, .3 + .2 * (rate == 1e-5), .01)])
        for s in seeds:
            job = experiments.train_job(p, "short", method, 1e-5, s)
            write(job, [point(e, a, k) for e, a, k in zip(p["training"]["points"], LEARNED[1:], kls)])


def protocol_of(tmp_path, part, methods):
    import yaml
    p = yaml.safe_load(PROTOCOL.read_text())
    p["runs"] = [{"family": "short", "methods": methods, "rate": "best", "seeds": [0, 1, 2]}]
    p["claims"] = [{"id": "x", "says": "-", "seeds": 3, "parts": [part]}]
    path = tmp_path/"claims.yaml"
    path.write_text(yaml.safe_dump(p))
    return path, experiments.load_protocol(path)


KL = np.array([.002, .005, .01, .02, .04])
PART = {"statistic": "kl_at_accuracy", "family": "short", "method": "spot_bco", "against": "sft_plus",
        "least": .22}


@pytest.mark.parametrize("ratio,size,verdict",
                         [(.5, 100, "holds"), (1.5, 100, "does not hold"), (.95, 6, "not decided")])
def test_a_claim_that_holds_one_that_does_not_and_one_undecided(tmp_path, ratio, size, verdict):
    path, p = protocol_of(tmp_path, PART, ["sft_plus", "spot_bco"])
    (tmp_path/"r").mkdir()
    results_of(p, tmp_path/"r", {"sft_plus": KL, "spot_bco": ratio * KL}, questions=size,
               prompts=max(4, size), spread=.2 if size > 50 else 1.)
    (row,) = study.Study(path, tmp_path/"r").verdicts(300)
    assert row["verdict"] == verdict
    assert verdict in study.verdict_table([row])


@pytest.mark.parametrize("part,verdict",
                         [(dict(statistic="gain", method="spot_bco", point=8, least=10), "holds"),
                          (dict(statistic="gain", method="spot_bco", point=8, least=80), "does not hold"),
                          ({"statistic": "levels", "method": "spot_bco", "from": 4, "to": 8, "below": .22,
                            "least": .1}, "does not hold"),
                          ({"statistic": "growth", "method": "spot_bco", "from": 4, "to": 8, "above": .22,
                            "least": .1}, "holds"),
                          (dict(statistic="nats", method="spot_bco", which="chosen", point=8, least=.5),
                           "holds"),
                          (dict(statistic="nats", method="spot_bco", which="rejected", point=8, least=.5),
                           "does not hold")])
def test_each_statistic_decides(tmp_path, part, verdict):
    path, p = protocol_of(tmp_path, {"family": "short", **part}, ["spot_bco"])
    (tmp_path/"r").mkdir()
    results_of(p, tmp_path/"r", {"spot_bco": KL})
    assert study.Study(path, tmp_path/"r").verdicts(200)[0]["verdict"] == verdict


# -- jobs

def test_training_is_measured_along_the_way(tmp_path):
    "Five steps of a tiny model: the points come when they are due, and the run reports its beta and rewards."
    from spot_nb.models import load_tokenizer
    tok, (model, _) = load_tokenizer("embedded"), tiny()
    wrong = [{**x, "response": "1 + 1 = 2\nThe answer is \\boxed{1}.", "finish_reason": "stop"}
             for x in worlds.make("short", 6)]
    p = experiments.load_protocol(PROTOCOL)
    spec = {"rate": 1e-3, "seed": 0, "method": {"loss": "spot_bco", "delta": "cumulative"},
            "training": {**p["training"], "batch": 2, "warmup": 1}}
    seen = []
    about, steps = experiments.train_once(spec, experiments.corrected(wrong), [1 / 3, 1], model, tok,
                                          lambda e, s, m: seen.append((e, s)))
    assert seen == [(1 / 3, 1), (1, 3)] and len(steps) == 3 and about["pairs"] == 6 and about["beta"] >= .1
    assert (steps[0]["delta"] == 0
            and steps[2]["delta"]
            == pytest.approx(np.mean([(s["chosen"] + s["rejected"]) / 2 for s in steps]), abs=1e-3))


def test_a_job_that_says_much_ends(tmp_path, monkeypatch):
    import subprocess, sys, types
    from spot_nb import experiments
    loud = [sys.executable, "-c", "import sys; sys.stderr.write('x\\n'*200000 + 'last\\n'); sys.exit(3)"]
    monkeypatch.setattr(experiments, "subprocess", types.SimpleNamespace(
        DEVNULL=subprocess.DEVNULL, Popen=lambda argv, **k: subprocess.Popen(loud, **k)))
    process = experiments._start(types.SimpleNamespace(name="loud"), "p.yaml", False, tmp_path)
    assert process.wait(30) == 3 and experiments._last_line(process) == "last"
