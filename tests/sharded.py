"""One process of a sharded run on CPUs: `torchrun sharded.py SPEC.json`. Not a test itself; see test_sharded.py.

accelerate turns FSDP on only beside an accelerator, so with `fsdp` in the spec it is switched on here, after accelerate made its state."""
import json, os, sys, time, warnings

warnings.simplefilter("ignore")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers.trainer as hf
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin


def force_fsdp(kind):
    "Make every Accelerator shard with FSDP2 over gloo; `kind` is the state dict type."
    class Sharding(Accelerator):
        def __init__(self, *args, **kwargs):
            kwargs.pop("fsdp_plugin", None)
            super().__init__(*args, **kwargs)
            plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap", state_dict_type=kind, cpu_ram_efficient_loading=False)
            if self.mixed_precision != "no": plugin.set_mixed_precision(self.mixed_precision)
            AcceleratorState._shared_state["fsdp_plugin"] = plugin
            AcceleratorState._shared_state["distributed_type"] = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    hf.Accelerator = Sharding


def main(spec):
    from spot_nb.records import SpotError, read_jsonl
    from spot_nb.train import SPoTConfig, build
    if spec.get("fsdp"): force_fsdp(spec["fsdp"])
    rank = int(os.environ.get("RANK", 0))
    for k, v in (spec.get("env") or {}).items(): os.environ[k] = v.replace("RANK", str(rank))
    callbacks = []
    if spec.get("pids"):
        with open(f"{spec['pids']}/{rank}", "w") as f: f.write(str(os.getpid()))
    if spec.get("slow"):
        class Slow(hf.TrainerCallback):
            def on_step_end(self, *args, **kwargs): time.sleep(spec["slow"])
        callbacks.append(Slow())
    pairs, held_out = read_jsonl(spec["pairs"]), read_jsonl(spec["eval"]) if spec.get("eval") else None
    try:
        trainer = build(SPoTConfig(**spec["config"]), pairs=pairs, eval_pairs=held_out, callbacks=callbacks)
        if spec.get("poison"): trainer.examples[spec["poison"]].id = "poisoned"
        if spec.get("poison") and trainer.examples[spec["poison"]].ref: trainer.examples[spec["poison"]].ref[0][:] = float("nan")
        trainer.train(spec.get("resume"))
        if spec.get("save", True): trainer.save_model()
    except SpotError as e:
        with open(f"{spec['config']['output_dir']}/error-{rank}", "w") as f: f.write(str(e))
        sys.exit(3)
    with open(f"{spec['config']['output_dir']}/rank-{rank}.json", "w") as f:
        json.dump({"delta": trainer.shift.mean, "log": trainer.state.log_history, "sharding": trainer.sharding,
                   "kinds": sorted({type(p.data).__name__ for p in trainer.model.parameters()})}, f)


if __name__ == "__main__": main(json.load(open(sys.argv[1])))
