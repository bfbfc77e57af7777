"The plan against the allocator, and every recipe and README command against the code."
import contextlib, functools, io, json, re, shlex, subprocess, sys
from pathlib import Path

import pytest, torch, yaml

from spot_nb.bench.memory import allocator_peak
from spot_nb.logps import pack, packed_logps, register_tree_attention
from spot_nb.plan import (Hardware, Setup, Shape, accelerate_configs, cli, memory_parts, model_config,
                          parse_flags, plan, row_memory, typical_pairs)
from spot_nb.records import SpotError
from spot_nb.train import SPoTConfig, build, parse_config, presets

ROOT = Path(__file__).parents[1]
RECIPES = sorted(p for p in ROOT.glob("recipes/*/*.yaml")
                 if "model_name_or_path" in yaml.safe_load(p.read_text())
                 and "loss" in yaml.safe_load(p.read_text()))


def prose(path):
    "A file's text; of a notebook, what is written between its code."
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb": return text
    return "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")


@functools.cache
def commands():
    """Every command line of the README, the recipes, the tutorials and the notebooks' words that starts with
    spot or accelerate, as (file, words)."""
    files = [ROOT/"README.md", *ROOT.glob("recipes/*/README.md"), *ROOT.glob("recipes/*/*.sbatch"),
             *ROOT.glob("recipes/*/sky.yaml"), *ROOT.glob("recipes/**/*.yaml"),
             *ROOT.glob("nbs/**/*.qmd"), *ROOT.glob("nbs/**/*.ipynb")]
    out = []
    for path in sorted(set(files)):
        if ".ipynb_checkpoints" in path.parts: continue
        for line in prose(path).replace("\\\n", " ").splitlines():
            for found in re.findall(
                r"(?:accelerate launch|spot "
                r"(?:train|run|demo|elicit|rectify|filter|inspect|evaluate|tables|bench|grpo|connect4)) "
                r"-[^`'\n]*|^spot \w+ .*", line.strip()):
                out.append((str(path.relative_to(ROOT)),
                            re.sub(r"\$\(\(.*?\)\)|\$\w+", "8", found.split(" #")[0]).strip()))
    return out


def launched(words):
    """What an `accelerate launch` line starts, after its own flags are checked: (module, flags, config file
    or None)."""
    from accelerate.commands.launch import launch_command_parser
    args = launch_command_parser().parse_args(words[2:])
    assert args.module, words
    return args.training_script, args.training_script_args, args.config_file


def settings_of(flags):
    "The trainer's settings that flags give, wherever this runs."
    flags = [f for f in flags if f != "8"] if "--resume_from_checkpoint" not in flags else flags
    flags = [str(ROOT/f) if f.startswith("recipes/") else f for f in flags]
    return parse_config([*flags, "--use_cpu", "true", "--bf16", "false"])


def test_there_are_commands():
    found = commands()
    assert (len(found) >= 14
            and {f.split("/")[1] for f, _ in found if f.startswith("recipes/")}
            >= {"qwen3-8b", "qwen3-8b-zero", "qwen3-8b-two-nodes", "qwen3-8b-cloud", "qwen3-8b-lora-80gb",
                "qwen3-8b-lora-24gb"})


def test_every_path_that_is_named_exists():
    named = {}
    for path in [ROOT/"README.md", *ROOT.glob("*.md"), *ROOT.glob("recipes/**/*.md"),
                 *ROOT.glob("nbs/**/*.qmd"), *ROOT.glob("nbs/**/*.ipynb")]:
        if ".ipynb_checkpoints" in path.parts: continue
        for p in re.findall(r"(?<![\w/.:-])((?:recipes|nbs|tests|\.ci)/[\w./-]*\w)", prose(path)):
            named.setdefault(p, path.relative_to(ROOT))
    assert len(named) >= 20
    lost = {p: str(f) for p, f in named.items() if not (ROOT/p).exists() and not list(ROOT.glob(p + "*"))}
    assert not lost, lost


