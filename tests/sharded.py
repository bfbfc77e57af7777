"""One process of a sharded run on CPUs: `torchrun sharded.py SPECS.json`, trainings one after the other. Not
a test itself; see test_sharded.py.

accelerate turns FSDP on only beside an accelerator, so with `fsdp` in the spec it is switched on here, after
accelerate made its state."""
import json, os, sys, time, warnings

warnings.simplefilter("ignore")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers.trainer as hf
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin


PLAIN = Accelerator


def force_fsdp(kind):
    "Make every Accelerator shard with FSDP2 over gloo; `kind` is the state dict type."
    class Sharding(PLAIN):
        def __init__(self, *args, **kwargs):
            kwargs.pop("fsdp_plugin", None)
            super().__init__(*args, **kwargs)
            plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap",
                                                    state_dict_type=kind, cpu_ram_efficient_loading=False)
            if self.mixed_precision != "no": plugin.set_mixed_precision(self.mixed_precision)
            AcceleratorState._shared_state["fsdp_plugin"] = plugin
            AcceleratorState._shared_state["distributed_type"] = PartialState._shared_state[
                "distributed_type"] = DistributedType.FSDP
    hf.Accelerator = Sharding


def run(spec):
    from spot_nb.records import read_jsonl
    from spot_nb.train import SPoTConfig, build
    if PartialState._shared_state:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_CPU if int(os.environ.get(
            "WORLD_SIZE", 1)) > 1 else DistributedType.NO
    AcceleratorState._reset_state(reset_partial_state=False)
    hf.Accelerator = PLAIN
    if spec.get("fsdp"): force_fsdp(spec["fsdp"])
    rank = int(os.environ.get("RANK", 0))
    os.environ.update({k: v.replace("RANK", str(rank)) for k, v in (spec.get("env") or {}).items()})
    callbacks = []
    if spec.get("pids"):
        with open(f"{spec['pids']}/{rank}", "w") as f: f.write(str(os.getpid()))
    if spec.get("slow"):
        class Slow(hf.TrainerCallback):
            def on_step_end(self, *args, **kwargs): time.sleep(spec["slow"])
        callbacks.append(Slow())
    pairs, held_out = read_jsonl(spec["pairs"]), read_jsonl(spec["eval"]) if spec.get("eval") else None
    trainer = build(SPoTConfig(**spec["config"]), pairs=pairs, eval_pairs=held_out, callbacks=callbacks)
    if spec.get("poison") is not None: poison(trainer, spec["poison"])
    trainer.train(spec.get("resume"))
    if spec.get("save", True): trainer.save_model()
    said = {"delta": trainer.shift.mean, "sharding": trainer.sharding,
            "kinds": sorted({type(p.data).__name__ for p in trainer.model.parameters()})}
    with open(f"{spec['config']['output_dir']}/rank-{rank}.json", "w") as f: json.dump(said, f)


def poison(trainer, n):
    "Make the reference of one pair not finite, after it was checked."
    before = trainer._before_training
    def then():
        before()
        trainer.examples[n].ref[0][:] = float("nan")
    trainer._before_training = then
    if trainer.examples[n].ref: then()


def main(specs):
    from spot_nb.records import SpotError
    for spec in specs:
        try: run(spec)
        except SpotError as e:
            with open(f"{spec['config']['output_dir']}/error-{os.environ.get('RANK', 0)}", "w") as f:
                f.write(str(e))
            if not spec.get("fails"): raise
    if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()


if __name__ == "__main__": main(json.load(open(sys.argv[1])))
