"""Each objective against a float64 reference written with numpy, and against TRL."""
import math

import numpy as np
import pytest
import torch

from spot_nb.losses import (OBJECTIVES, RewardShift, dft, dpo, objective, reward_sft, sft, spot_bce, spot_bco,
                            tether)
from spot_nb.records import SpotError

sigma = lambda x: 1 / (1 + np.exp(-x))
C = torch.tensor([-30., -2.5, -0.1, 0., 0.3, 4., 25.], dtype=torch.float64, requires_grad=True)
R = torch.tensor([12., -1.5, 0.2, 0., -6., 3.9, -25.], dtype=torch.float64, requires_grad=True)
c, r = C.detach().numpy(), R.detach().numpy()

CASES = {"reward_sft": (lambda: reward_sft(C), -np.log(sigma(c)), -(1 - sigma(c)), 0 * r),
         "dpo": (lambda: dpo(C, R), -np.log(sigma(c - r)), -(1 - sigma(c - r)), 1 - sigma(c - r)),
         "spot_bce": (lambda: spot_bce(C, R), -np.log(sigma(c)) - np.log(sigma(-r)), -(1 - sigma(c)),
                      sigma(r)),
         "spot_bco": (lambda: spot_bco(C, R, 0.7), -np.log(sigma(c - .7)) - np.log(sigma(.7 - r)),
                      -(1 - sigma(c - .7)), sigma(r - .7))}


@pytest.mark.parametrize("name", list(CASES))
def test_value_and_gradient(name):
    f, value, on_chosen, on_rejected = CASES[name]
    got = f()
    assert got.shape == C.shape and np.allclose(got.detach().numpy(), value, rtol=1e-10)
    gc, gr = torch.autograd.grad(got.sum(), [C, R], allow_unused=True)
    assert np.allclose(gc.numpy(), on_chosen, atol=1e-12)
    assert np.allclose(0 if gr is None else gr.numpy(), on_rejected, atol=1e-12)


def test_token_losses():
    logps = torch.log(torch.tensor([[0.9, 0.5], [0.01, 1.0]], dtype=torch.float64)).requires_grad_()
    assert np.allclose(sft(logps).detach(), -np.log([[0.9, 0.5], [0.01, 1.0]]))
    p = np.array([[0.9, 0.5], [0.01, 1.0]])
    assert np.allclose(dft(logps).detach(), -p * np.log(p))
    assert np.allclose(torch.autograd.grad(dft(logps).sum(), logps)[0], -p)


def test_identities_and_extremes():
    assert torch.equal(spot_bco(C, R, 0.), spot_bce(C, R)) and torch.allclose(spot_bco(C + 1.3, R + 1.3, 1.3),
                                                                              spot_bce(C, R))
    assert (tether(torch.tensor(0.)) == 0.5
            and tether(torch.tensor(10., dtype=torch.float64)).item() == pytest.approx(4.5398e-5, rel=1e-4))
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    for f in (reward_sft(far), dpo(far, -far), spot_bce(far, far), spot_bco(far, far, 3.)):
        assert torch.isfinite(f).all() and torch.isfinite(torch.autograd.grad(f.sum(), far)[0]).all()
    d = torch.tensor(0.5, requires_grad=True)
    assert not spot_bco(torch.zeros(2), torch.zeros(2), d).requires_grad


def test_bce_is_trls_bco_pair(tmp_path):
    "TRL's own DPOTrainer, one batch, against `spot_bce` on rewards from `pair_logps`."
    pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer
    from spot_nb.logps import pair_logps
    from spot_nb.models import load_tokenizer
    tok = load_tokenizer("embedded")
    torch.manual_seed(0)
    make = lambda: LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), hidden_size=16, intermediate_size=16,
                                                num_hidden_layers=1, num_attention_heads=2,
                                                initializer_range=0.3)).eval()
    policy, reference = make(), make()
    rows = [{"prompt": "a b c", "chosen": " yes it is", "rejected": " no it is not"},
            {"prompt": "one", "chosen": " two three", "rejected": " four"}]
    args = DPOConfig(output_dir=str(tmp_path), loss_type=["bco_pair"], beta=0.2, use_cpu=True, bf16=False,
                     report_to="none", per_device_train_batch_size=2, disable_tqdm=True)
    trainer = DPOTrainer(policy, ref_model=reference, args=args, train_dataset=Dataset.from_list(rows),
                         processing_class=tok)
    theirs = trainer.compute_loss(policy, trainer.data_collator([trainer.train_dataset[i] for i in range(2)]))
    triples = [(r["prompt_ids"], r["chosen_ids"], r["rejected_ids"]) for r in trainer.train_dataset]
    with torch.no_grad(): (pc, pr), (rc, rr) = pair_logps(policy, triples), pair_logps(reference, triples)
    assert spot_bce(0.2 * (pc - rc), 0.2 * (pr - rr)).mean().item() == pytest.approx(theirs.item(), rel=1e-5)


