"""Sharded training on gloo processes against one process: losses, δ, evaluation and final weights; save, resume; deaths."""
import json, os, random, signal, socket, subprocess, sys, time, warnings
from pathlib import Path

import pytest
import torch

from spot_nb.models import load_tokenizer
from spot_nb.records import SpotError, read_jsonl, write_jsonl
from spot_nb.saving import last_checkpoint

HERE = Path(__file__).parent
WORDS = "one two three four five six seven eight nine ten plus minus is answer so then".split()


def make_pairs(n, seed):
    "Pairs of very different length, so that ranks get different numbers of rows."
    rng = random.Random(seed)
    text = lambda k: " ".join(rng.choice(WORDS) for _ in range(k))
    out = []
    for i in range(n):
        long = rng.random() < 0.25
        head = text(rng.randint(20, 60) if long else rng.randint(0, 6))
        out.append({"id": f"p{i}", "prompt": f"Question {i}: {text(4)}", "chosen": f"{head} yes {text(5)}", "rejected": f"{head} no {text(30 if long else 4)}"})
    return out


@pytest.fixture(scope="session")
def students(tmp_path_factory):
    "Folders with a tiny random Llama (untied) and Qwen3 (tied embeddings)."
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
    tok, out = load_tokenizer("embedded"), {}
    size = dict(vocab_size=len(tok), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=2, initializer_range=0.05)
    for name, cls, cfg in (("untied", LlamaForCausalLM, LlamaConfig(**size)), ("tied", Qwen3ForCausalLM, Qwen3Config(**size, head_dim=8, tie_word_embeddings=True))):
        path = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        cls(cfg).save_pretrained(path)
        tok.save_pretrained(path)
        out[name] = str(path)
    return out


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    "31 pairs, so that the last step of an epoch is a short one, and 7 held out."
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder/"pairs.jsonl", make_pairs(31, 0))
    write_jsonl(folder/"eval.jsonl", make_pairs(7, 1))
    return folder


def spec(students, data, out, student="untied", **kw):
    "What a worker is told: 10 optimizer steps of 6 pairs over 31 pairs (2 epochs of 5 and a short sixth), rows of 100 tokens."
    top = {k: kw.pop(k) for k in ("fsdp", "pids", "slow", "resume", "save", "poison", "env") if k in kw}
    base = dict(model_name_or_path=students[student], output_dir=str(out), use_cpu=True, effective_batch_size=6, max_steps=10, learning_rate=1e-3, beta=1., warmup_steps=0,
                lr_scheduler_type="constant", save_strategy="no", disable_tqdm=True, row_tokens=100, eval_strategy="steps", eval_steps=5, eval_data_path="held out", adam_epsilon=1e-3,
                reference_cache=str(Path(out)/"ref.safetensors"), ddp_timeout=60)
    return dict(config=base | kw, pairs=str(data/"pairs.jsonl"), eval=str(data/"eval.jsonl"), **top)


def launch(world, told, wait=True, timeout=300):
    "Start `world` processes for a list of trainings; returns the Popen, finished if `wait`."
    for t in told: Path(t["config"]["output_dir"]).mkdir(parents=True, exist_ok=True)
    out = Path(told[0]["config"]["output_dir"])
    (out/"specs.json").write_text(json.dumps(told))
    env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "SPOT_PROGRESS": "0", "PYTHONPATH": str(HERE.parent)}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"): env.pop(name, None)
    cmd = [sys.executable, str(HERE/"sharded.py")]
    if world > 1:
        with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
        cmd = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={world}", "--master_addr=127.0.0.1", f"--master_port={port}", str(HERE/"sharded.py")]
    with open(out/"log.txt", "w") as log: p = subprocess.Popen([*cmd, str(out/"specs.json")], env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    if not wait: return p
    try: p.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        raise AssertionError(f"hangs: {(out/'log.txt').read_text()[-3000:]}") from None
    return p


def finished(world, told, timeout=300):
    p = launch(world, told, timeout=timeout)
    assert p.returncode == 0, (Path(told[0]["config"]["output_dir"])/"log.txt").read_text()[-4000:]


def figures(out): return [m for m in read_jsonl(Path(out)/"metrics.jsonl")]


def weights(out):
    from safetensors.torch import load_file
    found = sorted(Path(out).glob("*.safetensors"))
    tensors = {k: v for f in found if f.name != "ref.safetensors" for k, v in load_file(str(f)).items()}
    assert tensors, "no weights were saved"
    return tensors


def same(a, b, tolerance=1e-5):
    "Losses, δ, rewards, gradient norms, held-out figures and final weights within `tolerance` of each other's scale."
    one, two = figures(a), figures(b)
    assert [m["step"] for m in one] == [m["step"] for m in two] and any("eval_loss" in m for m in one)
    for k in ("loss", "delta", "rewards/chosen", "rewards/rejected", "kl", "grad_norm", "eval_loss", "eval_rewards/margin"):
        x, y = (torch.tensor([m[k] for m in log if k in m], dtype=torch.float64) for log in (one, two))
        assert len(x) == len(y) and (len(x) or k == "delta")
        if len(x): assert (x - y).abs().max() <= tolerance * max(1, x.abs().max()), (k, (x - y).abs().max().item())
    u, v = weights(a), weights(b)
    assert u.keys() == v.keys()
    scale = max(t.abs().max().item() for t in u.values())
    assert max((u[k].float() - v[k].float()).abs().max().item() for k in u) <= tolerance * scale
    return True


SHARDED, FULL = "SHARDED_STATE_DICT", "FULL_STATE_DICT"
KINDS = {"full untied": ("untied", {}), "full tied": ("tied", {}), "lora untied": ("untied", dict(use_peft=True, lora_r=4)), "lora tied": ("tied", dict(use_peft=True, lora_r=4))}
CASES = [(2, None, "full untied"), (2, SHARDED, "full untied"), (2, FULL, "full tied"), (2, SHARDED, "lora tied"), (2, SHARDED, "lora untied"),
         (3, None, "lora tied"), (3, SHARDED, "full tied"), (3, SHARDED, "full untied")]


@pytest.fixture(scope="session")
def runs(students, data, tmp_path_factory):
    "All of CASES and the runs on one process that they are measured by: one launch for each number of processes."
    root, out = tmp_path_factory.mktemp("runs"), {}
    for world in (1, 2, 3):
        told = []
        for w, fsdp, kind in [(1, None, k) for k in KINDS] + CASES:
            if w != world: continue
            student, kw = KINDS[kind]
            out[w, fsdp, kind] = root/f"{w}-{fsdp}-{kind}".replace(" ", "-")
            told.append(spec(students, data, out[w, fsdp, kind], student, fsdp=fsdp, **kw))
        finished(world, told)
    return out


@pytest.mark.parametrize("world, fsdp, kind", CASES, ids=lambda v: str(v))
def test_like_one_process(runs, world, fsdp, kind):
    "Ten steps over uneven rows, the last of each epoch with one pair; evaluation during training; the saved model."
    out = runs[world, fsdp, kind]
    said = [json.loads((out/f"rank-{r}.json").read_text()) for r in range(world)]
    assert {s["sharding"] for s in said} == {"fsdp2" if fsdp else "none"} and ("DTensor" in said[0]["kinds"]) == bool(fsdp)
    assert same(runs[1, None, kind], out)
    assert len({s["delta"] for s in said}) == 1 and said[0]["delta"] != 0
