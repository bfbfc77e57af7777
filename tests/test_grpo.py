"""GRPO's adapter: rewards, batch arithmetic, folders of other settings, self-distillation rows, and a run
that is killed."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from spot_nb import grpo
from spot_nb.records import SpotError

ARGS = ["--model", "embedded", "--data", "arithmetic", "--train_batch", "2", "--mini_batch", "2",
        "--rollouts", "2", "--max_completion_length", "16", "--disable_tqdm", "true", "--max_steps", "5",
        "--save_steps", "1", "--learning_rate", "1e-5"]


@pytest.mark.parametrize("train, mini, rollouts, processes",
                         [(256, 64, 8, 1), (256, 64, 8, 8), (6, 3, 5, 3), (10, 10, 2, 4)])
def test_plan_keeps_the_papers_counts(train, mini, rollouts, processes):
    plan = grpo.rollout_plan(train, mini, rollouts, processes)
    step = plan.per_device_train_batch_size * plan.gradient_accumulation_steps * processes
    assert step == mini * rollouts
    assert plan.per_device_train_batch_size * plan.steps_per_generation * processes == train * rollouts


@pytest.mark.parametrize("bad, says",
                         [((100, 64), "no multiple of mini_batch"),
                          ((3, 3, 3, 2), "do not divide over 2 processes")])
def test_plan_refuses_remainders(bad, says):
    with pytest.raises(SpotError, match=says): grpo.rollout_plan(*bad)


def test_reward_times_out_as_wrong():
    tower = "\\boxed{9^{9^{9^{9}}}}"
    start = time.monotonic()
    assert grpo.verifier_reward(workers=1, timeout=2)([tower] * 2, ["7", "9^{9^{9^{9}}} + 1"]) == [0.0, 0.0]
    assert time.monotonic() - start < 60


def test_rows_need_answers_and_text():
    with pytest.raises(SpotError, match="problem 2 .*no answer"):
        grpo.rollout_rows([dict(prompt="q", answer="1"), dict(prompt="q", id="b")])
    with pytest.raises(SpotError, match="pair 1 .*must be text"):
        grpo.privileged_rows([dict(prompt="q", chosen=["x"])])


def test_settings_and_missing_parts(tmp_path, monkeypatch):
    with pytest.raises(SpotError, match="did you mean temperature"): grpo.grpo_config(tmp_path, temprature=1)
    with pytest.raises(SpotError, match="fewer than the 256"):
        grpo.grpo("embedded", [dict(prompt="q", answer="1")], str(tmp_path/"a"))
    (tmp_path/"b").mkdir()
    (tmp_path/"b"/"thesis.txt").write_text("mine")
    small = dict(train_batch=1, mini_batch=1, rollouts=2)
    with pytest.raises(SpotError, match="no GRPO run wrote"):
        grpo.grpo("embedded", [dict(prompt="q", answer="1")], str(tmp_path/"b"), **small)
    monkeypatch.setitem(sys.modules, "vllm", None)
    from importlib import util
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(SpotError, match=r"spot_nb\[vllm\]"):
        grpo.grpo("embedded", [dict(prompt="q", answer="1")], str(tmp_path/"c"), use_vllm=True, **small)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(SpotError, match="needs trl"): grpo.grpo("embedded", [], str(tmp_path/"d"))


def test_torn_checkpoints_are_passed_over(tmp_path):
    for n, state in ((1, "{}"), (2, "{\"global_st"), (3, None)):
        folder = tmp_path/f"checkpoint-{n}"
        folder.mkdir()
        (folder/"model.safetensors").write_bytes(b"x")
        if state is not None: (folder/"trainer_state.json").write_text(state)
    assert grpo.whole_checkpoint(tmp_path).name == "checkpoint-1"


@pytest.mark.slow
def test_killed_ten_times_and_finished(tmp_path):
    """kill -9 at ten random moments; the same command ends the run, and its steps never went back past a
    whole checkpoint."""
    run = [sys.executable, "-m", "spot_nb.cli", "grpo", *ARGS, "--output", str(tmp_path/"run")]
    rng, seen = random.Random(0), 0
    for _ in range(10):
        p = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env={**os.environ, "SPOT_PROGRESS": "0"})
        try: p.wait(rng.uniform(8, 40))
        except subprocess.TimeoutExpired: os.kill(p.pid, signal.SIGKILL); p.wait()
        last = grpo.whole_checkpoint(tmp_path/"run")
        at = int(last.name[11:]) if last else 0
        assert at >= seen
        seen = at
    done = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "SPOT_PROGRESS": "0"})
    assert done.returncode == 0 and "5 steps" in done.stdout, done.stderr[-800:]
    assert json.loads((tmp_path/"run"/"checkpoint-5"/"trainer_state.json").read_text())["global_step"] == 5


@pytest.mark.slow
def test_sdft_takes_our_pairs(tmp_path):
    "TRL's self-distillation trainer makes a step on `privileged_rows`."
    from datasets import Dataset
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer
    from spot_nb.models import load_model, load_tokenizer
    pairs = [dict(prompt=f"Compute {n} + 1.", chosen=f"{n} + 1 = {n + 1}\nThe answer is \\boxed{{{n + 1}}}.",
                  rejected="x") for n in range(2, 6)]
    args = SDFTConfig(str(tmp_path), max_steps=1, per_device_train_batch_size=2, num_generations=2,
                      max_completion_length=12, report_to="none", bf16=False, use_cpu=True,
                      save_strategy="no")
    trainer = SDFTTrainer(load_model("embedded"), args=args,
                          train_dataset=Dataset.from_list(grpo.privileged_rows(pairs)),
                          processing_class=load_tokenizer("embedded"))
    before = next(trainer.model.parameters()).detach().clone()
    trainer.train()
    assert trainer.state.global_step == 1 and not before.equal(next(trainer.model.parameters()).detach())
