"""One seed, one run; the reference is used again under LoRA; adapters as a model; settings refused before
training."""
import warnings

import pytest
import torch
from test_conversations import config as _config, tokenizer

from spot_nb.models import adapter_of, load_model, load_tokenizer
from spot_nb.records import SpotError
from spot_nb.reference import weights_digest
from spot_nb.train import SPoTConfig, build, parse_config


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM
    path, tok = tmp_path_factory.mktemp("student"), tokenizer()
    torch.manual_seed(0)
    shape = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                 max_position_embeddings=256)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), attention_dropout=0.2, initializer_range=0.2,
                                 **shape)).save_pretrained(path)
    tok.save_pretrained(path)
    return str(path)


PAIRS = [dict(id=str(k), prompt=f"{k} + 1?", chosen=f"it is {k + 1}", rejected=f"it is {k}")
         for k in range(8)]


def trainer(student, out, **more):
    settings = dict(model_name_or_path=student, output_dir=str(out), use_cpu=True, effective_batch_size=4,
                    learning_rate=1e-2, num_train_epochs=2, warmup_steps=0, save_strategy="no",
                    disable_tqdm=True, beta=1., reference_cache=str(out/"reference"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(SPoTConfig(**settings | more), PAIRS)


def trained(student, out, **more):
    t = trainer(student, out, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t.train()
    return {k: v.clone() for k, v in t.model.state_dict().items()}


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("more",
                         [{}, dict(use_peft=True, lora_r=2), dict(use_peft=True, lora_r=2, lora_dropout=0.3),
                          dict(loss="sft", packing=False)])
def test_the_seed_settles_the_run(student, tmp_path, more):
    torch.manual_seed(11)  # whatever was drawn before does not matter
    one = trained(student, tmp_path/"a", seed=5, **more)
    torch.manual_seed(99); torch.rand(7)
    assert same(one, trained(student, tmp_path/"b", seed=5, **more))
    assert not same(one, trained(student, tmp_path/"c", seed=6, **more))


def test_a_second_lora_run_takes_the_first_ones_reference(student, tmp_path, monkeypatch):
    import spot_nb.train as T
    trainer(student, tmp_path, use_peft=True, lora_r=2, seed=1)
    def never(*args, **kwargs): raise AssertionError("computed again")
    monkeypatch.setattr(T, "response_logps", never)
    trainer(student, tmp_path, use_peft=True, lora_r=4, seed=2)
    with pytest.raises(SpotError, match="other settings"): trainer(student, tmp_path, packing=False)


def test_adapters_are_merged_into_their_base(student, tmp_path):
    t = trainer(student, tmp_path/"run", use_peft=True, lora_r=2, num_train_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t.train()
    t.save_model()
    folder = tmp_path/"run"
    assert adapter_of(folder) and not adapter_of(student)
    merged, ids = load_model(folder), torch.tensor([[5, 6, 7, 8]])
    assert (not hasattr(merged, "peft_config")
            and load_tokenizer(folder).chat_template == t.processing_class.chat_template)
    t.model.eval()
    with torch.no_grad(): mine, theirs = merged(ids).logits, t.model(input_ids=ids).logits
    assert ((mine - theirs).abs().max() < 1e-4*theirs.abs().max()
            and weights_digest(merged) != weights_digest(load_model(student)))
    assert trainer(str(folder), tmp_path/"next").examples                     # trains on from there
    import json
    config = json.loads((folder/"adapter_config.json").read_text())
    for base, what in ((str(tmp_path/"gone"), "not there"), (None, "do not name their base")):
        (folder/"adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
        with pytest.raises(SpotError, match=what): load_model(folder)


@pytest.mark.parametrize("more, what",
                         [(dict(train_sampling_strategy="group_by_length"), "group_by_length"),
                          (dict(dataloader_drop_last=True, effective_batch_size=16), "do not fill one step")])
def test_settings_without_a_step_are_refused(student, tmp_path, more, what):
    with pytest.raises(SpotError, match=what): trainer(student, tmp_path, **more)


def test_ids_beyond_the_vocabulary_are_refused(student, tmp_path):
    tok = tokenizer()
    tok.add_tokens(["<new>"], special_tokens=True)
    tok.save_pretrained(tmp_path/"tok")
    with pytest.raises(SpotError, match="pair 7.*beyond the"):
        build(SPoTConfig(model_name_or_path=student, output_dir=str(tmp_path), use_cpu=True),
              [dict(PAIRS[7], chosen="<new>")], tokenizer=load_tokenizer(tmp_path/"tok"))


def test_the_flag_and_the_record_meet_in_training(student, tmp_path):
    assert parse_config(["--output_dir", str(tmp_path), "--use_cpu",
                         "true"]).enable_thinking is None and _config().enable_thinking is None
    sampled = [dict(p, sampling={"enable_thinking": True}) for p in PAIRS]
    settings = dict(model_name_or_path=student, output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True)
    with pytest.raises(SpotError, match="sampled with enable_thinking=True"):
        build(SPoTConfig(**settings, enable_thinking=False), sampled)
    assert "think" not in tokenizer().decode(build(SPoTConfig(**settings, enable_thinking=True),
                                                   sampled).examples[0].prompt)
