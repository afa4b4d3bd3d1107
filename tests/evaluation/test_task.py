"""An evaluation end to end on the embedded LM, against the full model with a forward hook."""

from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning import Trainer

from sae_nfm.baselines.matched import Eps, NormOnly, Permuted, Real
from sae_nfm.baselines.surroundings import Surroundings
from sae_nfm.evaluation.blocks import ScoredBlocks
from sae_nfm.evaluation.condition import conditions
from sae_nfm.evaluation.reconstructions import FromAutoencoder, FromParts, Replacement
from sae_nfm.evaluation.task import EvaluationTask, Settings
from sae_nfm.lm.model import LanguageModel
from sae_nfm.lm.site import Site
from sae_nfm.measures.finite import NonFinite
from sae_nfm.measures.sums import DISTANCES
from small_models import make_autoencoder

SITE = Site(2, "resid_post")
RECONSTRUCTIONS = {"sae": FromParts([]), "sae_nfm": FromParts(["linear", "interaction"])}
BASELINES = {"eps": Eps(), "norm_only": NormOnly()}
NUM_TOKENS = 100  # of 15 a block, so that a block is scored in part


class Watched:
    """The LM, with what is spliced into it kept."""

    def __init__(self, lm):
        self.lm, self.spliced, self.clean = lm, [], []

    def __getattr__(self, name):
        return getattr(self.lm, name)

    def prefix(self, tokens, site):
        prefix = self.lm.prefix(tokens, site)
        self.clean.append(prefix.activation.clone())
        return prefix

    def suffix(self, activation, resid, site):
        self.spliced.append(activation.clone())
        return self.lm.suffix(activation, resid, site)


class Evaluated(NamedTuple):
    """An evaluation that is over."""

    task: EvaluationTask
    sums: dict[str, np.ndarray]
    values: list
    """`TokenValues` of every batch."""
    spliced: dict[str, list]
    """What was spliced in under each condition, one [block, pos, d_model] a draw, all blocks of the run."""
    clean: torch.Tensor
    scored: torch.Tensor

    @property
    def blocks(self):
        """Numbers of the blocks, in the order in which they were read."""
        return torch.cat([numbers for numbers in self.task.scored]).numpy()

    def kl(self, name):
        """KL of every draw, [draw, block, pos]."""
        number = [condition.name for condition in self.task.conditions].index(name)
        return torch.cat([values.kl_draws[number] for values in self.values], dim=1)


def evaluate(
    lm, splits, site=SITE, batch_size=3, rows=1, draws=2, seed=0, save_tokens=None, baselines=BASELINES,
    surroundings=None, **scored,
):  # fmt: skip
    """Run the test loop; with rows=1 every condition has a suffix of its own, in order."""
    watched = Watched(lm)
    chosen = {"num_tokens": NUM_TOKENS, "with_bos": False, "replace": "all", "position": 4, **scored}
    blocks = ScoredBlocks(splits.test, **chosen, batch_size=batch_size)
    named = conditions(dict.fromkeys(RECONSTRUCTIONS, "sae"), baselines, list(RECONSTRUCTIONS), draws)
    settings = Settings(rows=rows, top_n=0, save_tokens=save_tokens, seed=seed)
    autoencoder = make_autoencoder(lm.d_model)
    task = EvaluationTask(watched, site, autoencoder, blocks, named, RECONSTRUCTIONS, surroundings, settings)
    values, update = [], task.sums.update
    task.sums.update = lambda batch: (values.append(batch), update(batch))
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.test(task, verbose=False)
    sums = {name: value.numpy() for name, value in task.sums.compute().items()}
    replaced = [(condition.name, draw) for condition in named for draw in range(condition.draws)]
    spliced = {condition.name: [] for condition in named}
    for i, (name, _) in enumerate(replaced):
        spliced[name].append(torch.cat(watched.spliced[i :: len(replaced)]) if rows == 1 else None)
    scored_at = torch.cat([batch.scored for batch in values])
    return Evaluated(task, sums, values, spliced, torch.cat(watched.clean), scored_at)


@pytest.fixture
def run(lm, splits):
    return evaluate(lm, splits)


def full_run(lm, tokens, site, replacement=None):
    """Logits of the whole model, with a forward hook at the site where something is to be replaced."""
    hooks = [] if replacement is None else [(site.name, lambda value, hook: replacement)]
    with torch.no_grad(), lm.bridge.hooks(fwd_hooks=hooks):
        return lm.bridge(tokens).double().log_softmax(-1)


