"""A fast subset of the sweep of architectures (`make test-architectures` runs all of them), and the checks of
the sweep itself."""
import json
from pathlib import Path

import pytest

import architectures as A

# One of each kind: plain, caps, sinks, windows, scaled logits, no attention interface, linear attention,
# experts.
SUBSET = ["LlamaConfig", "Gemma2Config", "GptOssConfig", "Qwen2MoeConfig (sliding)", "GraniteConfig",
          "BloomConfig", "DogeConfig", "Qwen3NextConfig", "RecurrentGemmaConfig", "FalconH1Config"]


@pytest.mark.parametrize("name", SUBSET)
def test_right_or_said(name):
    row = A.check(name, everything=False)
    assert "not_built" not in row, row
    assert len(row["checks"]) == 2 and not A.bad(row)


def test_every_config_class_is_swept():
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    assert {n.partition(" ")[0] for n in A.names()} == {k.__name__ for k in MODEL_FOR_CAUSAL_LM_MAPPING}


def test_the_sweep_sees_a_wrong_model():
    """A model whose attention leaves something out has to come out as WRONG: here a cap that only the truth
    has."""
    from transformers import Gemma2Config
    config = A.small(Gemma2Config())
    eager, groups = A.build(config, "eager"), [[(p, c), (p, r)] for p, c, r in A.triples()]
    truth = A.truth_of(eager, [s for g in groups for s in g])
    config.attn_logit_softcapping = 0.5
    assert A.judge(A.build(config, "eager", eager.state_dict()), groups, False, truth)["result"] == "WRONG"
    assert A.judge(eager, groups, False, truth)["result"] == "right"


def test_a_forward_that_fails_when_packed_is_not_packed(monkeypatch):
    from transformers import LlamaConfig, LlamaModel
    model, groups = A.build(A.small(LlamaConfig()), "sdpa"), [[(p, c), (p, r)] for p, c, r in A.triples()]
    truth, forward = A.truth_of(model, [s for g in groups for s in g]), LlamaModel.forward
    def fails(self, input_ids=None, attention_mask=None, **kwargs):
        if getattr(attention_mask, "ndim", 2) == 4: raise RuntimeError("no masks of four dimensions here")
        return forward(self, input_ids=input_ids, attention_mask=attention_mask, **kwargs)
    monkeypatch.setattr(LlamaModel, "forward", fails)
    monkeypatch.setattr("spot_nb.packability._VERDICTS", {})
    said = A.judge(model, groups, True, truth)
    assert said["result"] == "fell back" and not said["packed"] and "no masks of four" in said["why"]


DATA = Path(__file__).parent.parent/"nbs/data/architectures.json"

def test_the_published_verdicts():
    data = json.loads(DATA.read_text())
    rows = data["rows"]
    assert len(rows) >= 170 and not [b for r in rows for b in A.bad(r)]
    assert sum("not_built" not in r for r in rows) >= 130
    for r in rows:
        assert r.get("not_built") or any(c["result"] in ("right", "fell back", "refused")
                                         for c in r["checks"].values()), r


@pytest.mark.slow
def test_all_architectures():
    wrong = [b for n in A.names() for b in A.bad(A.check(n))]
    assert not wrong
