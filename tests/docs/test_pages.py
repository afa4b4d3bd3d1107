"""The documentation's Python runs as printed, its links lead somewhere, its schemas are the code's."""

import json
import re
import sys

import jsonschema
import pytest

from doc_pages import PAGES, ROOT, blocks, name
from tiny_studies import Suite

sys.path.insert(0, str(ROOT / "docs"))
from settings_page import purpose, settings, settings_page

CONF = ROOT / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")
WITH_PYTHON = [
    page for page in PAGES if any(title is None for title, _ in blocks(page.read_text(), "python"))
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Where a reader goes from page to page, and finds what an earlier one trained."""
    return tmp_path_factory.mktemp("desk")


@pytest.mark.parametrize("page", WITH_PYTHON, ids=map(name, WITH_PYTHON))
def test_its_python_runs_as_printed(page, desk, monkeypatch):
    monkeypatch.chdir(desk)
    session = {"__name__": "__main__"}
    for title, block in blocks(page.read_text(), "python"):
        if title is None:
            exec(compile(block, name(page), "exec"), session)


def anchors(text):
    """The anchors of a page's headings, as the site and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=map(name, PAGES))
def test_its_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if target == ROOT / "docs" / "settings.md":
            assert not anchor or anchor in anchors(settings_page(CONF)), link
            continue
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
    for page in (ROOT / "docs").rglob("*.md"):
        assert f" {page.relative_to(ROOT / 'docs').as_posix()}\n" in nav


def test_the_readme_is_short_and_its_figures_are_there():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    assert all((ROOT / path).is_file() for path in re.findall(r"!\[.*?\]\((.*?)\)", text))


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(CONF).as_posix() for path in FILES])
def test_every_file_of_settings_says_what_it_is_for(path):
    assert re.search(r"\w{2,} \w+", purpose(path.read_text()))


def test_settings_are_read_with_their_comments():
    text = "# What\n# for.\na: 1 # one | two\nb:\n  c: 'x # y' # of b\n_target_: m.C\nd: {_target_: n.D}\n"
    assert purpose(text) == "What for."
    assert settings(text)[0] == ("a", "1", r"one \| two")
    assert [key for key, _, _ in settings(text)] == ["a", "b.c", "d"]
    assert settings("a: 1\n# of b\nb: 2\n")[1] == ("", "", "**of b**")
    assert r"| `sae.d_sae` | `2048` |" in settings_page(CONF)
    assert "### sae=topk" in settings_page(CONF)


@pytest.fixture(scope="module")
def written(tmp_path_factory, corpus_file):
    """A result with every control and every measure, as a study writes it."""
    suite = Suite(tmp_path_factory.mktemp("schema"), corpus_file)
    overrides = (
        "evaluation.top_n=3",
        "evaluation.reconstructions=[identity,sae,sae_linear,sae_nfm,zero,refit]",
    )
    status, printed = suite.run(*overrides, "hydra.run.dir=study")
    assert status == 0, printed
    return suite.result("study")


@pytest.fixture(scope="module")
def schema():
    found = json.loads((ROOT / "docs" / "schemas" / "result.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def test_a_result_is_as_documented(written, schema):
    jsonschema.validate(written, schema)


@pytest.mark.parametrize("key", ["conditions", "tests", "measurements"])
def test_what_a_result_lacks_or_has_too_much_of_is_found(written, schema, key):
    for wrong in ({k: v for k, v in written.items() if k != key}, {**written, f"{key}_2": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
