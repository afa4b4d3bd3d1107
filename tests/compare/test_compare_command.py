import csv
import json
import time

import pytest

from fake_results import fake_result, renamed, swept_result, without_roles, write_study
from full_disks import small_disk
from sae_nfm.compare.__main__ import main
from sae_nfm.compare.studies import read_studies
from sae_nfm.launch.jobs import FAILED, UNFINISHED, Job, Outcome
from sae_nfm.report.html import write_report


@pytest.fixture
def sweep(tmp_path):
    for layer in (0, 3):
        for k in (8, 16, 32):
            write_study(tmp_path / "sweep" / f"layer-{layer},sae.k-{k}", swept_result(layer=layer, k=k))
    return tmp_path / "sweep"


def test_a_sweep_becomes_a_table_a_csv_a_page_and_figures(sweep, capsys):
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out
    low, high = swept_result(layer=0, k=8)["reduction"]["ci95"]
    assert "6 studies" in out
    assert "sae.k" in out
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in out
    assert str(sweep / "compare.html") in out.splitlines()[-1]
    drawn = (
        "changes",
        "over_layer",
        "over_sae_k",
        "layer_by_sae_k",
        "kl_vs_mse_reduction",
        "gain_vs_quality",
    )
    assert {path.name for path in (sweep / "figures").iterdir()} == {
        f"compare_{name}.{kind}" for name in drawn for kind in ("png", "pdf")
    }
    assert all(path.read_bytes().startswith(b"%PDF") for path in (sweep / "figures").glob("*.pdf"))
    check_csv(sweep)


def check_csv(sweep):
    rows = list(csv.DictReader((sweep / "compare.csv").open(encoding="utf-8")))
    assert [(row["layer"], row["sae.k"]) for row in rows] == [
        (layer, k) for layer in ("0", "3") for k in ("8", "16", "32")
    ]
    for row in rows:
        result = json.loads((sweep / row["study"] / "result.json").read_text())
        assert float(row["kl_sae_nfm"]) == result["conditions"]["sae_nfm"]["kl"]["mean"]
        assert float(row["kl_sae_low"]) == result["conditions"]["sae"]["kl"]["ci95"][0]
        assert float(row["pathology_sae"]) == result["pathology"]["sae"]["eps"]["value"]
        assert float(row["pathology_sae_nfm_high"]) == result["pathology"]["sae_nfm"]["eps"]["ci95"][1]
        assert float(row["reduction"]) == result["reduction"]["value"]
        assert float(row["mse_reduction_low"]) == result["mse_reduction"]["ci95"][0]
        assert float(row["marginal_interaction_share"]) == result["marginal_interaction"]["share"]["value"]
        assert float(row["explained_variance"]) == result["sae"]["explained_variance"]
        assert float(row["l0"]) == result["sae"]["l0"]
        assert row["l0_low"] == ""


def test_the_page_links_each_report_and_needs_nothing_else(sweep, tmp_path):
    folder = sweep / "layer-0,sae.k-8"
    write_report(json.loads((folder / "result.json").read_text()), folder)
    assert main([str(sweep), "--out", str(tmp_path / "elsewhere")]) == 0
    page = (tmp_path / "elsewhere" / "compare.html").read_text(encoding="utf-8")
    assert page.count("<a ") == 1
    assert 'href="../sweep/layer-0%2Csae.k-8/report.html"' in page
    assert page.count('src="data:image/png;base64,') == 6
    assert "http" not in page
    assert not (sweep / "compare.html").exists()


def test_unfinished_and_broken_studies_are_named_and_do_not_stop_it(sweep, capsys):
    for name, content in (
        ("cut", '{"schema": 1, '),
        ("list", "[]"),
        ("old", '{"schema": 0}'),
        ("<b>bare", '{"schema": 1}'),
    ):
        (sweep / name).mkdir()
        (sweep / name / "result.json").write_text(content)
    (sweep / "running" / ".hydra").mkdir(parents=True)
    (sweep / "running" / ".hydra" / "config.yaml").write_text("a: 1")
    (sweep / "failed").mkdir()
    (sweep / "failed" / "config.yaml").write_text("a: 1")
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out
    page = (sweep / "compare.html").read_text(encoding="utf-8")
    assert "6 studies" in out
    assert "Left out: 6" in page
    for name in ("cut", "list", "old", "<b>bare", "running", "failed"):
        assert f"left out: {name}: " in out
    assert "<b>bare" not in page
    assert "&lt;b&gt;bare" in page


def test_a_job_without_a_result_is_named_with_what_the_sweep_says_of_it(sweep, capsys):
    refused = "context=129: allowed are 2 to 128"
    for name, outcome in (("refused", Outcome(FAILED, refused)), ("killed", Outcome(UNFINISHED))):
        (sweep / name).mkdir()
        Job(sweep / name).record(outcome)
    for name, written in (("cut", '{"state": '), ("other", "[]"), ("less", '{"state": "failed"}')):
        (sweep / name).mkdir()
        (sweep / name / "job.json").write_text(written)
    assert main([str(sweep)]) == 0
    out, page = capsys.readouterr().out, (sweep / "compare.html").read_text(encoding="utf-8")
    assert f"left out: refused: no result.json: failed ({refused})\n" in out
    assert f"<code>refused</code>: no result.json: failed ({refused})</li>" in page
    assert "left out: killed: no result.json: not finished\n" in out
    for name in ("cut", "other", "less"):
        assert f"left out: {name}: no result.json: not finished, or failed\n" in out


