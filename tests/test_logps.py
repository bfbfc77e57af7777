"""Packed log-probabilities and gradients equal the plain ones, on every architecture and every kind
of pair."""
import random

import pytest
import torch
from hypothesis import given, settings, strategies as st

from spot_nb.logps import (TREE, Tree, head_logps, pack, packed_logps, pair_logps,
                           register_tree_attention, tree_mask)

V = 97


def tiny(kind, attention="sdpa"):
    import transformers as t
    torch.manual_seed(0)
    kw = dict(vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, bos_token_id=1,
              eos_token_id=2, initializer_range=0.1)
    mixed = dict(sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2)
    model = {"qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**kw, head_dim=8)),
             "qwen2": lambda:
             t.Qwen2ForCausalLM(t.Qwen2Config(**kw, use_sliding_window=True, sliding_window=8,
                                              max_window_layers=2)),
             "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**kw)),
             "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**kw, sliding_window=8)),
             "gemma": lambda: t.GemmaForCausalLM(t.GemmaConfig(**kw, head_dim=8)),
             "gemma2": lambda:
             t.Gemma2ForCausalLM(t.Gemma2Config(**kw, head_dim=8, query_pre_attn_scalar=8, **mixed)),
             "gemma3": lambda:
             t.Gemma3ForCausalLM(t.Gemma3TextConfig(**kw, head_dim=8, query_pre_attn_scalar=8, **mixed)),
             "granite": lambda: t.GraniteForCausalLM(t.GraniteConfig(**kw, logits_scaling=3.))}[kind]().eval()
    for p in model.parameters():
        if p.ndim == 1: p.data += 0.1 * torch.randn_like(p)
    if attention == TREE: register_tree_attention()
    model.set_attn_implementation(attention)
    return model


def cases(seed=0):
    "Pairs with every place of the first edit that matters."
    rng = random.Random(seed)
    ids = lambda n: [rng.randrange(3, V) for _ in range(n)]
    x, y = ids(12), ids(20)
    return {"no shared prefix": (x, ids(9), ids(15)),
            "insertion after a full prefix": (ids(5), y + ids(6), y), "deletion": (x, y[:9], y),
            "first token": (x, [3] + y[1:], [4] + y[1:]), "last token": (ids(7), y[:-1] + [3], y[:-1] + [4]),
            "middle": (x, y[:8] + ids(3) + y[11:], y), "one token": (ids(1), [5], [6]),
            "same response": (x, y, y)}


