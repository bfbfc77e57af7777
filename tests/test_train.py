"""The trainer: one δ a step however the batch is split, LoRA, the command line, folders, and saves that
fail."""
import json, os, socket, subprocess, sys, warnings
from pathlib import Path

import pytest
import torch

from conftest import small_tokenizer
from spot_nb.losses import OBJECTIVES
from spot_nb.records import SpotError, read_jsonl, write_jsonl
from spot_nb.train import (SPoTConfig, build, cli, last_checkpoint, parse_config, presets, train)

WORDS = "one two three four five six seven eight nine ten plus minus is answer so then".split()


@pytest.fixture(scope="session")
def student(tmp_path_factory):
    "A folder with a tiny random Llama and a small tokenizer."
    from transformers import LlamaConfig, LlamaForCausalLM
    path = tmp_path_factory.mktemp("tiny")
    tok = small_tokenizer(" ".join(map(str, p.values())) for p in make_pairs(200))
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), hidden_size=16, intermediate_size=24,
                                 num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                                 max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=2,
                                 initializer_range=0.2)).save_pretrained(path)
    tok.save_pretrained(path)
    return str(path)


def make_pairs(n, seed=0):
    import random
    rng = random.Random(seed)
    text = lambda k: " ".join(rng.choice(WORDS) for _ in range(k))
    out = []
    for i in range(n):
        head = text(rng.randint(0, 6))
        out.append({"id": f"p{i}", "prompt": f"Question {i}: {text(4)}", "chosen": f"{head} yes {text(5)}",
                    "rejected": f"{head} no {text(4)}"})
    return out


@pytest.fixture(scope="session")
def pairs(): return make_pairs(32)


def config(student, out, **kw):
    defaults = dict(model_name_or_path=student, output_dir=str(out), use_cpu=True,
                    per_device_train_batch_size=16, learning_rate=1e-2, beta=1., num_train_epochs=1,
                    warmup_steps=0, save_strategy="no", disable_tqdm=True, row_tokens=200,
                    reference_cache=str(Path(out)/"ref.safetensors"))
    return SPoTConfig(**(defaults | kw))


