"""Every baseline trains; δ as in TRL 0.20, rebuilt here from its definition."""
import copy
import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spot_nb.examples import Example
from spot_nb.losses import OBJECTIVES
from spot_nb.train import SPoTConfig, SPoTTrainer


def tiny():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48,
                                        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1))


def pairs(n=8, rejected=True):
    rng = np.random.default_rng(0)
    draw = lambda k: rng.integers(3, 64, k).tolist()
    out = []
    for i in range(n):
        prompt, head = draw(5), draw(4)
        out.append(Example(f"e{i}", prompt, head + draw(3), head + draw(4) if rejected else None))
    return out


def config(folder, **kw):
    return SPoTConfig(output_dir=str(folder), report_to="none", use_cpu=True, save_strategy="no",
                      disable_tqdm=True, max_steps=kw.pop("max_steps", 3),
                      effective_batch_size=kw.pop("effective_batch_size", 4),
                      learning_rate=kw.pop("learning_rate", 1e-2), lr_scheduler_type="constant",
                      warmup_steps=0, reference_cache=str(folder/"ref.safetensors"), **kw)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_each_objective_trains_and_its_first_loss_is_the_formula(name, tmp_path):
    "At the first step policy and reference agree, so each loss has a value by hand."
    model, examples = tiny(), pairs(rejected=OBJECTIVES[name].pairs)
    trainer = SPoTTrainer(model, config(tmp_path, loss=name, beta="0.1"), examples)
    frozen = tiny()
    frozen.load_state_dict(model.state_dict())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trainer.train()
    log = [l for l in trainer.state.log_history if "loss" in l]
    assert len(log) == 3 and all(math.isfinite(l["loss"]) for l in log)
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
    lp, ent = [], []
    with torch.no_grad():
        first = {e.id for e in examples[:]}
        for e in examples:
            z = frozen(input_ids=torch.tensor([e.prompt + e.chosen])).logits[0, len(e.prompt) - 1:-1].double()
            lp.append(torch.log_softmax(z, -1).gather(1, torch.tensor(e.chosen)[:, None])[:, 0].numpy())
            top = torch.softmax(z.topk(20, -1).values, -1)
            ent.append(-(top * top.log()).sum(-1).numpy())
    lp, ent = np.concatenate(lp), np.concatenate(ent)
    ln2 = math.log(2)
    at_start = {"sft": -lp, "rft": -lp, "sft_plus": -lp, "dft": -np.exp(lp) * lp, "psft": -np.ones_like(lp),
                "iw_sft": -lp, "stm": np.where(np.exp(-lp) <= 2.5, -lp, 0.), "eaft": -ent / math.log(20) * lp,
                "sft_kl": -lp, "asft": -np.exp(lp) * lp, "reward_sft": np.array([ln2]),
                "dpo": np.array([ln2]), "dpo_sft": ln2 - lp, "spot_bce": np.array([2 * ln2]),
                "spot_bco": np.array([2 * ln2]), "apo_zero": np.array([1.]), "apo_down": np.array([1.])}[name]
    one_epoch = SPoTTrainer(frozen,
                            config(tmp_path/"whole", loss=name, beta="0.1", max_steps=1,
                                   effective_batch_size=8, learning_rate=0.),
                            pairs(rejected=OBJECTIVES[name].pairs))
    one_epoch.train()
    got = [l for l in one_epoch.state.log_history if "loss" in l][0]["loss"]
    assert got == pytest.approx(float(at_start.mean()), rel=2e-4), first


def test_cumulative_delta_is_trl_020s(tmp_path):
    """bco_pair of TRL 0.20, written from its definition: a running mean of micro-batch means, the current one
    in it, then -logσ(r⁺-δ) - logσ(δ-r⁻)."""
    from spot_nb.logps import pair_logps
    model, examples = tiny(), pairs(12)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p), alpha=.3)
    policy = copy.deepcopy(model)
    trainer = SPoTTrainer(model, config(tmp_path, loss="spot_bco", beta="0.5", delta="cumulative"), examples)
    # rewards that differ from 0
    for e in trainer.examples:
        e.ref = [r + np.float32(0.7) * (k + 1) for k, r in enumerate(e.ref)]
    cuts = [examples[:3], examples[3:5], examples[5:9], examples[9:]]
    mean, count, losses, deltas = 0., 0, [], []
    with torch.no_grad():
        for part in cuts:
            c, r = pair_logps(policy, [(e.prompt, e.chosen, e.rejected) for e in part])
            ref = np.array([[v.sum() for v in e.ref] for e in part])
            rc, rr = .5 * (c.double() - torch.tensor(ref[:, 0])), .5 * (r.double() - torch.tensor(ref[:, 1]))
            count += 1
            mean += (torch.cat([rc, rr]).mean().item() - mean) / count
            deltas.append(mean)
            losses.append((-torch.nn.functional.logsigmoid(rc - mean)
                           - torch.nn.functional.logsigmoid(mean - rr)).sum().item())
    from spot_nb.train import make_rows
    got_d, got_l = [], []
    for part in cuts:
        rows = [(row, True) for row in make_rows(part, 1000, trainer.packing)]
        trainer._count_in(trainer.model, rows)
        got_d.append(trainer.shift.delta)
        n = torch.tensor([1., 1.], dtype=torch.float64)
        got_l.append(sum(trainer.compute_loss(trainer.model, row, num_items_in_batch=n).item()
                         for row, _ in rows))
    np.testing.assert_allclose(got_d, deltas, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got_l, losses, rtol=1e-6 * 10)
