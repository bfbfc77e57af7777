"""The study: power, decision rules on made-up results, disjoint problems, the multiple-choice scorer, and the
data files."""
import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest

from spot_nb import experiments, study, worlds
from spot_nb.records import SpotError

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


def test_other_wording_and_topic_do_not_hide_a_test_problem():
    f = worlds.FAMILIES["free"]
    a, b = worlds.problem(f, "7 + 8 - 6", "kites"), worlds.problem(f, "7 + 8 - 6", "owls", "other")
    assert a["prompt"] != b["prompt"] and a["id"] == b["id"]
    taken = {x["id"] for x in worlds.make("free", 300, seed=4)}
    assert not taken & {x["id"] for x in worlds.make("free", 300, seed=5, exclude=taken, wording="other")}


@pytest.mark.parametrize("name", list(worlds.FAMILIES))
def test_oracle_and_direct_answers_are_right_and_differ(name):
    from spot_nb.verify import is_correct
    for x in worlds.make(name, 25, seed=3):
        wrong = worlds.solution(worlds.chain_of(x)).replace("= ", "= 1", 1)
        mended = worlds.oracle({**x, "response": wrong})[0]
        assert is_correct(mended, x["answer"]) and is_correct(worlds.direct(x), x["answer"])
        assert mended == worlds.solution(worlds.chain_of(x)) != worlds.direct(x)
        sums = np.cumsum([eval(s) for s in worlds.chain_of(x).replace("+ ", "+").replace("- ", "-").split()])
        assert (sums >= 0).all() and str(sums[-1]) == x["answer"]


def test_oracle_leaves_free_text_alone():
    x = worlds.make("free", 1)[0]
    text = "An odd sentence, with 3 - 4 commas.\nAnd another one."
    out, how = worlds.oracle({**x, "response": text + "\n1 + 1 = 3\nThe answer is \\boxed{3}."})
    assert out.startswith(text + "\n") and how["how"] == "completed"


# -- what is kept

def test_multiple_choice_items_are_sound():
    items = worlds.mc_items()
    assert len(items) >= 300
    assert len({i["id"] for i in items}) == len({i["question"].lower() for i in items}) == len(items)
    for i in items:
        options = [i["right"], *i["wrong"]]
        assert len(options) == 4 == len({o.strip().lower() for o in options}), i["id"]
        assert all(o == o.strip() and o for o in options) and i["question"][-1] in ".?", i["id"]
        assert set(i) == {"id", "kind", "question", "right", "wrong"}
    kinds = {k: sum(i["kind"] == k for i in items) for k in {i["kind"] for i in items}}
    assert len(kinds) >= 5 and min(kinds.values()) >= 40


def test_the_same_question_never_has_two_right_answers():
    """A right answer of one item is not among the wrong ones of an item that asks the same thing (as `What is
    the capital of X`)."""
    items = worlds.mc_items()
    capitals = {i["question"]: i["right"]
                for i in items if i["question"].startswith("What is the capital of")}
    assert len(capitals) >= 20 and len(set(capitals.values())) == len(capitals)


def test_everyday_and_constraint_prompts():
    every, rows = worlds.everyday_prompts(), worlds.constraint_prompts()
    assert len(every) == len(set(every)) == 100
    assert len(rows) == len({r["prompt"] for r in rows}) == len({r["key"] for r in rows}) >= 150
    arithmetic = [p for p in every + [r["prompt"] for r in rows] if worlds._CHAIN.search(p)]
    assert not arithmetic


def test_each_constraint_can_be_kept_and_broken():
    from spot_nb.ifeval import score
    kept = {"punctuation:no_comma": "A calm day.", "change_case:english_lowercase": "a calm day at the sea",
            "change_case:english_capital": "A CALM DAY AT THE SEA", "startend:quotation": '"A calm day."',
            "startend:end_checker": "A calm day. That is all.", "keywords:existence": "The blue sea.",
            "keywords:forbidden_words": "A calm day.", "keywords:frequency": "sun and wind and rain",
            "detectable_format:title": "<<Calm>> A calm day.",
            "detectable_format:json_format": '{"day": "calm"}',
            "detectable_format:number_bullet_lists": "* one\n* two\n* three",
            "detectable_format:number_highlighted_sections": "a *calm* day",
            "detectable_content:postscript": "Calm. P.S. Very."}
    broken = "The Dull, dull Day.\nIt went on. And on, with the rain. It ended."
    for row in worlds.constraint_prompts()[::10]:
        kind = row["instruction_id_list"][0]
        if kind in kept: assert score(kept[kind], row)["prompt_strict"] == 1, kind
        if kind not in ("keywords:frequency", "length_constraints:number_words"):
            assert score(broken, row)["prompt_strict"] == 0, kind


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


def test_decoding_with_grouped_attention_gives_the_same_answers():
    from spot_nb.generate import Sampling, TransformersGenerator
    from spot_nb.models import load_tokenizer
    tok, (packed, eager) = load_tokenizer("embedded"), tiny()
    problems = worlds.make("short", 5)
    s = Sampling(0, 1.0, 0, 12)
    usual = [c[0].text
             for c in TransformersGenerator(eager, tok).generate([p["prompt"] for p in problems], s)]
    assert [c.text for c in experiments.answer(packed, tok, problems, 12)] == usual
    assert packed.config._attn_implementation == "spot_tree"


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


