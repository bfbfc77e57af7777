"""Sharded training on gloo processes against one process: losses, δ, evaluation and final weights; save,
resume; deaths."""
import json, os, random, signal, socket, subprocess, sys, time
from pathlib import Path

import pytest
import torch

from conftest import small_tokenizer
from spot_nb.records import read_jsonl, write_jsonl

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
        out.append({"id": f"p{i}", "prompt": f"Question {i}: {text(4)}", "chosen": f"{head} yes {text(5)}",
                    "rejected": f"{head} no {text(30 if long else 4)}"})
    return out


@pytest.fixture(scope="session")
def students(tmp_path_factory):
    "Folders with a tiny random Llama (untied) and Qwen3 (tied embeddings)."
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
    tok, out = small_tokenizer(" ".join(map(str, p.values())) for p in make_pairs(200, 5)), {}
    size = dict(vocab_size=len(tok), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512, bos_token_id=1,
                eos_token_id=2, pad_token_id=2, initializer_range=0.05)
    for name, cls, cfg in (("untied", LlamaForCausalLM, LlamaConfig(**size)),
                           ("tied", Qwen3ForCausalLM,
                            Qwen3Config(**size, head_dim=8, tie_word_embeddings=True))):
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
    """What a worker is told: 10 optimizer steps of 6 pairs over 31 pairs (2 epochs of 5 and a short sixth),
    rows of 100 tokens."""
    top = {k: kw.pop(k) for k in ("fsdp", "pids", "slow", "resume", "save", "poison", "env") if k in kw}
    base = dict(model_name_or_path=students[student], output_dir=str(out), use_cpu=True,
                effective_batch_size=6, max_steps=10, learning_rate=1e-3, beta=1., warmup_steps=0,
                lr_scheduler_type="constant", save_strategy="no", disable_tqdm=True, row_tokens=100,
                eval_strategy="steps", eval_steps=5, eval_data_path="held out", adam_epsilon=1e-3,
                reference_cache=str(Path(out)/"ref.safetensors"), ddp_timeout=60)
    return dict(config=base | kw, pairs=str(data/"pairs.jsonl"), eval=str(data/"eval.jsonl"), **top)


def launch(world, told, wait=True, timeout=900):
    "Start `world` processes for a list of trainings; returns the Popen, finished if `wait`."
    for t in told: Path(t["config"]["output_dir"]).mkdir(parents=True, exist_ok=True)
    out = Path(told[0]["config"]["output_dir"])
    (out/"specs.json").write_text(json.dumps(told))
    env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "SPOT_PROGRESS": "0",
                        "PYTHONPATH": str(HERE.parent)}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"): env.pop(name, None)
    cmd = [sys.executable, str(HERE/"sharded.py")]
    if world > 1:
        with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
        cmd = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={world}",
               "--master_addr=127.0.0.1", f"--master_port={port}", str(HERE/"sharded.py")]
    with open(out/"log.txt", "w") as log:
        p = subprocess.Popen([*cmd, str(out/"specs.json")], env=env, stdout=log, stderr=subprocess.STDOUT,
                             start_new_session=True)
    if not wait: return p
    try: p.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        raise AssertionError(f"hangs: {(out/'log.txt').read_text()[-3000:]}") from None
    return p


def finished(world, told, timeout=900):
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
    """Losses, δ, rewards, gradient norms, held-out figures and final weights within `tolerance` of each
    other's scale."""
    one, two = figures(a), figures(b)
    assert [m["step"] for m in one] == [m["step"] for m in two] and any("eval_loss" in m for m in one)
    for k in ("loss", "delta", "rewards/chosen", "rewards/rejected", "kl", "grad_norm", "eval_loss",
              "eval_rewards/margin"):
        x, y = (torch.tensor([m[k] for m in log if k in m], dtype=torch.float64) for log in (one, two))
        assert len(x) == len(y) and (len(x) or k == "delta")
        if len(x):
            assert (x - y).abs().max() <= tolerance * max(1, x.abs().max()), (k, (x - y).abs().max().item())
    u, v = weights(a), weights(b)
    assert u.keys() == v.keys()
    scale = max(t.abs().max().item() for t in u.values())
    assert max((u[k].float() - v[k].float()).abs().max().item() for k in u) <= tolerance * scale
    return True


SHARDED, FULL = "SHARDED_STATE_DICT", "FULL_STATE_DICT"
KINDS = {"full untied": ("untied", {}), "full tied": ("tied", {}),
         "lora untied": ("untied", dict(use_peft=True, lora_r=4)),
         "lora tied": ("tied", dict(use_peft=True, lora_r=4))}
CASES = [(2, None, "full untied"), (2, SHARDED, "full untied"), (2, FULL, "full tied"),
         (2, SHARDED, "lora tied"), (2, SHARDED, "lora untied"), (3, None, "lora tied"),
         (3, SHARDED, "full tied"), (3, SHARDED, "full untied")]


