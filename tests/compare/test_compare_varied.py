import itertools
from pathlib import Path

from fake_results import family_result, swept_result
from sae_nfm.compare.studies import compared
from sae_nfm.compare.varied import distinct, numeric, text, varied_settings


def study(result):
    return compared(Path("x"), result)


def varied(results):
    return varied_settings([study(result) for result in results])


def test_a_swept_setting_is_found_and_its_interpolated_copies_are_not():
    assert varied([swept_result(layer=layer) for layer in range(2)]) == ["layer"]
    assert varied([swept_result(d_sae=d_sae) for d_sae in (512, 1024)]) == ["sae.d_sae"]


def test_a_copy_under_a_longer_name_is_not_shown():
    results = [swept_result() for _ in range(2)]
    for result, tokens in zip(results, (1000, 2000), strict=True):
        result["settings"] |= {"train_tokens": tokens, "nfm_train_tokens": tokens}
    assert varied(results) == ["train_tokens"]


def test_the_sparsity_of_all_families_is_one_setting():
    results = [family_result(family, l0) for family in ("topk", "jumprelu") for l0 in (8, 16)]
    assert varied(results) == ["sae", "l0"]
    assert varied([family_result(l0=l0) for l0 in (8, 16)]) == ["l0"]
    results[0]["settings"]["sae"]["k"] = 9
    assert varied(results) == ["sae", "l0", "sae.k"]


def test_a_whole_number_is_the_same_as_a_float():
    studies = [study(family_result(l0=l0)) for l0 in (8, 16)]
    studies[0].settings["l0"] = 8
    assert [text(value) for value in distinct(studies, "l0")] == ["8", "16"]
    assert distinct([studies[0], study(family_result(l0=8))], "l0") == [8]


def test_a_group_placed_elsewhere_owns_what_is_there():
    results = [swept_result() for _ in range(2)]
    for result, option in zip(results, ("adam", "muon"), strict=True):
        result["choices"]["optimizer@sae_optimizer"] = option
        result["settings"]["sae_optimizer"] = {"_target_": option, "lr": len(option)}
    assert varied(results) == ["optimizer@sae_optimizer"]


def test_settings_that_go_together_are_all_shown():
    results = [swept_result(k=k, d_sae=32 * k) for k in (8, 16)]
    assert varied(results) == ["sae.d_sae", "sae.k"]


def test_what_a_group_sets_is_named_by_the_group():
    results = [swept_result(layer=layer, nfm=nfm) for layer in (1, 2) for nfm in ("full", "none")]
    assert varied(results) == ["nfm", "layer"]


def test_a_setting_of_a_group_that_varies_by_itself_is_shown_too():
    results = [swept_result(nfm=nfm) for nfm in ("full", "full", "none")]
    results[1]["settings"]["nfm"]["order"] = 3
    assert varied(results) == ["nfm", "nfm.order"]


def test_an_ablation_names_everything_that_it_sets():
    results = [swept_result(layer=layer) for layer in (1, 2) for _ in range(2)]
    for result in results[::2]:
        result["choices"]["ablation"] = "linear_only"
        result["settings"]["nfm"]["interaction"] = False
        result["settings"]["evaluation"]["draws"] = 1
    assert varied(results) == ["ablation", "layer"]


def test_paths_and_hydra_do_not_count():
    first, second = swept_result(), swept_result()
    for result, value in ((first, "a"), (second, "b")):
        result["settings"] |= {"name": value, "run_dir": value, "artifacts": value}
        result["settings"]["hydra"]["job"] = {"num": value}
        result["choices"] |= {"hydra/launcher": value, "sweep": value, "logger": value}
    assert varied([first, second]) == []
    first["settings"]["corpus"] = {"path": "a.txt"}
    second["settings"]["corpus"] = {"path": "b.txt"}
    assert varied([first, second]) == ["corpus.path"]


def test_a_crossed_sweep_keeps_every_dimension():
    grid = itertools.product((0, 1), (8, 16), (0, 1))
    assert varied([swept_result(layer, k, seed=seed) for layer, k, seed in grid]) == [
        "seed",
        "layer",
        "sae.k",
    ]


def test_values_are_ordered_as_numbers_and_written_as_on_the_command_line():
    studies = [study(swept_result(k=k)) for k in (100, 9, 20)]
    assert distinct(studies, "sae.k") == [9, 20, 100]
    assert [text(value) for value in (0.5, True, None, "a", [1, 2])] == ["0.5", "true", "–", "a", "[1, 2]"]
    assert not numeric([True, 1])


def test_a_setting_that_older_studies_lack_is_as_one_that_is_null():
    """On an axis both would stand at the same place."""
    with_null, without = swept_result(), swept_result()
    with_null["settings"]["later"] = None
    studies = [study(with_null), study(without)]
    assert distinct(studies, "later") == [None]
