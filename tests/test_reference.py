"""The key of the reference cache: everything the numbers depend on, and nothing else."""

import numpy as np
import pytest
import torch

from spot_nb.examples import Example
from spot_nb.records import SpotError
from spot_nb.reference import (base_tensors, drop_parts, find_reference, keep_part, load_reference,
                               read_parts, reference_key, save_reference, tensor_digest, weights_digest)


def tiny(seed=0, **more):
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(seed)
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=16, num_hidden_layers=2,
                 num_attention_heads=2, max_position_embeddings=64)
    return LlamaForCausalLM(LlamaConfig(**shape | more))


EXAMPLES = [Example("a", [1, 2, 3], [4, 5], [4, 6]), Example("b", [1, 2], [7], None)]


@pytest.mark.parametrize("name",
                         ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight",
                          "model.norm.weight", "lm_head.weight"])
@pytest.mark.parametrize("where", [0, 1, -1])
def test_one_value_anywhere_changes_the_key(name, where):
    model = tiny()
    before = reference_key(model, EXAMPLES)
    flat = model.get_parameter(name).data.view(-1)
    flat[where] = torch.nextafter(flat[where], torch.tensor(9.))             # the smallest change there is
    after = reference_key(model, EXAMPLES)
    assert (before["model"] != after["model"] and before["data"] == after["data"]
            and before["settings"] == after["settings"])


@pytest.mark.parametrize("change",
                         [dict(rope_parameters={"rope_type": "yarn", "factor": 2., "rope_theta": 1e4,
                                                "original_max_position_embeddings": 32}),
                          dict(rope_parameters={"rope_type": "default", "rope_theta": 5e4}),
                          dict(rms_norm_eps=1e-3), dict(hidden_act="gelu")])
def test_the_configuration_counts(change):
    one, other = tiny(), tiny(**change)
    other.load_state_dict(one.state_dict())
    assert reference_key(one, EXAMPLES)["model"] != reference_key(other, EXAMPLES)["model"]


@pytest.mark.parametrize("change", [dict(precision="bf16"), dict(packing=True), "eager", torch.bfloat16])
def test_settings_count(change):
    model = tiny()
    before = reference_key(model, EXAMPLES, packing=False)
    if change == "eager": model.set_attn_implementation("eager")
    if isinstance(change, torch.dtype): model = model.to(change)
    after = reference_key(model, EXAMPLES,
                          **{"packing": False} | (change if isinstance(change, dict) else {}))
    assert after["settings"] != before["settings"]


@pytest.mark.parametrize("kind", ["lora", "dora", "saved"])
def test_adapters_do_not_count(kind):
    from peft import LoraConfig, get_peft_model
    before = reference_key(tiny(), EXAMPLES)
    more = {"lora": {}, "dora": {"use_dora": True}, "saved": {"modules_to_save": ["lm_head"]}}[kind]
    for seed in (1, 2):
        model = tiny()
        torch.manual_seed(seed)
        model = get_peft_model(model,
                               LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM",
                                          **more))
        for name, p in model.named_parameters():
            if p.requires_grad: p.data.normal_()                             # as after training
        assert reference_key(model, EXAMPLES) == before


def test_views_and_chunks_give_one_digest():
    x = torch.randn(33, 65)
    assert (tensor_digest(x.T.T) == tensor_digest(x) == tensor_digest(x, chunk=7)
            and tensor_digest(x[:, ::2]) == tensor_digest(x[:, ::2].clone()))
    assert (tensor_digest(x.bfloat16()) != tensor_digest(x)
            and tensor_digest(torch.empty(0, 3)) != tensor_digest(torch.empty(3, 0)))


def _sharded(rank, world, port, out, broken):
    import os
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
                   "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    model = tiny()
    if broken: model.model.embed_tokens.weight.data[50, 1:] /= 2             # in the second rank's share
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    (out/f"{broken}-{rank}").write_text(weights_digest(model))
    torch.distributed.destroy_process_group()


def test_sharded_models_are_hashed_on_every_rank(tmp_path):
    import socket
    import torch.multiprocessing as mp
    for broken in (0, 1):
        with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
        mp.spawn(_sharded, (2, port, tmp_path, broken), nprocs=2)
    read = lambda b, r: (tmp_path/f"{b}-{r}").read_text()
    assert read(0, 0) == read(0, 1) != read(1, 0) == read(1, 1)


def test_files_and_parts(tmp_path):
    model, path = tiny(), tmp_path/"ref.safetensors"
    key, other = reference_key(model, EXAMPLES), reference_key(tiny(1), EXAMPLES)
    assert not find_reference(path, key)
    filled = [Example(e.id, e.prompt, e.chosen, e.rejected,
                      [np.full(len(r), -k - 1., np.float32) for k, (_, r) in enumerate(e.sequences)])
              for e in EXAMPLES]
    save_reference(path, key, filled)
    again = [Example(e.id, e.prompt, e.chosen, e.rejected) for e in EXAMPLES]
    assert (load_reference(path, key, again)
            and [[v.tolist() for v in e.ref] for e in again] == [[[-1, -1], [-2, -2]], [[-1]]])
    with pytest.raises(SpotError, match="other model"): find_reference(path, other)
    (tmp_path/"junk").write_text("x")
    with pytest.raises(SpotError, match="no reference cache"): load_reference(tmp_path/"junk", key, again)
    keep_part(path, key, {1: filled[1].ref})
    with pytest.raises(SpotError, match="no reference cache"):
        find_reference(next((tmp_path/"ref.safetensors.parts").iterdir()), key)
    assert list(read_parts(path, key)) == [1] and read_parts(path, other) == {}
    drop_parts(path)
    assert read_parts(path, key) == {} and not (tmp_path/"ref.safetensors.parts").exists()


def test_tied_weights_are_hashed_once():
    names = [n for n, _ in base_tensors(tiny(tie_word_embeddings=True))]
    assert len(names) == len(set(names)) and "lm_head.weight" not in names
