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


def test_workers_change_nothing():
    many = [{**pair(k, rejected=f"a {k} c {k % 7}", chosen=f"a {k} d {k % 5}"), "answer": None}
            for k in range(600)]
    assert P.filter_pairs(many, workers=2) == P.filter_pairs(many, workers=1)


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