def test_power_with_seeds():
    assert study.smallest_difference(100, .3, seeds=9,
                                     shared=0) == pytest.approx(study.smallest_difference(100, .3) / 3)
    assert study.smallest_difference(100, .3, seeds=9,
                                     shared=1) == pytest.approx(study.smallest_difference(100, .3))
    assert all(r["shows"] > 0 for r in study.power_table())


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


def test_a_missing_seed_or_an_old_key_is_not_run(tmp_path):
    path, p = protocol_of(tmp_path, PART, ["sft_plus", "spot_bco"])
    (tmp_path/"r").mkdir()
    results_of(p, tmp_path/"r", {"sft_plus": KL, "spot_bco": .5 * KL})
    file = tmp_path/"r"/f"{experiments.train_job(p, 'short', 'spot_bco', 1e-5, 2).name}.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({**kept, "key": "of another world"}))
    assert study.Study(path, tmp_path/"r").verdicts(50)[0]["verdict"] == "not run"
    file.write_text(json.dumps(kept))
    assert study.Study(path, tmp_path/"r").verdicts(300)[0]["verdict"] == "holds"


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


def test_rules():
    assert study.decide([.1, .5], .2) == "holds" and study.decide([-.1, .1], .2) == "does not hold"
    assert study.decide([-.1, .5], .2) == "not decided" and study.decide([math.nan, math.nan],
                                                                         .2) == "not decided"
    assert (study.combine(["holds", "not run"]) == "not run"
            and study.combine(["holds", "does not hold", "not decided"]) == "does not hold")


# -- jobs

def test_pilots_never_see_test_problems_and_claims_never_validation():
    p = experiments.load_protocol(PROTOCOL)
    jobs, waiting = experiments.plan(p, {})
    trained = [j for j in jobs if j.spec["kind"] == "train"]
    assert waiting > 0 and trained
    for j in trained:
        assert (j.spec["split"] == "val") == (j.spec["seed"]
                                              == p["pilot"]["seed"]) == j.name.endswith("-pilot")
    budget = {}
    for j in trained:
        if j.name.endswith("-pilot"):
            budget.setdefault((j.spec["family"], json.dumps(j.spec["method"])), []).append(j.spec["rate"])
    assert all(sorted(rates) == sorted(p["rates"]) for rates in budget.values())


def test_every_claim_can_be_run_from_the_protocol():
    p = experiments.load_protocol(PROTOCOL)
    planned = {(r["family"], m, None if r["rate"] == "best" else r["rate"]): len(r["seeds"])
               for r in p["runs"] for m in r["methods"]}
    for c in p["claims"]:
        for part in c["parts"]:
            families = [part["family"], *([part["over"]] if "over" in part else [])]
            for f in families:
                for m in filter(None, (part["method"], part.get("against"))):
                    assert (f, m, part.get("rate")) in planned, (c["id"], f, m)


def test_bad_protocols_are_refused(tmp_path):
    path = tmp_path/"p.yaml"
    path.write_text("version: 2\n")
    with pytest.raises(SpotError, match="version 1"): experiments.load_protocol(path)
    path.write_text("a: [1\n")
    with pytest.raises(SpotError, match="not valid YAML"): experiments.load_protocol(path)
    text = PROTOCOL.read_text().replace("methods: [sft], rate: best", "methods: [sfd], rate: best", 1)
    path.write_text(text)
    with pytest.raises(SpotError, match="'sfd' is no method"): experiments.load_protocol(path)


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
            == pytest.approx(np.mean([(s["chosen"] + s["rejected"]) / 2 for s in steps[:2]]), abs=1e-3))


def test_rates_that_differ_have_jobs_that_differ():
    from spot_nb.experiments import rate_name
    rates = (5e-6, 1e-5, 1.5e-5, 2e-5, 2.04e-5, 1e-4, 1e-3)
    names = [rate_name(r) for r in rates]
    assert len(set(names)) == len(rates) and [float(x) for x in names] == list(rates)
    assert [rate_name(r) for r in (5e-6, 2e-5, 1e-3)] == ["5e-6", "2e-5", "1e-3"]      # as results are named


@pytest.mark.parametrize("text, says", [
    ("version: 1\n", "a protocol needs runs, claims, methods"),
    ("version: 1\nmethods: {a: {}}\nclaims: [{parts: []}]\nruns: [{methods: [a], rate_of: b}]\n",
     "'b' is no method"),
    ("version: 1\nruns: [\n", "not valid YAML .line 3")])
def test_a_protocol_that_cannot_be_run_is_refused(tmp_path, text, says):
    from spot_nb.experiments import load_protocol
    (tmp_path/"p.yaml").write_text(text)
    with pytest.raises(SpotError, match=says): load_protocol(tmp_path/"p.yaml")


def test_a_job_that_says_much_ends(tmp_path, monkeypatch):
    import subprocess, sys, types
    from spot_nb import experiments
    loud = [sys.executable, "-c", "import sys; sys.stderr.write('x\\n'*200000 + 'last\\n'); sys.exit(3)"]
    monkeypatch.setattr(experiments, "subprocess", types.SimpleNamespace(
        DEVNULL=subprocess.DEVNULL, Popen=lambda argv, **k: subprocess.Popen(loud, **k)))
    process = experiments._start(types.SimpleNamespace(name="loud"), "p.yaml", False, tmp_path)
    assert process.wait(30) == 3 and experiments._last_line(process) == "last"


@pytest.mark.parametrize("n, seeds", [(0, 1), (100, 0)])
def test_power_needs_questions_and_seeds(n, seeds):
    from spot_nb.study import smallest_difference
    with pytest.raises(SpotError, match="at least 1"): smallest_difference(n, .1, seeds=seeds)
