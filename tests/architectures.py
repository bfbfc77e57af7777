"""Every causal architecture that the installed transformers can build, in small, against its own eager
forward.

`python tests/architectures.py [--write nbs/data/architectures.json] [NAME ...]` sweeps them, or those named.
The truth is computed here, by `model(input_ids).logits` on one sequence at a time under eager attention;
nothing of `spot_nb` takes part in it, and the small models are not those that `spot_nb.packability` builds
for its own decision."""
import argparse, copy, json, os, re, sys, time, warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

WINDOWED = dict(use_sliding_window=True, sliding_window=8, max_window_layers=0)
STARTS = {                        # settings without which a config of this class cannot be made small
    "FalconH1Config": dict(mamba_n_heads=8, mamba_d_head=16, mamba_d_ssm=128, mamba_n_groups=1),
    "HunYuanDenseV1Config": dict(head_dim=16),
    "HunYuanMoEV1Config": dict(head_dim=16),
    "MinistralConfig": dict(head_dim=16), "NemotronConfig": dict(num_key_value_heads=2, head_dim=16),
    "DeepseekV2Config": dict(num_experts_per_tok=2, moe_intermediate_size=32),
    "Lfm2MoeConfig": dict(layer_types=["conv", "full_attention"]*2, num_hidden_layers=4),
    "Dots1Config": dict(n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2),
    "Gemma4TextConfig": dict(per_layer_config={}),
    "Gemma4UnifiedTextConfig": dict(per_layer_config={})}
LIMIT = 1e-3                      # of the scale of the whole comparison, in float32
WINDOW, VOCAB = 8, 128

_WIDTHS = [(64,
            r"^(hidden_size|d_model|n_embd|dim_model|embedding_size|word_embed_proj_dim|emb_dim"
            r"|attention_hidden_size|lru_width|backbone_hidden_size|ple_embed_dim)$"),
           (64,
            r"(intermediate_size|ffn_dim|ffn_hidden_size|dim_ff|n_inner|mlp_hidden_size"
            r"|feed_forward_proj_dim|intermediate)"),
           (4,
            r"^(num_attention_heads|n_heads?|num_heads|(decoder|encoder)_attention_heads|attention_heads"
            r"|swa_num_attention_heads)$"),
           (16, r"^(head_dim|attention_head_dim|dim_head|swa_head_dim|global_head_dim|kv_channels)$"),
           (16, r"^(q_lora_rank|kv_lora_rank|o_lora_rank|hc_lowrank|gated_norm_rank|laurel_rank)$"),
           (8, r"^(qk_rope_head_dim|qk_nope_head_dim)$"), (16, r"^(qk_head_dim|v_head_dim|swa_v_head_dim)$"),
           (4, r"^(num_experts|n_routed_experts|num_local_experts|moe_num_experts|num_experts_total)$"),
           (2,
            r"^(num_experts_per_tok|num_experts_per_token|moe_k|top_k_experts|moe_topk"
            r"|num_selected_experts|experts_per_token)$"),
           (1, r"^(n_group|topk_group|num_expert_group|n_groups_moe)$"), (2, r"^linear_num_key_heads$"),
           (4, r"^(linear_num_value_heads|linear_num_heads)$"), (16, r"^linear_(key|value)?_?head_dim$"),
           (8, r"^(mamba_n_heads|n_mamba_heads|mamba_num_heads)$"),
           (16, r"^(mamba_d_head|mamba_head_dim|mamba_headdim)$"), (128, r"^mamba_d_ssm$"),
           (8, r"^(mamba_chunk_size|chunk_size)$"), (16, r"^(index_head_dim|indexer_head_dim)$"),
           (4, r"^(index_n_heads|indexer_n_heads)$"), (64, r"^index_topk$"), (8, r"^rotary_dim$"),
           (16, r"^hidden_size_per_layer_input$"),
           (VOCAB,
            r"^(vocab_size|vocab_size_per_layer_input|encoder_hash_byte_group_vocab|unpadded_vocab_size)$"),
           (512, r"^(max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length)$"),
           (WINDOW, r"window|^attention_chunk_size$")]
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_blocks",
           "attention_layers")
_EVERY = ("full_attn_idxs", "attn_layer_offset", "full_attention_interval", "sliding_window_pattern",
          "_sliding_window_pattern", "global_attn_every_n_layers", "no_rope_layer_interval",
          "attn_layer_period")
_KV = ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_global_key_value_heads",
       "n_kv_heads", "indexer_kv_heads", "multi_query_group_num")