def test_a_warning_is_told_once_with_the_studies_it_is_of(sweep, capsys):
    for path in sorted(sweep.glob("*/result.json"))[:3]:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"warnings": ["few <documents>"]}))
    assert main([str(sweep)]) == 0
    assert "layer-0,sae.k-8 and 2 more: few <documents>" in capsys.readouterr().out
    assert "and 2 more: few &lt;documents&gt;" in (sweep / "compare.html").read_text(encoding="utf-8")
    rows = list(csv.DictReader((sweep / "compare.csv").read_text().splitlines()))
    assert sorted(row["warnings"] for row in rows) == ["", "", "", *["few <documents>"] * 3]


@pytest.mark.parametrize("part", ["settings", "choices", "conditions"])
def test_a_result_of_another_shape_is_named(sweep, part):
    path = sweep / "layer-0,sae.k-8" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: ["not a mapping"]}))
    studies, (problem,) = read_studies([sweep, sweep / "layer-0,sae.k-8"])
    assert len(studies) == 5
    assert problem.folder == path.parent
    assert f"its {part} are missing or not a mapping" in problem.reason


@pytest.mark.parametrize(
    "change", [lambda r: renamed(r, {"sae": "a", "sae_nfm": "b", "sae_linear": "zero"}), without_roles]
)
def test_what_conditions_are_called_changes_no_column(sweep, tmp_path, change):
    for path in sweep.glob("*/result.json"):
        write_study(tmp_path / "again" / path.parent.name, change(json.loads(path.read_text())))
    again = tmp_path / "again"
    assert main([str(sweep)]) == main([str(again)]) == 0
    assert (sweep / "compare.csv").read_text() == (again / "compare.csv").read_text()
    for path in (sweep / "figures").iterdir():
        assert path.read_bytes() == (again / "figures" / path.name).read_bytes()


def test_families_are_shown_and_k_only_where_there_is_one(tmp_path, capsys):
    other = swept_result()
    other["sae"] = {"family": "jumprelu", "d_sae": 1024, "l0": 41.7, "explained_variance": 0.8}
    old = swept_result()
    del old["sae"]["family"]
    for name, result in (("new", swept_result(k=16)), ("other", other), ("old", old)):
        write_study(tmp_path / name, result)
    assert main([str(tmp_path)]) == 0
    out, page = capsys.readouterr().out, (tmp_path / "compare.html").read_text(encoding="utf-8")
    rows = {row["study"]: row for row in csv.DictReader((tmp_path / "compare.csv").open(encoding="utf-8"))}
    assert {name: (row["sae_family"], row["k"], row["l0"]) for name, row in rows.items()} == {
        "new": ("topk", "16", "16.0"),
        "other": ("jumprelu", "", "41.7"),
        "old": ("topk", "32", "32.0"),
    }
    for shown in ("topk, k 16", "topk, k 32", "jumprelu"):
        assert shown in out
        assert f">{shown}</td>" in page
    assert "jumprelu, k" not in out + page


def test_figures_of_an_earlier_comparison_go_and_others_stay(tmp_path):
    write_study(tmp_path / "study", fake_result(("sae",), ()))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "compare_over_old.png").write_bytes(b"")
    (tmp_path / "figures" / "compare_over_old.pdf").write_bytes(b"")
    (tmp_path / "figures" / "kl_by_condition.png").write_bytes(b"")
    assert main([str(tmp_path)]) == 0
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["kl_by_condition.png"]


def test_one_study_without_nfm_is_a_comparison_too(tmp_path, capsys):
    folder = write_study(tmp_path / "alone", fake_result(("sae",), ()))
    assert main([str(folder), str(tmp_path)]) == 0
    assert "1 study" in capsys.readouterr().out
    assert "none with an NFM" in (folder / "compare.html").read_text(encoding="utf-8")


def test_nothing_to_compare_is_said_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert main([str(tmp_path / "typo")]) == 2
    assert "typo is not a folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_categories_and_seeds_are_drawn(tmp_path):
    for nfm in ("full", "none"):
        for seed in (0, 1):
            write_study(tmp_path / f"{nfm}-{seed}", swept_result(nfm=nfm, seed=seed))
    assert main([str(tmp_path)]) == 0
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert "compare_over_nfm.png" in names
    assert "compare_over_seed.png" not in names


@pytest.mark.slow
def test_five_hundred_studies_take_less_than_twenty_seconds(tmp_path, capsys):
    for i in range(500):
        result = swept_result(layer=i % 10, k=8 * 2 ** (i // 10 % 5), seed=i // 50)
        write_study(tmp_path / f"job-{i}", result)
    start = time.process_time()  # of this process: others may keep it waiting
    assert main([str(tmp_path)]) == 0
    assert time.process_time() - start < 20
    assert "400 more studies are in compare.csv" in capsys.readouterr().out
    assert (tmp_path / "compare.html").stat().st_size < 4e6
    assert len((tmp_path / "compare.csv").read_text().splitlines()) == 501


def test_a_full_disk_leaves_no_half_page(sweep):
    with small_disk(sweep / "out", 400) as remount:
        out = sweep / "out"
        with pytest.raises(OSError, match="No space left"):
            main([str(sweep), "--out", str(out)])
        assert not (out / "compare.html").exists()
        assert all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in out.rglob("*.png"))
        remount("size=8m")
        assert main([str(sweep), "--out", str(out)]) == 0
        assert (out / "compare.html").read_text().endswith("</html>\n")
        assert not list(out.rglob(".*"))


def test_a_table_that_finds_no_room_leaves_the_old_one(sweep, monkeypatch):
    main([str(sweep)])
    before = (sweep / "compare.csv").read_text()

    def full(file):
        file.write("half of")
        raise OSError("no space left")

    monkeypatch.setattr("sae_nfm.compare.tables.csv.writer", full)
    with pytest.raises(OSError, match="no space left"):
        main([str(sweep)])
    assert (sweep / "compare.csv").read_text() == before
