"""What is found of an SAE does not depend on what is evaluated together, whatever its family."""

import pytest

from tiny_studies import Suite

SIZES = {
    **{family: "sae.k=6" for family in ("topk", "batch_topk", "matryoshka")},
    **{family: "sae.l0=6" for family in ("jumprelu", "relu", "gated")},
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory, corpus_file):
    suite = Suite(tmp_path_factory.mktemp("batches"), corpus_file)
    suite.settings = [setting for setting in suite.settings if not setting.startswith("sae.k")]
    return suite


def means(result):
    """Every mean of every condition."""
    kept = ("ce", "ce_increase", "mse", "l2", "cosine", "top1_agreement")
    return {
        (name, figure): value
        for name, entry in result["conditions"].items()
        for figure, value in {"kl": entry["kl"]["mean"], **{key: entry[key] for key in kept}}.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", SIZES)
def test_conditions_are_the_same_in_batches_of_any_size_and_in_two_processes(suite, family):
    overrides = (f"sae={family}", SIZES[family], "train_tokens=32768", "nfm_train_tokens=8192")
    found = {}
    for how in (
        ("evaluation.batch_size=8",),
        *((f"evaluation.batch_size={size}", f"evaluation.rows={size}") for size in (1, 7, 16)),
        ("trainer=ddp_cpu", "trainer.devices=2", "trainer.precision=32-true"),
    ):
        status, printed = suite.run(*overrides, *how, f"hydra.run.dir={family}_{len(found)}")
        assert status == 0, printed
        found[how] = means(suite.result(f"{family}_{len(found)}"))
    first = found[("evaluation.batch_size=8",)]
    assert first[("sae", "kl")] > 0.01
    for how, values in found.items():
        assert values == pytest.approx(first, rel=1e-6, abs=1e-9), how
