"""The filter's verdicts, its figures, and an exported set in TRL's own trainer."""
import json

import pytest

from spot_nb import pairs as P
from spot_nb.records import SpotError, read_jsonl


def pair(k, rejected="1 + 1 = 3\nThe answer is \\boxed{3}.", chosen="1 + 1 = 2\nThe answer is \\boxed{2}.",
         **more):
    return dict(id=k, prompt=f"q{k}", rejected=rejected, chosen=chosen, answer="2", **more)


def cases():
    same = {**pair(7, rejected="x y", chosen="x y"), "answer": None}
    far = pair(5, rejected="\\boxed{9}",
               chosen="Take one. Add another one. That makes two apples altogether, hence \\boxed{2}")
    return [pair(0), pair(1, chosen="so \\boxed{5}"), pair(2, rejected="so \\boxed{2}"),
            pair(3, verified=False), pair(4, chosen=None), far,
            {**pair(6, chosen="1 + 1 = 2\nThus \\boxed{2}."), "prompt": "q0"}, same,
            pair(8, rejected="1 + 1 = 3 " + "so "*99 + "\\boxed{3}",
                 chosen="1 + 1 = 2 " + "so "*99 + "\\boxed{2}")]


def test_every_reason():
    kept, dropped = P.filter_pairs(cases(), gamma=0.6, max_length=100)
    assert [p["id"] for p in kept] == [0]
    assert {p["id"]: p["reason"] for p in dropped} == {1: "unverified", 2: "rejected_correct",
                                                       3: "unverified", 4: "unverified", 5: "over_gamma",
                                                       6: "duplicate_prompt", 7: "identical", 8: "too_long"}
    assert len(P.filter_pairs(cases(), gamma=1.0, keep_duplicates=True)[0]) == 4
    with pytest.raises(SpotError, match="gamma"): P.filter_pairs([], gamma=1.5)


def test_figures_add_up():
    kept, dropped = P.filter_pairs(cases())
    stats = P.statistics(kept, dropped)
    assert stats["kept"] + sum(stats["dropped"].values()) == stats["pairs"] == 9
    assert stats["tokens_plain"] - stats["tokens_shared"] == sum(p["n_prompt"] + p["prefix"] for p in kept)
    assert ([g["pairs"] for g in stats["gammas"]] == sorted(g["pairs"] for g in stats["gammas"])
            and stats["gammas"][-1]["share"] == 1)
    assert P.statistics([], [])["kept"] == 0


def test_workers_change_nothing():
    many = [{**pair(k, rejected=f"a {k} c {k % 7}", chosen=f"a {k} d {k % 5}"), "answer": None}
            for k in range(600)]
    assert P.filter_pairs(many, workers=2) == P.filter_pairs(many, workers=1)


def test_the_papers_files_load(tmp_path):
    row = dict(prompt="q", ground_truth=4, original_answer="3", gemini_corrected_answer="4")
    path = tmp_path/"gemini.json"
    path.write_text(json.dumps([row, {**row, "prompt": None, "question": "r"}]))
    assert [(p["prompt"], p["rejected"], p["chosen"], p["answer"])
            for p in P.load_pairs(path)] == [("q", "3", "4", "4"), ("r", "3", "4", "4")]
    path.write_text(json.dumps([row, {"question": "x"}]))
    with pytest.raises(SpotError, match="record 2"): P.load_pairs(path)
    path.write_text("[]")
    with pytest.raises(SpotError, match="empty"): P.load_pairs(path)


def test_cli(tmp_path, capsys):
    source, out = tmp_path/"raw.jsonl", tmp_path/"pairs.jsonl"
    source.write_text("".join(json.dumps(p) + "\n" for p in cases()))
    assert P.cli([str(source), "-o", str(out), "--gamma", "0.5", "--export", str(tmp_path/"set.parquet"),
                  "--plot", str(tmp_path/"r.png")]) == 0
    stats = json.loads((tmp_path/"pairs.stats.json").read_text())
    assert (stats["kept"] == len(read_jsonl(out)) and stats["pairs"] == 9
            and len(read_jsonl(tmp_path/"pairs.dropped.jsonl")) == 9 - stats["kept"])
    assert (f"{stats['kept']} of 9 pairs kept" in capsys.readouterr().out
            and (tmp_path/"r.png").stat().st_size > 5000)
    assert len(P.load_pairs(tmp_path/"set.parquet")) == stats["kept"]
    for argv, what in (([str(source), "-o", str(source)], "overwrite"),
                       ([str(source), "--perplexity"], "--model"), ([str(source), "-o", "x.csv"], "jsonl")):
        with pytest.raises(SpotError, match=what): P.cli(argv)


def test_push_sends_rows_and_card(monkeypatch):
    import datasets, huggingface_hub
    sent = {}
    monkeypatch.setattr(datasets.Dataset, "push_to_hub", lambda self, repo,
                        private: sent.update(rows=len(self), private=private))
    monkeypatch.setattr(huggingface_hub.DatasetCard, "load",
                        classmethod(lambda cls, repo: cls("---\nconfigs:\n- config_name: default\n---\n")))
    monkeypatch.setattr(huggingface_hub.DatasetCard, "push_to_hub", lambda self, repo,
                        repo_type: sent.update(card=str(self)))
    kept, dropped = P.filter_pairs(cases())
    url = P.push_pairs(kept, "me/set", P.dataset_card(P.statistics(kept, dropped), 0.6))
    assert (url.endswith("me/set") and sent["rows"] == len(kept) and sent["private"]
            and "2603.01683" in sent["card"] and "config_name: default" in sent["card"])


def test_an_exported_set_trains_a_step_in_dpo(tmp_path):
    from datasets import load_dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer
    from spot_nb.models import load_tokenizer
    tok = load_tokenizer("embedded")
    kept, _ = P.filter_pairs([pair(k) for k in range(4)], tokenizer=tok)
    data = load_dataset("parquet", data_files=str(P.export_pairs(kept, tmp_path/"set.parquet")),
                        split="train", cache_dir=str(tmp_path/"cache"))
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), hidden_size=16, intermediate_size=16,
                                         num_hidden_layers=1, num_attention_heads=2))
    model.save_pretrained(tmp_path/"model")
    config = DPOConfig(output_dir=str(tmp_path/"out"), max_steps=1, per_device_train_batch_size=2,
                       report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False)
    result = DPOTrainer(model=str(tmp_path/"model"), args=config, train_dataset=data,
                        processing_class=tok).train()
    assert result.global_step == 1 and 0.6 < result.training_loss < 0.8        # log 2 before the first step