def kl_of(clean, spliced):
    return (clean.exp() * (clean - spliced)).sum(-1)


@pytest.mark.parametrize(
    "site", [SITE, Site(0, "resid_pre"), Site(5, "resid_post"), Site(3, "mlp_out")], ids=lambda s: s.name
)
def test_kl_is_that_of_the_whole_model_with_a_hook(lm, splits, site):
    found = evaluate(lm, splits, site=site)
    tokens = splits.test.tokens(found.blocks)
    with torch.no_grad():
        _, cache = lm.bridge.run_with_cache(tokens, names_filter=[site.name])
        x = cache[site.name]
        parts = make_autoencoder(lm.d_model)(x)
    clean = full_run(lm, tokens, site)
    mask = found.scored.unsqueeze(-1)
    made = {"sae": parts.sae, "sae_nfm": parts.sae + parts.linear + parts.interaction}
    for name, reconstruction in made.items():
        spliced = full_run(lm, tokens, site, torch.where(mask, reconstruction, x))
        expected = kl_of(clean, spliced)[found.scored]
        torch.testing.assert_close(found.kl(name)[0][found.scored].double(), expected, rtol=1e-3, atol=1e-5)
        number = [condition.name for condition in found.task.conditions].index(name)
        assert found.sums["kl_sum"][number] / NUM_TOKENS == pytest.approx(expected.mean().item(), rel=1e-4)
        assert expected.mean() > 0.01

        targets = torch.nn.functional.pad(tokens[:, 1:], (0, 1)).unsqueeze(-1)
        chosen = torch.cat([values.has_target for values in found.values])
        ce = -spliced.gather(-1, targets).squeeze(-1)[chosen]
        assert found.sums["by_document"][1, number].sum() == pytest.approx(ce.sum().item(), rel=1e-5)
        agreement = (spliced.argmax(-1) == clean.argmax(-1))[found.scored]
        assert found.sums["by_document"][2, number].sum() == pytest.approx(agreement.sum().item(), abs=1)


def test_the_kl_of_the_clean_run_is_exactly_zero(run):
    assert run.kl("clean").abs().max() == 0
    assert run.sums["kl_sum"][0] == run.sums["kl_squared"][0] == run.sums["kl_max"][0] == 0
    assert run.sums["by_document"][2, 0].sum() == NUM_TOKENS
    assert run.sums["worse"][0].sum() == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_positions_that_are_not_replaced_come_back_bit_exact(lm, splits, dtype):
    """BOS, and what follows the last scored token; the dictionary shifts and scales."""
    model = lm if dtype == "float32" else LanguageModel(lm.path, dtype)
    found = evaluate(model, splits)
    kept = ~found.scored
    assert kept[:, 0].all()
    assert kept.sum() > len(kept)
    for name, draws in found.spliced.items():
        for spliced in draws:
            assert torch.equal(spliced[kept].to(found.clean.dtype), found.clean[kept]), name
            if name != "clean":
                assert (spliced[found.scored] - found.clean[found.scored]).norm(dim=-1).min() > 0


@pytest.mark.parametrize("num_tokens", [31, NUM_TOKENS])
def test_exactly_the_positions_asked_for_are_counted(lm, splits, num_tokens):
    found = evaluate(lm, splits, num_tokens=num_tokens)
    names = [condition.name for condition in found.task.conditions]
    draws = [condition.draws for condition in found.task.conditions]
    assert names == [
        "clean", "sae", "sae_nfm", "eps(sae)", "norm_only(sae)", "eps(sae_nfm)", "norm_only(sae_nfm)"
    ]  # fmt: skip
    assert draws == [1, 1, 1, 2, 1, 2, 1]
    assert found.scored.sum() == num_tokens
    assert found.sums["draws"].tolist() == [num_tokens * count for count in draws]
    assert found.sums["tokens_by_document"].sum() == found.sums["tokens_by_position"].sum() == num_tokens
    assert found.task.quality.compute()["l0"] == pytest.approx(4, abs=1)
    assert found.task.quality.tokens == num_tokens


def test_ce_is_counted_where_the_next_token_is_scored_too(run):
    for values in run.values:
        expected = values.scored[:, :-1] & values.scored[:, 1:]
        assert torch.equal(values.has_target[:, :-1], expected)
        assert not values.has_target[:, -1].any()


