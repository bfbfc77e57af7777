"""`spot_bce` against TRL. The notebook of the losses has every value and gradient by hand."""
import pytest
import torch

from spot_nb.losses import spot_bce


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