def extra(students, data, root, world):
    "Trainings beside CASES, by name: saving and going on, a NaN on one process, caches of their own, bf16."
    one = lambda name, **kw: spec(students, data, root/name,
                                  **(dict(save_strategy="steps", save_steps=4, max_steps=10) | kw))
    found = {}
    if world == 2:
        for kind, kw in (("ddp", {}), ("fsdp", dict(fsdp=SHARDED)), ("fsdp full", dict(fsdp=FULL)),
                         ("lora", dict(fsdp=SHARDED, use_peft=True, lora_r=4))):
            found[kind] = one(kind, **kw)
            found[f"{kind} on"] = one(f"{kind} on", resume=str(root/kind/"checkpoint-4"), **kw)
        found["nan"] = one("nan", fsdp=SHARDED, poison=3, save_strategy="no") | dict(fails=True)
        found["nan ddp"] = one("nan ddp", poison=3, save_strategy="no") | dict(fails=True)
        for k in (1, 2):
            found[f"caches {k}"] = one(f"caches {k}", max_steps=2, save_strategy="no", reference_cache=None,
                                       env={"SPOT_HOME": f"{root}/home-RANK"})
        found["bf16"] = one("bf16", fsdp=SHARDED, bf16=True, save_strategy="no")
        found["other"] = one("other", resume=str(root/"fsdp"/"checkpoint-4")) | dict(fails=True)
    if world == 3:
        for kind, kw in (("ddp", {}), ("fsdp", dict(fsdp=SHARDED))):
            found[f"{kind} on 3"] = one(f"{kind} on 3", resume=str(root/kind/"checkpoint-4"), **kw)
    return found


@pytest.fixture(scope="session")
def runs(students, data, tmp_path_factory):
    """All of CASES, the runs on one process that they are measured by, and `extra`: one launch for each
    number of processes."""
    root, out = tmp_path_factory.mktemp("runs"), {}
    for world in (1, 2, 3):
        told = []
        for w, fsdp, kind in [(1, None, k) for k in KINDS] + CASES:
            if w != world: continue
            student, kw = KINDS[kind]
            out[w, fsdp, kind] = root/f"{w}-{fsdp}-{kind}".replace(" ", "-")
            told.append(spec(students, data, out[w, fsdp, kind], student, fsdp=fsdp, **kw))
        for name, one in extra(students, data, root, world).items():
            out[name] = root/name
            told.append(one)
        finished(world, told)
    return out


@pytest.mark.parametrize("world, fsdp, kind", CASES, ids=lambda v: str(v))
def test_like_one_process(runs, world, fsdp, kind):
    """Ten steps over uneven rows, the last of each epoch with one pair; evaluation during training; the saved
    model."""
    out = runs[world, fsdp, kind]
    said = [json.loads((out/f"rank-{r}.json").read_text()) for r in range(world)]
    assert {s["sharding"]
            for s in said} == {"fsdp2" if fsdp else "none"} and ("DTensor" in said[0]["kinds"]) == bool(fsdp)
    assert same(runs[1, None, kind], out)
    assert len({s["delta"] for s in said}) == 1 and said[0]["delta"] != 0


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp full", "lora"])
def test_going_on_is_the_same_run(runs, kind):
    "From the checkpoint of step 4: the same six steps and the same model, to the bit."
    whole, rest = figures(runs[kind]), figures(runs[f"{kind} on"])
    assert [m["step"] for m in rest if "loss" in m] == list(range(5, 11))
    for x, y in zip([m for m in whole if m["step"] > 4], rest, strict=True):
        for k in ("loss", "delta", "rewards/rejected", "grad_norm", "eval_loss"):
            assert x.get(k) == y.get(k), (k, x["step"])
    u, v = weights(runs[kind]), weights(runs[f"{kind} on"])
    assert all(torch.equal(u[k], v[k]) for k in u)
    state = json.loads((runs[kind]/"checkpoint-8"/"spot_state.json").read_text())
    assert state["processes"] == 2 and state["step"] == 8


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_going_on_with_another_number_of_processes(runs, kind):
    whole, rest = figures(runs[kind]), figures(runs[f"{kind} on 3"])
    x, y = ([m["loss"] for m in log if m["step"] > 4 and "loss" in m] for log in (whole, rest))
    assert len(y) == 6 and y == pytest.approx(x, abs=1e-5)
    u, v = weights(runs[kind]), weights(runs[f"{kind} on 3"])
    assert max((u[k] - v[k]).abs().max().item() for k in u) < 1e-5 * max(t.abs().max().item()
                                                                         for t in u.values())


def test_another_sharding_is_refused(runs):
    assert "was made with sharding fsdp2, this run has none" in (runs["other"]/"error-0").read_text()