@pytest.mark.parametrize("file,line", commands(), ids=lambda v: v[:60])
def test_every_flag_of_a_command_exists(file, line):
    words = shlex.split(line)
    if words[0] == "accelerate":
        module, flags, config = launched(words)
        if config: assert (ROOT/config).is_file(), config
        if module == "spot_nb.cli": words = ["spot", *flags]
        else:
            assert module == "spot_nb.train"
            assert settings_of(flags)
            return
    if words[1] == "train" and "--help" not in line:
        files = [str(ROOT/w) if w.startswith("recipes/") else w for w in words[2:]]
        assert parse_flags(files) if "--plan" in words else settings_of(words[2:])
        return
    from spot_nb.cli import main
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit): main([words[1], "--help"])
    from spot_nb.cli import COMMANDS
    module = ROOT/"spot_nb"/(COMMANDS[words[1]][0].split(":")[0].split(".")[-1] + ".py")
    known = out.getvalue() + module.read_text()  # older spellings are taken, and not shown
    for w in words[2:]:
        name = w.split("=")[0]
        if w.startswith("-"):
            assert re.search(rf"(?<![\w-])(--?)?{re.escape(name.lstrip('-'))}(?![\w-])",
                             known), f"{w} is no option of spot {words[1]} ({file})"
        elif w.startswith("recipes/"): assert (ROOT/w).is_file(), w


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_32_pairs_a_step(monkeypatch, world):
    monkeypatch.setattr("spot_nb.train.world_size", lambda: world)
    names = [str(p) for p in RECIPES] + list(presets())
    launch = [l for file, l in commands() if not file.startswith("nbs/")]       # README and recipes
    lines = ([launched(shlex.split(l))[:2] for l in launch if l.startswith("accelerate")]
             + [("spot_nb.train", shlex.split(l)[2:]) for l in launch if l.startswith("spot train")])
    flags = [["--config", n]
             for n in names] + [f for module, f in lines if module == "spot_nb.train" and "--plan" not in f]
    assert len(flags) >= len(names) + 6
    for f in flags:
        c = settings_of(f)
        assert (c.effective_batch_size == c.per_device_train_batch_size * c.gradient_accumulation_steps
                * world == 32), f


def test_recipes_say_whether_they_were_run_and_are_in_step_with_the_plan():
    for path in ROOT.glob("recipes/*/README.md"):
        text = path.read_text()
        assert "**Not run**" in text or "**Run**" in text, path
        assert "Hardware:" in text and "| fits | yes |" in text and "| fits | no |" not in text, path
    done = subprocess.run([sys.executable, str(ROOT/".ci"/"recipes.py"), "--check"], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr[-500:]


def test_accelerate_configs_load():
    from accelerate.commands.config.config_args import load_config_from_file
    kinds = {name: load_config_from_file(str(path)) for name, path in accelerate_configs().items()}
    assert ({k: c.distributed_type.value for k, c in kinds.items()}
            == {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"})
    assert (kinds["fsdp2"].fsdp_config["fsdp_version"] == 2
            and [kinds[f"zero{k}"].deepspeed_config["zero_stage"] for k in (2, 3)] == [2, 3])
    assert all(c.mixed_precision == "bf16" for c in kinds.values())
    path = subprocess.run([sys.executable, "-m", "spot_nb.plan", "fsdp2"], capture_output=True, text=True)
    assert path.returncode == 0 and Path(path.stdout.strip()).is_file()


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize("lora", [0, 8])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_row_takes_what_the_plan_says(kind, lora, checkpointing):
    from transformers import AutoConfig, AutoModelForCausalLM
    extra = dict(attn_logit_softcapping=None, final_logit_softcapping=None) if kind == "gemma2" else {}
    config = AutoConfig.for_model(kind, hidden_size=96, intermediate_size=200, num_hidden_layers=6,
                                  num_attention_heads=4, num_key_value_heads=2, head_dim=24, vocab_size=2000,
                                  sliding_window=4096, **extra)
    model = AutoModelForCausalLM.from_config(config)
    model.set_attn_implementation(register_tree_attention())
    if lora:
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(r=lora, target_modules="all-linear", task_type="CAUSAL_LM"))
    if checkpointing: model.gradient_checkpointing_enable({"use_reentrant": False})
    trainable = [p for p in model.train().parameters() if p.requires_grad]
    for p in trainable: p.grad = torch.zeros_like(p)
    row = pack([s for g in typical_pairs(40, 300)[:2] for s in [(p, [t % 1900 for t in r]) for p, r in g]])
    packed_logps(model, row).sum().backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU],
                                profile_memory=True) as seen:
        packed_logps(model, row).sum().backward()
    planned = row_memory(config, Shape(lora=lora, checkpointing=checkpointing, device="cpu"), len(row),
                         len(row.targets), row)
    assert planned.pop("trainable") == sum(p.numel() for p in trainable)
    assert sum(planned.values()) == pytest.approx(allocator_peak(seen), rel=0.1)