def both(model, triples, **kw):
    "Log-probs and gradients, packed and plain, of a loss that weighs every sequence differently."
    out = []
    for packing in (True, False):
        model.zero_grad(set_to_none=True)
        c, r = pair_logps(model, triples, packing=packing, **kw)
        w = torch.linspace(0.5, 1.5, len(triples))
        (c @ w - r @ w.flip(0) * 0.7).backward()
        out.append((torch.cat([c, r]).detach(),
                    {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    return out


def assert_equal(a, b):
    """Values to 1e-5. Gradients to 1e-4 of each parameter's own, or 1e-5 of the whole gradient where that is
    more: a query's gradient may be zero in exact arithmetic, and then only the scale of the whole says how
    large its noise may be."""
    assert ((a[0] - b[0]).abs() / b[0].abs().mean()).max() < 1e-5
    assert a[1].keys() == b[1].keys()
    whole = sum(g.pow(2).sum() for g in b[1].values()) ** 0.5
    for n, g in b[1].items(): assert (a[1][n] - g).norm() <= 1e-4 * g.norm() + 1e-5 * whole, n


@pytest.mark.parametrize("attention", ["sdpa", TREE, "eager"])
@pytest.mark.parametrize("kind",
                         ["qwen3", "llama", "gemma", "gemma3", "gemma2", "qwen2", "mistral", "granite"])
def test_packed_equals_plain(kind, attention):
    model, triples = tiny(kind, attention), list(cases().values())
    for row_tokens in (10, 1000): assert_equal(*both(model, triples, row_tokens=row_tokens))


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma"])
@pytest.mark.parametrize("name", list(cases()))
def test_each_kind_of_pair_alone(kind, name):
    if name == "same response":
        pytest.skip("both log-probs are one number, and a difference of zero has no relative gap")
    assert_equal(*both(tiny(kind), [cases()[name]]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(5, 120), st.sampled_from([1, 4, 128]))
def test_random_pairs(seed, n, row_tokens, small):
    """Random pairs from a tiny alphabet, so that prefixes are shared everywhere, cut into blocks of every
    size."""
    rng = random.Random(seed)
    ids = lambda lo, hi: [rng.randrange(3, 6) for _ in range(rng.randint(lo, hi))]
    triples = [(ids(1, 8), ids(1, 12), ids(1, 12)) for _ in range(n)]
    packed = pack([(p, r) for p, c, j in triples for r in (c, j)])
    tree, mask = Tree(packed, small), tree_mask(packed.last, packed.positions)
    assert sum(tree.sizes) == len(packed)
    q = torch.arange(len(packed))
    dense = mask(0, 0, q[:, None], q[None])
    assert dense.sum(1).eq(packed.positions + 1).all()  # every token sees exactly its own prefix
    for s, size, chain, m in zip(tree.starts, tree.sizes, tree.chains, tree.masks(None)):
        keys = torch.cat([q[tree.starts[c]:tree.starts[c] + tree.sizes[c]] for c in chain] + [q[s:s + size]])
        assert (m.sum() if m is not None
                else size * (size + 1) // 2) == dense[s:s + size].sum() == dense[s:s + size][:, keys].sum()
    assert_equal(*both(_MODEL, triples, row_tokens=row_tokens))


_MODEL = tiny("llama", TREE)


def test_flex_block_mask_is_the_dense_mask():
    """The block mask that CUDA uses comes from the same function; it is compared cell by cell here, without a
    GPU."""
    from torch.nn.attention.flex_attention import create_mask
    sequences = [(p, r) for p, c, j in cases().values() for r in (c, j)]
    packed = pack(sequences, multiple=128)
    assert len(packed) % 128 == 0
    for window in (None, 8):
        fn, q = tree_mask(packed.last, packed.positions, window), torch.arange(len(packed))
        assert torch.equal(create_mask(fn, 1, 1, len(packed), len(packed), device="cpu")[0, 0],
                           fn(0, 0, q[:, None], q[None]))
    with torch.no_grad():
        plain, padded = packed_logps(_MODEL, pack(sequences)), packed_logps(_MODEL, packed)
    assert torch.allclose(plain, padded, atol=1e-5)


def test_head_in_chunks_with_bias_scale_and_cap():
    from types import SimpleNamespace
    torch.manual_seed(0)
    h, t = torch.randn(23, 8, dtype=torch.float32, requires_grad=True), torch.randint(0, 31, (23,))
    linear, w = torch.nn.Linear(8, 31), torch.randn(23)

    class Wrapped(torch.nn.Module):
        def __init__(self): super().__init__(); self.inner = linear
        def forward(self, x): return self.inner(x)
    for cap, scale in ((None, 1.), (3., 1.), (None, 0.5)):
        cfg = SimpleNamespace(final_logit_softcapping=cap, logit_scale=scale)
        cfg.get_text_config = lambda c=cfg: c
        z = linear(h) * scale
        if cap: z = torch.tanh(z / cap) * cap
        want = torch.log_softmax(z, -1).gather(1, t[:, None])[:, 0]
        expected = torch.autograd.grad((want * w).sum(), [h, linear.weight, linear.bias])
        for head in (linear, Wrapped()):
            got = head_logps(head, h, t, cfg, chunk=5)
            assert torch.allclose(got, want, atol=1e-5)
            for a, b in zip(torch.autograd.grad((got * w).sum(), [h, linear.weight, linear.bias]), expected):
                assert torch.allclose(a, b, atol=1e-5)


def test_lora_goes_through():
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(tiny("qwen3", TREE),
                           LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    assert_equal(*both(model, list(cases().values())))


def test_embedded_student_and_merged_tokens():
    """Real text on the embedded student; the edit `13` to `130` changes a digit inside the number's tokens,
    `hello` to `help` a merged word."""
    from spot_nb.models import encode_prompt, encode_response, load_model, load_tokenizer
    tok = load_tokenizer("embedded")
    model = load_model("embedded", attn_implementation=register_tree_attention())
    e = lambda t: encode_response(tok, t)
    p = encode_prompt(tok, "Compute 4 + 9.")
    triples = [(p, e("4 + 9 = 13, hello"), e("4 + 9 = 130, help"))]
    assert_equal(*both(model, triples))