def test_reward_shift():
    s = RewardShift(decay=0.5)
    assert s.delta == 0 and s.update(4., -2.) == 0.5 and s.update(0., -5.) == pytest.approx(-1.)
    low = RewardShift(decay=0.5, floor=0.)
    low.update(0., -8.)
    assert low.delta == 0 and low.mean == -2 and RewardShift(decay=1.).update(9., 9.) == 0
    with pytest.raises(SpotError, match="delta_decay"): RewardShift(decay=1.5)


def test_names():
    assert {objective(n).name
            for n in ["SFT", "RFT", "SFT+", "DFT", "Reward-SFT", "DPO", "DPO+SFT", "SPoT-BCE", "SPoT-BCO",
                      "APO-zero", "APO-down", "PSFT", "iw-SFT", "STM", "EAFT", "SFT+KL",
                      "ASFT"]} == set(OBJECTIVES)
    with pytest.raises(SpotError, match="unknown loss"): objective("ppo")
    for o in OBJECTIVES.values(): assert o.tokens or o.rewards
    assert math.isclose(OBJECTIVES["spot_bco"].rewards(torch.tensor(1.), torch.tensor(0.), .5).item(),
                        2 * math.log1p(math.exp(-.5)), rel_tol=1e-6)


def test_token_baselines_equal_float64_formulas():
    "Each against its paper's formula, written with numpy; weights and gates are constants for the gradient."
    import numpy as np
    from spot_nb.losses import Tokens
    rng = np.random.default_rng(0)
    lp, ref, ent = -rng.exponential(1, 60), -rng.exponential(1, 60), rng.uniform(0, math.log(20), 60)
    owner, kl = np.repeat([0, 1, 2], 20), rng.exponential(.1, 60)
    t = Tokens(*(torch.tensor(v) for v in (lp, ref, owner, ent, kl)))
    rho = np.exp(lp - ref)
    weight = np.array([min(np.exp(2 * (lp - ref)[owner == k].mean()), 16) for k in range(3)])[owner]
    expected = {"psft": -np.minimum(rho, 1.2), "iw_sft": -weight * lp,
                "stm": np.where(np.exp(-ref) <= 2.5, -lp, 0), "eaft": -ent / math.log(20) * lp,
                "sft_kl": -lp + .1 * (rho - 1 - np.log(rho)), "asft": -np.exp(lp) * lp + .1 * kl}
    for name, want in expected.items():
        got = OBJECTIVES[name].tokens(t)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-12, atol=1e-14, err_msg=name)
    with torch.no_grad(): assert (OBJECTIVES["sft_kl"].tokens(Tokens(t.ref, t.ref)) == -t.ref).all()


def test_apo_equals_float64_formulas():
    import numpy as np
    c, r = torch.linspace(-6, 6, 50, dtype=torch.float64), torch.linspace(5, -7, 50, dtype=torch.float64)
    sig = lambda x: 1 / (1 + np.exp(-x))
    c_, r_ = c.numpy(), r.numpy()
    np.testing.assert_allclose(OBJECTIVES["apo_zero"].rewards(c, r, 0).numpy(), 1 - sig(c_) + sig(r_),
                               rtol=1e-12)
    np.testing.assert_allclose(OBJECTIVES["apo_down"].rewards(c, r, 0).numpy(), sig(c_) + 1 - sig(c_ - r_),
                               rtol=1e-12)


@pytest.mark.parametrize("chosen, rejected, after, edited", [
    ([1, 2, 9, 4], [1, 2, 3, 4], ([0, 0, 1, 1], [0, 0, 1, 1]), ([0, 0, 1, 0], [0, 0, 1, 0])),  # a replacement
    ([1, 2, 3], [1, 3], ([0, 1, 1], [0, 1]), ([0, 1, 0], [0, 1])),  # inserted: the next token
    ([1, 3], [1, 2, 3], ([0, 1], [0, 1, 1]), ([0, 1], [0, 1, 0])),  # a deletion
    ([1, 2, 3], [1, 2], ([0, 0, 1], [0, 1]), ([0, 0, 1], [0, 1])),  # a new end: the last token
    ([5, 2], [6, 2], ([1, 1], [1, 1]), ([1, 0], [1, 0]))])
def test_token_masks(chosen, rejected, after, edited):
    from spot_nb.losses import token_masks
    assert token_masks(chosen, rejected) == ([True] * len(chosen), [True] * len(rejected))
    want = lambda pair: tuple([bool(x) for x in side] for side in pair)
    assert token_masks(chosen, rejected, "after_edit") == want(after)
    assert token_masks(chosen, rejected, "edited") == want(edited)
    with pytest.raises(SpotError, match="reward_tokens"): token_masks(chosen, rejected, "middle")