def test_recorded_errors_are_small():
    rows = __import__("json").loads((ROOT/"nbs"/"data"/"bench"/"memory.json").read_text())["rows"]
    close = [r for r in rows if abs(r["planned_gb"] / r["allocator_gb"] - 1) < 0.15]
    assert len(close) >= 8 and len(rows) - len(close) <= 1
    names = " ".join(r["setting"] for r in close)
    assert all(w in names for w in ("full", "LoRA", "checkpointing", "two processes"))


def test_what_changes_the_plan_and_how():
    config = model_config("Qwen/Qwen3-8B")
    shape = Shape(compute="bfloat16", checkpointing=True)
    total = lambda s, n=4096: sum(memory_parts(config, s, n, n - 96).values())
    full, off = total(Setup("none", 1, shape)), total(Setup("none", 1, Shape(compute="bfloat16")))
    ddp, zero3 = total(Setup("none", 8, shape)), total(Setup("zero3", 8, shape))
    lora = Shape("bfloat16", "bfloat16", True, 16)
    four = Shape("bfloat16", "bfloat16", True, 16, four_bit=True)
    assert off > full and ddp > full > zero3 and total(Setup("none", 1, lora)) < 24e9
    assert total(Setup("none", 1, four)) < total(Setup("none", 1, lora)) - 8e9
    assert total(Setup("none", 1, lora), 8192) > total(Setup("none", 1, lora))


def test_data_decides_the_row(tmp_path):
    from spot_nb.records import write_jsonl
    pairs = [{"id": k, "prompt": f"question {k}", "chosen": "one two three " * 5 * (k + 1),
              "rejected": "one two four " * 5 * (k + 1)} for k in range(40)]
    write_jsonl(tmp_path/"pairs.jsonl", pairs)
    out = plan(SPoTConfig(model_name_or_path="embedded", data_path=str(tmp_path/"pairs.jsonl"),
                          output_dir=str(tmp_path), use_cpu=True, row_tokens=64), None, Hardware(2, 24))
    assert out.pairs == 40 and not any("no data" in a
                                       for a in out.assumptions) and out.tokens > 500 and 0 < out.saved < 0.6
    plain = plan(SPoTConfig(model_name_or_path="embedded", data_path=str(tmp_path/"pairs.jsonl"),
                            output_dir=str(tmp_path), use_cpu=True, packing=False), None, Hardware(2, 24))
    assert plain.saved == 0


def test_refusals(tmp_path, capsys):
    for bad, words in ((["--gpus", "0"], "at least 1"), (["--mfu", "35"], "share"),
                       (["--gpus", "7"], "28 or 35"), (["--sharding", "fsdp1"], "sharding must be"),
                       (["--learning_rat", "1"], "learning_rat"),
                       (["--model_name_or_path", str(tmp_path/"none")], "check the name or path")):
        with pytest.raises(SpotError, match=words): cli([*bad, "--output_dir", str(tmp_path)])
    assert cli(["--plan", "--model_name_or_path", "Qwen/Qwen3-8B", "--output_dir", str(tmp_path)]) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


def test_four_bits_are_refused_where_they_cannot_be(tmp_path, monkeypatch):
    kw = dict(output_dir=str(tmp_path), use_cpu=True, load_in_4bit=True)
    with pytest.raises(SpotError, match="needs use_peft"): SPoTConfig(**kw)
    pairs = [{"id": "1", "prompt": "p", "chosen": "a b", "rejected": "a c"}]
    import importlib.util
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name,
                        *a: None if name == "bitsandbytes" else real(name, *a))
    with pytest.raises(SpotError, match="pip install bitsandbytes"):
        build(SPoTConfig(**kw, use_peft=True, model_name_or_path="embedded"), pairs)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name,
                        *a: object() if name == "bitsandbytes" else real(name, *a))
    if not torch.cuda.is_available():
        with pytest.raises(SpotError, match="needs a GPU"):
            build(SPoTConfig(**kw, use_peft=True, model_name_or_path="embedded"), pairs)
