"""The instrument's own control from end to end; what it finds at full size is for an experiment to say."""

import pytest

from tiny_studies import Suite


@pytest.mark.parametrize(("kind", "planted"), [("pairs", True), ("linear", False)])
def test_a_planted_study_says_what_was_there_to_find(tmp_path, corpus_file, kind, planted):
    suite = Suite(tmp_path, corpus_file)
    overrides = ("experiment=planted", f"plant.kind={kind}", "plant.num_tuples=2", "nfm_train_tokens=8192")
    status, printed = suite.run(*overrides, "hydra.run.dir=study")
    assert status == 0, printed
    result = suite.result("study")
    assert result["planted"]["kind"] == kind
    low, high = result["planted"]["share"]["ci95"]
    assert low > 0 if planted else (low, high) == (0, 0)
    assert {"sae_planted", "refit", "sae_linear", "sae_nfm"} <= set(result["conditions"])
    assert result["conditions"]["clean"]["kl"]["max"] == 0
    assert "Control: " in (tmp_path / "study" / "report.html").read_text()