@pytest.mark.parametrize("kind", ["nan", "nan ddp"])
def test_a_nan_on_one_process_stops_all(runs, kind):
    said = [(runs[kind]/f"error-{r}").read_text() for r in range(2)]
    assert said[0] == said[1] and "not finite at step" in said[0] and "pairs p3" in said[0]


def test_processes_with_caches_of_their_own(runs):
    "The second run finds process 0's cache alone, and trains the same."
    homes = [runs["caches 1"].parent/f"home-{r}"/"reference" for r in range(2)]
    assert list(homes[0].glob("*.safetensors")) and not list(homes[1].glob("*"))
    assert same(runs["caches 1"], runs["caches 2"], 0)


def test_bf16_keeps_log_probs_and_gradients_in_float32(runs):
    one, two = (([m["loss"] for m in figures(runs[k]) if "loss" in m])
                for k in ((1, None, "full untied"), "bf16"))
    assert two[:4] == pytest.approx(one[:4], rel=0.1)
    values = [m["kl"] for m in figures(runs["bf16"]) if "loss" in m]
    assert any(v != torch.tensor(v).bfloat16().item() for v in values)
    assert all(t.dtype == torch.bfloat16 for t in weights(runs["bf16"]).values())


def zero(stage):
    "A DeepSpeed config as people write it; the batch is left to the trainer."
    return {"zero_optimization": {"stage": stage}, "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto", "zero_force_ds_cpu_optimizer": False}


@pytest.fixture(scope="session")
def zeros(students, data, tmp_path_factory):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    root, told = tmp_path_factory.mktemp("zero"), []
    for stage in (2, 3):
        kw = dict(deepspeed=zero(stage), use_cpu=False, save_strategy="steps", save_steps=4)
        told.append(spec(students, data, root/f"{stage}", **kw))
        told.append(spec(students, data, root/f"{stage} on", resume=str(root/f"{stage}"/"checkpoint-4"),
                         **kw))
    finished(2, told)
    return root


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_like_one_process(zeros, runs, stage):
    """One optimizer step a step, whatever the rows; clipping although the DeepSpeed config has none; save,
    resume."""
    assert json.loads((zeros/str(stage)/"rank-1.json").read_text())["sharding"] == f"zero{stage}"
    assert same(runs[1, None, "full untied"], zeros/str(stage))
    whole, rest = figures(zeros/str(stage)), figures(zeros/f"{stage} on")
    assert ([m["loss"] for m in rest if "loss" in m]
            == pytest.approx([m["loss"] for m in whole if m["step"] > 4 and "loss" in m], abs=1e-6))
    u, v = weights(zeros/str(stage)), weights(zeros/f"{stage} on")
    assert max((u[k] - v[k]).abs().max().item() for k in u) < 1e-6


def kill_and_resume(students, data, tmp_path, alone, moments, seed):
    """`kill -9` of one of two processes at random moments of a run; then to the end, and the uninterrupted
    run's losses."""
    rng, out = random.Random(seed), tmp_path/"run"
    (tmp_path/"pids").mkdir()
    # resume=True goes on from the last whole checkpoint, or starts over where there is none
    told = spec(students, data, out, fsdp=SHARDED, save_strategy="steps", save_steps=1, save_total_limit=2,
                resume=True, pids=str(tmp_path/"pids"), slow=0.2)
    kills = 0
    for _ in range(moments):
        for f in (tmp_path/"pids").iterdir(): f.unlink()
        p = launch(2, [told], wait=False)
        until = time.time() + 120
        while time.time() < until and len(list((tmp_path/"pids").iterdir())) < 2 and p.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 9))
        victim = (tmp_path/"pids"/str(rng.randrange(2)))
        if p.poll() is None and victim.is_file():
            try: os.kill(int(victim.read_text()), signal.SIGKILL); kills += 1
            except ProcessLookupError: pass
        try: p.wait(100)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            raise AssertionError("the other process hangs after one was killed") from None
    finished(2, [told])
    assert kills
    whole = {m["step"]: m["loss"] for m in figures(alone) if "loss" in m}
    got = {m["step"]: m["loss"] for m in figures(out) if "loss" in m}
    assert got.keys() == whole.keys() and all(got[k] == pytest.approx(whole[k], abs=1e-5) for k in whole)
    u, v = weights(alone), weights(out)
    assert max((u[k] - v[k]).abs().max().item() for k in u) < 1e-5 * max(t.abs().max().item()
                                                                         for t in u.values())


def test_kill_one_process_twice(students, data, tmp_path, runs):
    kill_and_resume(students, data, tmp_path, runs[1, None, "full untied"], 2, 0)


@pytest.mark.slow
def test_kill_one_process_at_ten_moments(students, data, tmp_path, runs):
    kill_and_resume(students, data, tmp_path, runs[1, None, "full untied"], 10, 1)