def run(student, out, pairs, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = build(config(student, out, **kw), pairs=pairs)
        trainer.train()
    return trainer


def steps(out): return [m for m in read_jsonl(Path(out)/"metrics.jsonl") if "loss" in m]


def weights(trainer): return {k: v.detach().clone() for k, v in trainer.model.state_dict().items()}


def gap(a, b): return max((a[k].float() - b[k].float()).abs().max().item() for k in a)


PAPER = ["dft", "dpo", "dpo_sft", "reward_sft", "rft", "sft", "sft_plus", "spot_bce", "spot_bco"]


@pytest.mark.parametrize("loss", PAPER)
def test_every_objective_trains(student, pairs, tmp_path, loss):
    run(student, tmp_path, pairs[:8], loss=loss, per_device_train_batch_size=8, num_train_epochs=4)
    log = steps(tmp_path)
    # -p log p rises with p while p < 1/e
    assert len(log) == 4 and (loss == "dft" or log[-1]["loss"] < log[0]["loss"])
    assert log[-1]["rewards/chosen"] > log[0]["rewards/chosen"]
    assert ("rewards/rejected" in log[0]) == OBJECTIVES[loss].pairs and ("delta" in log[0]) == (loss
                                                                                                == "spot_bco")


@pytest.mark.parametrize("loss", ["spot_bco", "dpo_sft", "dft"])
def test_batch_16_is_4_by_4(student, pairs, tmp_path, loss):
    """Each split of 32 pairs into two optimizer steps of 16 gives the same weights, losses and δ.

    SGD, because AdamW turns the rounding noise of a gradient that is zero in exact arithmetic into steps of
    full size."""
    sgd = dict(loss=loss, optim="sgd")
    whole = run(student, tmp_path/"a", pairs, **sgd)
    for name, kw in dict(b=dict(per_device_train_batch_size=4, gradient_accumulation_steps=4),
                         c=dict(row_tokens=1), d=dict(packing=False)).items():
        split = run(student, tmp_path/name, pairs, **sgd, **kw)
        assert gap(weights(whole), weights(split)) < 1e-6
        for x, y in zip(steps(tmp_path/"a"), steps(tmp_path/name), strict=True):
            for k in ("loss", "rewards/chosen", "grad_norm", "delta"):
                if k in x: assert x[k] == pytest.approx(y[k], abs=2e-6, rel=2e-6), k
    assert gap(weights(whole), weights(run(student, tmp_path/"e", pairs, **sgd, learning_rate=2e-2))) > 1e-5


WORKER = """
import json, sys, torch, warnings
warnings.simplefilter("ignore")
from spot_nb.records import read_jsonl
from spot_nb.train import SPoTConfig, build
kw = json.loads(sys.argv[1])
data = read_jsonl(kw.pop("data"))
t = build(SPoTConfig(**kw), pairs=data)
t.train()
if t.accelerator.is_main_process: torch.save(t.accelerator.unwrap_model(t.model).state_dict(), \
kw["output_dir"] + "/w.pt")
"""


def test_batch_16_is_2_processes_by_8(student, pairs, tmp_path):
    whole = run(student, tmp_path/"a", pairs, optim="sgd")
    write_jsonl(tmp_path/"pairs.jsonl", pairs)
    kw = dict(model_name_or_path=student, output_dir=str(tmp_path/"two"), use_cpu=True,
              per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-2, optim="sgd",
              beta=1., num_train_epochs=1, warmup_steps=0, save_strategy="no", disable_tqdm=True,
              row_tokens=200, ddp_backend="gloo", data=str(tmp_path/"pairs.jsonl"),
              reference_cache=str(tmp_path/"ref.safetensors"))
    (tmp_path/"worker.py").write_text(WORKER)
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
                           "--master_addr=127.0.0.1", f"--master_port={port}", str(tmp_path/"worker.py"),
                           json.dumps(kw)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert gap(weights(whole), torch.load(tmp_path/"two"/"w.pt")) < 1e-6
    one, two = steps(tmp_path/"a"), steps(tmp_path/"two")
    assert [x["delta"] for x in two] == pytest.approx([x["delta"] for x in one], abs=1e-6)
    assert [x["loss"] for x in two] == pytest.approx([x["loss"] for x in one], abs=1e-6)


def test_lora(student, pairs, tmp_path):
    from peft import AutoPeftModelForCausalLM
    kw = dict(use_peft=True, lora_r=4, num_train_epochs=3, per_device_train_batch_size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(config(student, tmp_path/"a", **kw), pairs=pairs)
        back = AutoPeftModelForCausalLM.from_pretrained(tmp_path/"a")
        # the reference is the base, adapter off
        again = build(config(student, tmp_path/"b", **kw), pairs=pairs, model=back)
    assert (steps(tmp_path/"a")[-1]["rewards/chosen"] > 0
            and steps(tmp_path/"a")[0]["rewards/chosen"] == pytest.approx(0, abs=1e-4))
    fresh = build(config(student, tmp_path/"c", **kw), pairs=pairs)
    assert all(abs(x - y).max() < 1e-4 for e, f in zip(again.examples, fresh.examples)
               for x, y in zip(e.ref, f.ref))


def test_gradient_checkpointing_and_bf16(student, pairs, tmp_path):
    plain = run(student, tmp_path/"a", pairs)
    saved = run(student, tmp_path/"b", pairs, gradient_checkpointing=True)
    assert gap(weights(plain), weights(saved)) < 1e-6
    run(student, tmp_path/"c", pairs, bf16=True)
    assert steps(tmp_path/"c")[1]["loss"] == pytest.approx(steps(tmp_path/"a")[1]["loss"], rel=0.05)


def test_command_line(student, pairs, tmp_path):
    write_jsonl(tmp_path/"pairs.jsonl", pairs[:8])
    args = ["--model_name_or_path", student, "--data_path", str(tmp_path/"pairs.jsonl"), "--output_dir",
            str(tmp_path/"out"), "--use_cpu", "true", "--save_strategy", "no", "--num_train_epochs", "1",
            "--loss", "spot_bce", "--reference_cache", str(tmp_path/"r")]
    done = subprocess.run([sys.executable, "-m", "spot_nb.train", *args], capture_output=True, text=True,
                          timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    *_, figures, last = done.stdout.strip().splitlines()
    assert (json.loads(figures)["steps"] == 1 and last.startswith("wrote ")
            and "next: spot evaluate --model" in last)
    with pytest.raises(SpotError, match="does not exist"):
        cli(["--data_path", str(tmp_path/"none.jsonl"), "--output_dir", str(tmp_path), "--use_cpu", "true"])


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_presets_and_recipes_train_32_pairs_a_step(tmp_path, monkeypatch, world):
    """`accelerate launch -m spot_nb.train --config PRESET`, the README's line and the recipes, on any number
    of processes that divides 32."""
    import yaml
    monkeypatch.setattr("spot_nb.train.world_size", lambda: world)
    common = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"]
    readme = (Path(__file__).parents[1]/"README.md").read_text()
    launched = [line.split("--config ")[1].split()[0]
                for line in readme.splitlines() if line.startswith("accelerate launch")
                and "spot_nb.train" in line]
    assert launched
    for name in {*presets(), *launched}:
        c = parse_config(["--config", name, *common])
        assert (c.effective_batch_size == c.per_device_train_batch_size * c.gradient_accumulation_steps
                * world == 32), name
    recipe = yaml.safe_load((Path(__file__).parents[1]/"recipes"/"qwen3_8b.yaml").read_text())["train"]
    assert SPoTConfig(**(recipe
                         | dict(output_dir=str(tmp_path), use_cpu=True,
                                bf16=False))).effective_batch_size == 32


def test_batches_that_the_processes_do_not_divide(tmp_path, monkeypatch):
    kw = dict(output_dir=str(tmp_path), use_cpu=True)
    for world, pairs, words in ((8, 30, "24 or 32"), (3, 32, "30 or 33"), (8, 3, "use 8"),
                                (16, 40, "32 or 48")):
        monkeypatch.setattr("spot_nb.train.world_size", lambda: world)
        with pytest.raises(SpotError, match=words): SPoTConfig(**kw, effective_batch_size=pairs)
        with pytest.raises(SpotError, match="pairs a step"):
            SPoTConfig(**kw, effective_batch_size=world * 4, per_device_train_batch_size=2,
                       gradient_accumulation_steps=1)
        assert SPoTConfig(**kw, per_device_train_batch_size=2).effective_batch_size == 2 * world


def quiet(cfg, pairs, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(cfg, pairs=pairs, **kw)


def test_the_same_command_goes_on(student, pairs, tmp_path):
    """Interrupted: on from the checkpoint. Finished: left as it is. Other settings: refused by name. `fresh`:
    from the start."""
    from transformers import TrainerCallback
    kw = dict(per_device_train_batch_size=8, save_strategy="steps", save_steps=1)

    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): quiet(config(student, tmp_path, **kw), pairs, callbacks=[Stop()])
    assert [m["step"] for m in steps(tmp_path)] == [1, 2]
    for other, words in ((dict(loss="dpo"), "loss was spot_bco, now dpo"),
                         (dict(learning_rate=0.5), "learning_rate was 0.01, now 0.5"),
                         (dict(seed=7), "seed was 42, now 7")):
        with pytest.raises(SpotError, match=words): quiet(config(student, tmp_path, **kw, **other), pairs)
    with pytest.raises(SpotError, match="data was"):
        quiet(config(student, tmp_path, reference_cache=str(tmp_path/"r2"), **kw), pairs[1:])
    done = quiet(config(student, tmp_path, **kw), pairs)
    assert [m["step"] for m in steps(tmp_path)] == [1, 2, 3, 4] and done["steps"] == 4
    stamp = (tmp_path/"model.safetensors").stat().st_mtime_ns
    again = quiet(config(student, tmp_path, **kw), pairs)
    assert (again["steps"] == 4 and again["last"]["loss"] == pytest.approx(done["last"]["loss"])
            and (tmp_path/"model.safetensors").stat().st_mtime_ns == stamp)
    with pytest.raises(SpotError, match="fresh"): quiet(config(student, tmp_path, loss="dpo", **kw), pairs)
    fresh = quiet(config(student, tmp_path, loss="dpo", fresh=True, **kw), pairs)
    assert (fresh["steps"] == 4 and "delta" not in steps(tmp_path)[0]
            and json.loads((tmp_path/"spot_run.json").read_text())["settings"]["loss"] == "dpo")


@pytest.mark.parametrize("broken, words",
                         [({"temperature": 0.6}, None), ({"top_p": 0.9, "top_k": 5}, None),
                          ({"num_beams": 1, "num_return_sequences": 3}, "generation_config"),
                          ({"max_new_tokens": -2}, "generation_config")])
def test_a_generation_config_that_cannot_be_saved(student, pairs, tmp_path, broken, words):
    "Mended or refused before the first step."
    from transformers import AutoModelForCausalLM
    import shutil
    shutil.copytree(student, tmp_path/"student")
    (tmp_path/"student"/"generation_config.json").write_text(json.dumps(broken))
    cfg = config(str(tmp_path/"student"), tmp_path/"out", max_steps=1)
    if words:
        with pytest.raises(SpotError, match=words): quiet(cfg, pairs)
        assert not (tmp_path/"out"/"metrics.jsonl").exists()
    else:
        with pytest.warns(UserWarning, match="do_sample"): train(cfg, pairs=pairs)
        assert AutoModelForCausalLM.from_pretrained(tmp_path/"out").generation_config.do_sample is True


def test_a_save_that_would_fail_is_found_before_the_first_step(student, pairs, tmp_path, monkeypatch):
    import shutil
    from collections import namedtuple
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda p: namedtuple("u", "total used free")(1, 1, 1000))
    with pytest.raises(SpotError, match="free, and saving needs"): quiet(config(student, tmp_path/"a"), pairs)
    monkeypatch.setattr(shutil, "disk_usage", real)
    (tmp_path/"file").write_text("")
    with pytest.raises(SpotError, match="cannot be written"):
        quiet(config(student, tmp_path/"file"/"out", reference_cache=str(tmp_path/"r")), pairs)

    def full(*args, **kwargs): raise OSError(28, "No space left on device")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = build(config(student, tmp_path/"c", per_device_train_batch_size=8, save_strategy="steps",
                               save_steps=1), pairs=pairs)
        monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", full)
        with pytest.raises(SpotError, match="No space left on device"): trainer.train()
    assert last_checkpoint(tmp_path/"c") is None


def test_a_run_killed_after_its_last_step_trains_no_further(student, pairs, tmp_path):
    kw = dict(per_device_train_batch_size=4, max_steps=5, save_strategy="steps", save_steps=5)
    whole = run(student, tmp_path/"a", pairs, **kw)       # 5 steps end within an epoch of 8
    again = build(config(student, tmp_path/"a", **kw), pairs=pairs)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 5 and [x["step"] for x in steps(tmp_path/"a")] == [1, 2, 3, 4, 5]
    assert gap(weights(whole), weights(again)) == 0
