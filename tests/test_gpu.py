"Where there is a CUDA device: `make test-gpu`. The last test prints a block of figures for nbs/data/bench."
import json, time

import pytest, torch

pytestmark = [pytest.mark.gpu,
              pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
FIGURES = {}


def rows(n):
    from spot_nb.logps import pack
    from spot_nb.plan import typical_pairs
    for g in typical_pairs(n, 900, seed=3): yield pack([(p, [t % 1900 for t in r]) for p, r in g], 128)


def model(kind, dtype=torch.float32):
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=2000)
    lm = LlamaForCausalLM(config).to("cuda", dtype)
    lm.set_attn_implementation(kind)
    return lm


def values(lm, row):
    from spot_nb.logps import packed_logps
    lm.zero_grad()
    out = packed_logps(lm, row)
    out.mean().backward()
    return out.detach().float(), torch.cat([p.grad.flatten().float() for p in lm.parameters()])


@pytest.mark.parametrize("dtype,limit", [(torch.float32, 5e-3), (torch.bfloat16, 5e-2)])
def test_flex_attention_is_eager_attention_at_many_lengths(dtype, limit):
    from torch._dynamo.utils import counters
    flex, eager = model("flex_attention", dtype), model("eager", dtype)
    counters.clear()
    lengths = set()
    for row in rows(12):
        lengths.add(len(row))
        (a, ga), (b, gb) = values(flex, row), values(eager, row)
        assert (a - b).norm() < limit * b.norm() and (ga - gb).norm() < limit * gb.norm()
    graphs = counters["stats"]["unique_graphs"]
    FIGURES[f"flex {dtype}"] = {"lengths": len(lengths), "graphs": graphs}
    assert len(lengths) >= 4 and graphs <= 4, "a length must not be a compilation"


def test_training_against_trl_and_the_plan():
    from spot_nb.bench.train import run_contender
    for side in ("packed", "plain", "trl"):
        FIGURES[side] = {k: run_contender(side, pairs=4, steps=4)[k] for k in ("pairs_per_second", "peak_gb")}
    assert FIGURES["packed"]["pairs_per_second"] > 0


def test_peak_memory_is_what_the_plan_says():
    from spot_nb.logps import causal_lm, packed_logps
    from spot_nb.plan import Shape, row_memory
    lm = model("flex_attention")
    for p in lm.parameters(): p.grad = torch.zeros_like(p)
    row = max(rows(12), key=len)
    packed_logps(lm, row).sum().backward()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated(), time.perf_counter()
    packed_logps(lm, row).sum().backward()
    torch.cuda.synchronize()
    seconds, peak = time.perf_counter() - start, torch.cuda.max_memory_allocated() - before
    planned = row_memory(causal_lm(lm).config, Shape(), len(row), len(row.targets))
    planned.pop("trainable")
    flops = 6 * sum(p.numel() for p in lm.parameters()) * len(row)
    FIGURES["row"] = {"tokens": len(row), "planned": sum(planned.values()), "measured": peak,
                      "tflops": flops / seconds / 1e12, "mfu_of_989": flops / seconds / 989e12}
    assert abs(sum(planned.values()) / peak - 1) < 0.25


def test_print_the_figures():
    from spot_nb.models import machine
    print("\n" + json.dumps({"command": "make test-gpu", "machine": machine(), **FIGURES}, indent=1))
    assert FIGURES
