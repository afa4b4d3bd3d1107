"""Two real studies that differ in one setting: what they leave is what a paired comparison needs."""

import pytest

from sae_nfm.compare.changes import changes
from sae_nfm.compare.differences import independent
from sae_nfm.compare.measures import KL_NFM, KL_SAE, MARGINAL, MSE_REDUCTION, PATHOLOGY_SAE, REDUCTION
from sae_nfm.compare.studies import read_studies
from sae_nfm.compare.varied import varied_settings
from tiny_studies import Suite


@pytest.mark.slow
def test_one_setting_apart_they_are_paired_and_their_difference_is_known_better(tmp_path, corpus_file):
    suite = Suite(tmp_path, corpus_file)
    how = ("hydra/launcher=together", "hydra.sweep.dir=sweep", "eval_tokens=3000")
    status, printed = suite.run("sae.d_sae=32,64", *how, sweep=True)
    assert status == 0, printed
    studies, problems = read_studies([tmp_path / "sweep"])
    assert problems == []
    for study in studies:
        assert len(study.documents.tokens) == study.about.documents
        assert study.documents.tokens.sum() == study.about.positions
        for measure in (KL_SAE, KL_NFM, PATHOLOGY_SAE, REDUCTION, MSE_REDUCTION, MARGINAL):
            assert measure.by_document(study.documents).value == pytest.approx(
                study.values[measure.name].value, rel=1e-5, abs=1e-7
            )
    (change,) = changes(studies, varied_settings(studies))
    assert change.name == "d_sae 32 → 64"
    paired, alone = change.of(KL_NFM), independent(KL_NFM, change.pairs[0])
    assert paired.paired
    assert paired.size.value == pytest.approx(alone.value, rel=1e-4)
    assert paired.size.high - paired.size.low < alone.high - alone.low