def small(config):
    """A copy of `config` with narrow layers, as few of them as show every kind, short windows, and a
    vocabulary of 128."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    keys = [k for k in text.to_dict() if not k.startswith("_")]
    get = lambda k: getattr(text, k, None)
    def put(k, v, on=text):
        try: setattr(on, k, v)
        except Exception: pass                                   # a read-only alias of another key
    total = next((get(k) for k in _DEPTHS if type(get(k)) is int), 2)
    lists = {k: list(get(k)) for k in keys if isinstance(get(k), (list, tuple)) and len(get(k)) == total > 2}
    depth = 2
    for v in lists.values():
        if all(isinstance(x, (str, int)) for x in v) and len(set(v)) < 6:
            depth = max(depth, next(d for d in range(1, total + 1) if set(v[:d]) == set(v)))
    for k in _EVERY:
        if type(get(k)) is int and get(k) < 9: depth = max(depth, get(k) + k.endswith("offset"))
    depth = min(depth, total)
    for k, v in lists.items(): put(k, v[:depth])
    for k in _DEPTHS:
        if type(get(k)) is int: put(k, depth)
    heads = get("num_attention_heads")
    for k in keys:
        v = get(k)
        if type(v) is not int or v <= 0: continue
        size = next((n for n, pattern in _WIDTHS if re.search(pattern, k)), v)
        if size < v: put(k, size)
    for k in _KV:
        if type(get(k)) is int: put(k, 1 if get(k) == 1 else 4 if get(k) == heads else 2)
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, sep_token_id=2, decoder_start_token_id=1,
               forced_eos_token_id=None, forced_bos_token_id=None, image_token_id=120, video_token_id=121,
               audio_token_id=122)
    for part in (config, text):
        for k, v in ids.items():
            if isinstance(getattr(part, k, None), (int, list)): put(k, v, part)
    if type(get("qk_rope_head_dim")) is int and type(get("head_dim")) is int:
        put("head_dim", get("qk_rope_head_dim"))
    rope = get("rope_parameters")
    def fits(d): return {**d, "mrope_section": [4, 2, 2]} if "mrope_section" in d else d
    if isinstance(rope, dict):
        put("rope_parameters", {k: fits(v) if isinstance(v, dict) else v for k, v in fits(rope).items()})
    return config


def build(config, attention: str, state=None):
    """A model in float32 and eval mode, with weights that make every part matter: norms, sinks and biases off
    their starts."""
    import torch
    from transformers import AutoModelForCausalLM
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config),
                                             attn_implementation=attention).float().eval()
    if state is not None: model.load_state_dict(state); return model
    g = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for p in model.parameters():
            p += (0.15 if p.ndim < 2 else 1.3/p.shape[-1]**0.5)*torch.randn(p.shape, generator=g)
    return model


def triples():
    """Pairs `(prompt, chosen, rejected)`: longer than the window, edited early, late, at the first token, and
    at the end."""
    import torch
    g = torch.Generator().manual_seed(5)
    ids = lambda n: torch.randint(5, 110, (n,), generator=g).tolist()
    x, y = ids(21), ids(44)
    return [(x, y[:30] + ids(3) + y[33:], y), (x, y, y[:6] + ids(7)), (x[:13], [7] + y[:18], [9] + ids(33)),
            (ids(5), ids(29), ids(12)), (x, y + ids(1), y + ids(4))]


def weighed(values):
    "A sum of per-token log-probs in which no two neighbours weigh the same."
    import torch
    w = torch.cos(torch.arange(len(values), dtype=torch.float32)*1.7) + 0.3
    return (values.float()*w).sum()


def truth_of(model, flat, dtype=None):
    """Per-token log-probs of each response, and gradients, by the model's own forward on one sequence at a
    time."""
    import torch
    out = []
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        for p, r in flat:
            ids = torch.tensor([p + r])
            z = model(input_ids=ids, use_cache=False).logits[0].float()
            out.append(z[len(p) - 1:-1].log_softmax(-1).gather(1, ids[0, len(p):, None])[:, 0])
    return _with_grads(model, torch.cat(out))


def ours(model, groups, packing, dtype=None):
    import torch
    from spot_nb.logps import response_logps
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        values = response_logps(model, groups, packing=packing, row_tokens=400)
    return _with_grads(model, torch.cat([v for g in values for v in g]))


def _with_grads(model, values):
    import torch
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad(weighed(values), [p for _, p in named], allow_unused=True)
    return values.detach(), torch.cat([(torch.zeros_like(p) if g is None else g).float().flatten()
                                       for (_, p), g in zip(named, grads)])


def gap(a, b) -> float:
    """The larger of two relative errors: of the values against their root mean square, of the gradient
    against its norm."""
    value = (a[0] - b[0]).abs().max()/b[0].pow(2).mean().sqrt()
    return float(max(value, (a[1] - b[1]).norm()/b[1].norm()).nan_to_num(1e9))


def judge(model, groups, packing, truth, bf16_error=None) -> dict:
    """What the library did with one model: `right`, `fell back` (right, with a warning), `refused` (a
    sentence), or WRONG."""
    from spot_nb.packability import packability
    from spot_nb.records import SpotError
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            verdict = packability(model, groups, half=bf16_error is not None, packing=packing)
            error = gap(ours(model, groups, packing and verdict.packing,
                             "bfloat16" if bf16_error is not None else None), truth)
        except SpotError as e: return {"result": "refused", "why": str(e)}
        except Exception as e:
            return {"result": "RAISED", "why": f"{type(e).__name__}: {e}".splitlines()[0][:200]}
    limit = LIMIT if bf16_error is None else max(3*bf16_error, 0.05)
    said = [str(w.message) for w in heard if type(model).__name__ in str(w.message)]
    result = "WRONG" if not error <= limit else "fell back" if said else "right"
    return {"result": result, "error": float(f"{error:.1e}"), "packed": bool(packing and verdict.packing),
            "attention": verdict.attention, **({"why": said[0].partition(": ")[2]} if said else {})}


def check(name: str, everything: bool = True) -> dict:
    """The verdicts on one config class: packed and plain, under each attention that it offers, and packed in
    bfloat16."""
    import torch, transformers
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING as classes
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    start, kind = time.time(), next(k for k in classes if k.__name__ == name.partition(" ")[0])
    cls = classes[kind][0] if isinstance(classes[kind], tuple) else classes[kind]
    row = {"config": name, "model": cls.__name__, "checks": {}}
    try:
        config = small(kind(**STARTS.get(kind.__name__, {}), **(WINDOWED if " " in name else {})))
        with torch.device("meta"): size = sum(p.numel() for p in cls(copy.deepcopy(config)).parameters())
        if size > 1e8:
            return {**row,
                    "not_built":
                    f"made of parts with sizes of their own: {size/1e6:.0f} million parameters when small"}
        eager = build(config, "eager")
        groups = [[(p, c), (p, r)] for p, c, r in triples()]
        flat = [s for g in groups for s in g]
        truth = truth_of(eager, flat)
    except Exception as e: return {**row, "not_built": f"{type(e).__name__}: {e}".splitlines()[0][:160]}
    from spot_nb.packability import choose_attention
    default, state = choose_attention(eager.config), eager.state_dict()
    for asked in dict.fromkeys([default, *(("sdpa", "eager") if everything else ())]):
        for packing in (True, False):
            try: model = build(config, asked, state)
            except Exception as e:
                row["checks"][f"{asked} {'packed' if packing else 'plain'}"] = {"result": "not offered",
                                                                                "why": str(e)[:100]}
                continue
            row["checks"][f"{asked} {'packed' if packing else 'plain'}"] = judge(model, groups, packing,
                                                                                 truth)
    if everything:
        error = gap(truth_of(eager, flat, "bfloat16"), truth)
        model = build(config, default, state)
        row["checks"]["bfloat16 packed"] = {**judge(model, groups, True, truth, error),
                                            "eager_error": float(f"{error:.1e}")}
    return {**row, "default": default, "seconds": round(time.time() - start, 1)}


def names() -> "list[str]":
    "Every config class, and once more with its sliding window on where that is off by default."
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING as classes
    out = []
    for k in classes:
        out.append(k.__name__)
        try: off = k().get_text_config().to_dict().get("use_sliding_window") is False
        except Exception: off = False                            # `check` says why it cannot be built
        if off: out.append(f"{k.__name__} (sliding)")
    return out


def bad(row: dict) -> "list[str]":
    return [f"{row['config']}, {k}: {v['result']} {v.get('error', '')} {v.get('why', '')}"
            for k, v in row["checks"].items() if v["result"] in ("WRONG", "RAISED")]


def rows_of(wanted: "list[str]", workers: int):
    """The verdicts in order. Fresh processes every dozen; one that dies (memory, a crash in a kernel) costs
    its own architecture alone."""
    spawn = __import__("multiprocessing").get_context("spawn")
    for i in range(0, len(wanted), 12 * workers):
        some = wanted[i:i + 12 * workers]
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            futures = [pool.submit(check, n) for n in some]
        for name, future in zip(some, futures):
            if not isinstance(future.exception(), BrokenProcessPool): yield future.result(); continue
            with ProcessPoolExecutor(1, mp_context=spawn) as pool: alone = pool.submit(check, name)
            died = isinstance(alone.exception(), BrokenProcessPool)
            yield ({"config": name, "checks": {"process": {"result": "RAISED", "why": "the process died"}}}
                   if died else alone.result())


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("names", nargs="*")
    p.add_argument("--write", help="keep the verdicts in this file")
    p.add_argument("--workers", type=int, default=2)
    a = p.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    import torch, transformers
    start, rows = time.time(), []
    for row in rows_of(a.names or names(), a.workers):
        rows.append(row)
        print(row["config"],
              row.get("not_built") or "; ".join(f"{k}: {v['result']}" for k, v in row["checks"].items()),
              row.get("seconds", ""), flush=True)
    wrong = [b for r in rows for b in bad(r)]
    if a.write:
        with open(a.write, "w") as f:
            json.dump({"command": "make test-architectures", "transformers": transformers.__version__,
                       "torch": torch.__version__.split("+")[0], "date": time.strftime("%Y-%m-%d"),
                       "rows": [{k: v for k, v in r.items() if k != "seconds"} for r in rows]}, f, indent=1,
                      ensure_ascii=False)
            f.write("\n")
    print(f"{sum('not_built' not in r for r in rows)} of {len(rows)} built, {len(wrong)} wrong, "
          f"{time.time() - start:.0f} s")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__": sys.exit(main())
