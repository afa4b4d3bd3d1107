import base64
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from fake_results import BASELINES, KL, fake_result
from full_disks import no_space
from sae_nfm.report.html import write_report
from sae_nfm.report.page import tag
from sae_nfm.report.parts import format_p

VOID = {"img", "meta"}


class Page(HTMLParser):
    """Checks that elements nest, and collects text, images and what is fetched from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.images, self.addresses = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href"):
                (self.images if value.startswith("data:image/svg+xml;base64,") else self.addresses).append(
                    value
                )

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def report(result, folder):
    path = write_report(result, folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_page_carries_its_figures_and_fetches_nothing(tmp_path):
    text = report(fake_result(), tmp_path)
    page = Page(text)
    assert len(page.images) == 5
    assert page.addresses == []
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert "url(" not in text
    for drawn in page.images:
        svg = base64.b64decode(drawn.partition(",")[2]).decode()
        assert "prefers-color-scheme: dark" in svg
        assert not re.search(r"(href|src)=\"(?!#)|url\((?!#)|@import", svg)
    for kind in ("png", "svg"):
        assert len(list((tmp_path / "figures").glob(f"*.{kind}"))) == 5


def test_the_page_says_what_was_found(tmp_path):
    result = fake_result(baselines=("eps", "cov"))
    text = Page(report(result, tmp_path)).text
    assert "Adding the NFM cuts the SAE's next-token KL by 29.9%" in text
    assert "2.211 [2.167, 2.255]" in text
    assert "cov(sae_nfm)" in text
    assert "Feature interactions take off a further 0.0022 (95% interval 0.0009 to 0.0035) nats/token" in text
    assert "unpaired t, as published" in text
    assert "p < 1e-300" in text
    assert "KL higher at" in text
    assert re.search(r"sae_nfm - sae -\S+ \[\S+ \S+\] 31\.0% ", text)  # of the positions
    assert "python -m sae_nfm experiment=quickstart" in text
    assert "sae.d_sae 1024" in text
    assert "torch 2.13.0" in text


def test_what_the_study_says_is_text_and_never_markup(tmp_path):
    bad = "<script>alert('x')</script>\"&"
    result = fake_result()
    result |= {"name": bad, "command": bad, "fingerprint": bad}
    result["lm"]["path"] = bad
    result["settings"][bad] = bad
    result["environment"]["git"] = bad
    result["choices"]["lm"] = bad
    result["conditions"][bad] = result["conditions"]["sae_linear"] | {"reconstruction": bad}
    result["artifacts"] = {bad: {"kind": bad, "fingerprint": bad, "path": bad}}
    result["tests"][0]["a"] = bad
    text = report(result, tmp_path)
    assert "<script" not in text
    assert bad in Page(text).text


@pytest.mark.parametrize(
    "result",
    [
        fake_result(("sae",)),
        fake_result(("sae",), ()),
        fake_result(tuple(KL), tuple(BASELINES)),
        fake_result(("sae", "sae_nfm")) | {"nfm": None, "marginal_interaction": None, "tests": []},
        {"schema": 1, "conditions": {}},
    ],
    ids=["no-nfm", "no-baseline", "everything", "no-parts", "empty"],
)
def test_any_set_of_conditions_makes_a_page(result, tmp_path):
    text = report(result, tmp_path)
    page = Page(text)
    assert "How to repeat it" in page.text
    assert "None" not in page.text.replace("nfm None", "")
    assert "nan" not in page.text.split()


def test_artifacts_are_listed_by_name_where_the_result_has_them(tmp_path):
    made = {
        "sae": {"kind": "sae", "fingerprint": "0123abcd", "path": "artifacts/sae/0123abcd"},
        "wide_sae": {"kind": "sae", "fingerprint": "4567ef", "path": "artifacts/sae/4567ef"},
    }
    text = Page(report(fake_result() | {"artifacts": made}, tmp_path)).text
    assert "Artifacts by name" in text
    assert "wide_sae sae 4567ef artifacts/sae/4567ef" in text
    assert "Artifacts by name" not in Page(report(fake_result(), tmp_path)).text


def test_an_sae_without_k_is_shown_by_its_family_and_l0(tmp_path):
    result = fake_result()
    result["sae"] = {"family": "jumprelu", "d_sae": 1024, "l0": 41.7}
    del result["settings"]["sae"]["k"]
    text = Page(report(result, tmp_path)).text
    assert "jumprelu SAE of 1,024 latents ·" in text
    assert "41.7 of its 1,024 latents are active per token (L0)." in text
    assert "sae.k" not in text


def test_the_answer_comes_first_then_the_warnings_then_the_rest(tmp_path):
    warned = fake_result() | {"warnings": ["nfm: worse than <its> linear part", "few documents"]}
    text = Page(report(warned, tmp_path)).text
    places = ("Adding the NFM", "Read with care", "nfm: worse than <its> linear part.", "few documents.")
    order = [text.index(words) for words in (*places, "How far does each", "How to repeat it")]
    assert order == sorted(order)
    assert "Read with care" not in Page(report(fake_result(), tmp_path)).text


@pytest.mark.parametrize("result", [fake_result(), fake_result(("sae",))], ids=["nfm", "no-nfm"])
def test_no_sentence_is_said_twice(result, tmp_path):
    sentences = [words.strip() for words in Page(report(result, tmp_path)).words if len(words.strip()) > 40]
    assert len(sentences) > 10
    assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize(
    ("part", "title"),
    [
        ("along_context", "Does the gain depend on the position?"),
        ("across_documents", "Is it in few documents, or in all?"),
        ("curves", "training curves"),
        ("tests", "What was compared with what?"),
    ],
)
def test_a_result_from_before_there_was_a_part_has_a_page_without_it(part, title, tmp_path):
    assert title in report(fake_result(), tmp_path / "with")
    text = report({key: value for key, value in fake_result().items() if key != part}, tmp_path / "without")
    assert title not in text
    assert "How to repeat it" in text


def test_the_share_of_the_bound_is_said(tmp_path):
    assert (
        "takes off 48% (95% interval 43 to 53) of what a large MLP"
        in Page(report(fake_result(), tmp_path)).text
    )


def test_attributes_are_escaped_too():
    assert tag("a", "<b>", href='"><x') == '<a href="&quot;&gt;&lt;x">&lt;b&gt;</a>'


def test_p_values():
    assert [format_p(p) for p in (0.0, 0.0123, None)] == ["< 1e-300", "0.012", "–"]


def test_showing_needs_nothing_of_what_computes():
    code = (
        "import sys, sae_nfm.report.html, sae_nfm.compare.__main__; "
        "bad = [m for m in sys.modules if m in ('torch', 'lightning', 'hydra', 'matplotlib.pyplot') "
        "or m.startswith('sae_nfm.') and m.split('.')[1] not in ('report', 'compare') "
        "and m not in ('sae_nfm.store', 'sae_nfm.store.files')]; "
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("full", ["savefig", "write_text"])
def test_a_full_disk_leaves_nothing_under_a_final_name(tmp_path, monkeypatch, full):
    def half(writer, path, *rest, **settings):
        no_space(path if full == "savefig" else writer)

    monkeypatch.setattr(Figure if full == "savefig" else type(tmp_path), full, half)
    with pytest.raises(OSError, match="No space left"):
        write_report(fake_result(), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".png"] == []
    assert len(list(tmp_path.rglob("*.png"))) == (0 if full == "savefig" else 1)


def test_a_full_disk_leaves_the_old_report(tmp_path, monkeypatch):
    path = write_report(fake_result(), tmp_path)
    before = path.read_text()
    monkeypatch.setattr(type(tmp_path), "write_text", lambda path, *_, **__: no_space(path))
    with pytest.raises(OSError, match="No space left"):
        write_report(fake_result(), tmp_path)
    assert path.read_text() == before