@pytest.mark.parametrize("rows", [None, 1, 64])
@pytest.mark.parametrize("batch_size", [2, 5])
def test_batches_and_stacks_make_no_difference(lm, splits, run, batch_size, rows):
    found = evaluate(lm, splits, batch_size=batch_size, rows=rows)
    for name in ("kl_sum", "by_document", "by_position", "products"):
        np.testing.assert_allclose(
            found.sums[name] / NUM_TOKENS, run.sums[name] / NUM_TOKENS, rtol=1e-5, atol=1e-6, err_msg=name
        )
    for name in ("draws", "tokens_by_document", "targets_by_document", "tokens_by_position"):
        np.testing.assert_array_equal(found.sums[name], run.sums[name], err_msg=name)


def test_stacked_conditions_keep_their_own_residual_stream(lm, splits):
    """At `mlp_out` the suffix needs what the layer was given, besides what is spliced in."""
    site = Site(1, "mlp_out")
    stacked, alone = (evaluate(lm, splits, site=site, rows=rows) for rows in (64, 1))
    for condition in alone.task.conditions:
        name = condition.name
        torch.testing.assert_close(stacked.kl(name), alone.kl(name), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("matched", ["sae", "sae_nfm"])
def test_eps_is_as_far_from_the_activation_as_the_reconstruction_it_is_matched_to(run, matched):
    def distance(spliced):
        return (spliced - run.clean).double().norm(dim=-1)[run.scored]

    (reconstruction,) = run.spliced[matched]
    for spliced in run.spliced[f"eps({matched})"]:
        np.testing.assert_allclose(distance(spliced), distance(reconstruction), rtol=1e-5)
        errors = (spliced - run.clean)[run.scored], (reconstruction - run.clean)[run.scored]
        assert torch.cosine_similarity(*errors).abs().max() < 0.5
    names = [condition.name for condition in run.task.conditions]
    l2 = run.sums["by_document"][run.task.measures.index("l2")].sum(1)
    assert l2[names.index(f"eps({matched})")] == pytest.approx(l2[names.index(matched)], rel=1e-5)


def directions(run, name, draw):
    return torch.nn.functional.normalize(run.spliced[name][draw] - run.clean, dim=-1)[run.scored]


def test_draws_differ_and_are_shared_by_the_reconstructions(run):
    first, second = directions(run, "eps(sae)", 0), directions(run, "eps(sae)", 1)
    assert torch.linalg.vecdot(first, second).abs().max() < 0.5
    assert not torch.equal(*run.kl("eps(sae)"))
    torch.testing.assert_close(first, directions(run, "eps(sae_nfm)", 0), rtol=0, atol=1e-5)


def test_draws_follow_the_block_and_the_seed_and_not_the_batch(lm, splits, run):
    other_batches, other_seed = evaluate(lm, splits, batch_size=5), evaluate(lm, splits, seed=1)
    first = directions(run, "eps(sae)", 0)
    torch.testing.assert_close(directions(other_batches, "eps(sae)", 0), first, rtol=0, atol=1e-5)
    assert torch.linalg.vecdot(directions(other_seed, "eps(sae)", 0), first).abs().max() < 0.5


def test_bos_is_replaced_and_counted_where_that_is_asked_for(lm, splits):
    found = evaluate(lm, splits, num_tokens=64, with_bos=True)
    assert found.scored.all()
    assert len(found.scored) == 4
    (spliced,) = found.spliced["sae"]
    assert (spliced[:, 0] - found.clean[:, 0]).norm(dim=-1).min() > 0
    assert found.sums["tokens_by_position"].sum(0).tolist() == [4.0] * 16


def test_a_single_position_is_replaced_and_what_follows_it_scored(lm, splits):
    found = evaluate(lm, splits, num_tokens=60, replace="single")
    (spliced,) = found.spliced["sae"]
    moved = (spliced - found.clean).norm(dim=-1) > 0
    assert moved[:, 4].all()
    assert moved.sum() == len(moved)
    assert not found.scored[:, :4].any()
    assert found.scored.sum() == 60
    kl = found.kl("sae")[0]
    assert kl[:, :4].abs().max() < 1e-6
    assert kl[:, 5:][found.scored[:, 5:]].mean() > 1e-4
    number = [condition.name for condition in found.task.conditions].index("sae")
    distances = torch.cat([values.by_measure for values in found.values], dim=2)[-len(DISTANCES) :, number]
    for distance, kept in zip(distances, (0, 0, 1), strict=True):
        others = distance.clone()
        others[:, 4] = kept
        torch.testing.assert_close(others, torch.full_like(others, kept))
        assert (distance[:, 4] - kept).abs().min() > 1e-3


def test_token_level_results_are_those_that_were_summed(lm, splits, run, tmp_path):
    found = evaluate(lm, splits, save_tokens=tmp_path / "tokens")
    table = pq.read_table(tmp_path / "tokens").to_pydict()
    assert len(table["document"]) == NUM_TOKENS
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["rank-0.shard-00000.parquet"]
    blocks = splits.test
    tokens, documents = blocks.tokens(found.blocks), blocks.documents(found.blocks)
    place = {number: i for i, number in enumerate(found.blocks.tolist())}
    at = (torch.tensor([place[number] for number in table["block"]]), torch.tensor(table["position"]))
    assert found.scored[at].all()
    assert tokens[at].tolist() == table["token"]
    assert documents[at].tolist() == table["document"]
    for number, condition in enumerate(found.task.conditions):
        assert sum(table[f"kl/{condition.name}"]) == pytest.approx(
            found.sums["by_document"][0, number].sum(), rel=1e-5
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_kl_that_is_not_finite_is_told_by_its_condition(lm, splits, monkeypatch, value):
    class Broken(Replacement):
        def forward(self, batch):
            return torch.full_like(batch.x, value)

    monkeypatch.setitem(RECONSTRUCTIONS, "sae_nfm", Broken())
    with pytest.raises(NonFinite, match=r"the KL of sae_nfm is not finite at \d+ of \d+ measurements"):
        evaluate(lm, splits)


def test_the_evaluation_has_no_weights_of_the_model_and_leaves_the_dictionary_alone(lm, run):
    expected = make_autoencoder(lm.d_model).state_dict()
    found = {name: value for name, value in run.task.state_dict().items() if name.startswith("autoencoder.")}
    assert set(run.task.state_dict()) == set(found)
    for name, value in expected.items():
        assert torch.equal(found[f"autoencoder.{name}"], value)


def test_it_is_timed(run):
    assert run.task.seconds > 0


def test_distances_are_between_the_activation_and_what_replaces_it(run):
    names = [condition.name for condition in run.task.conditions]
    totals = dict(zip(run.task.measures, run.sums["by_document"].sum(2), strict=True))
    for name in ("sae", "sae_nfm", "norm_only(sae)"):
        (spliced,) = run.spliced[name]
        x, out = run.clean[run.scored], spliced[run.scored]
        length = (out - x).norm(dim=-1)
        expected = {
            "l2": length.sum(),
            "mse": length.pow(2).sum() / x.shape[-1],
            "cosine": torch.cosine_similarity(out, x, dim=-1).sum(),
        }
        for measure, value in expected.items():
            assert totals[measure][names.index(name)] == pytest.approx(value.item(), rel=1e-5), (
                name,
                measure,
            )


def test_baselines_that_need_other_activations_are_given_them(lm, splits):
    bank = lm.prefix(splits.validation.tokens(range(4)), SITE).activation[:, 1:].flatten(0, 1)
    around = Surroundings(bank.mean(0), torch.eye(lm.d_model), bank)
    found = evaluate(lm, splits, baselines={"permuted": Permuted(), "real": Real()}, surroundings=around)
    own = make_autoencoder(lm.d_model)(bank)
    for draw in (0, 1):
        error = (found.spliced["permuted(sae)"][draw] - found.clean)[found.scored]
        nearest = (error.unsqueeze(1) - (own.sae - bank)).norm(dim=-1).amin(1)
        assert nearest.max() < 1e-3
    assert not torch.equal(*found.spliced["permuted(sae)"])
    assert not torch.equal(*found.spliced["real(sae)"])


def test_what_reconstructions_call_moves_with_the_task(lm, splits):
    wide = FromAutoencoder(make_autoencoder(lm.d_model, d_sae=128, nfm=False))
    blocks = ScoredBlocks(splits.test, 10, False, "all", 1, 4)
    settings = Settings(rows=1, top_n=0, save_tokens=None, seed=0)
    made = {"sae": FromParts([]), "wide_sae": wide}
    named = conditions(dict.fromkeys(made, "sae"), {}, [], 1)
    task = EvaluationTask(lm, SITE, make_autoencoder(lm.d_model), blocks, named, made, None, settings)
    task.double()
    assert wide.autoencoder.sae.W_dec.dtype == torch.float64
