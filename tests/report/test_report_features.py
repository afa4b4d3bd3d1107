import re
from html.parser import HTMLParser

import pytest
from test_report_attribution import BAD, fake_found, fake_words, write_attribution

from sae_nfm.report.attributed import read
from sae_nfm.report.features import features_page, write_features

VOID = {"img", "meta", "input"}


class Page(HTMLParser):
    """Checks that elements nest, and collects text, ids, links, and tokens with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.ids, self.links, self.tokens = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.tokens += [attributes] if tag == "b" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = write_attribution(tmp_path_factory.mktemp("study"))
    return write_features("stories", read(folder), folder).read_text(encoding="utf-8")


def test_the_page_starts_with_the_strongest_pair_and_its_best_context(written):
    text = Page(written).text
    assert "The pair that matters most: 3 × 12 lowers the KL, by 2.00% [1.40, 2.60] of what all" in text
    assert "confirmed (p = 0.001 after Holm's correction)" in text
    before = written[: written.index("<nav")]
    assert before.count('<p class="run">') == 1
    assert 'title="lowers the KL by 0.2 nats"' in before


def test_a_page_without_a_confirmed_pair_says_so(tmp_path):
    found = fake_found()
    for pair in found["named"] + found["harmful"]:
        pair["p_holm"] = 0.3
    text = Page(features_page("stories", read(write_attribution(tmp_path, found)))).text
    assert "No pair is confirmed: of the 3 that were named" in text
    assert "matters most" not in text
    assert "named because it lowers the KL" in text


def test_every_pair_and_latent_has_an_anchor_and_every_link_leads_somewhere(written):
    page = Page(written)
    for pair in fake_words()["pairs"]:
        assert page.ids.count("pair-{}-{}".format(*pair["latents"])) == 1
    assert len(page.ids) == len(set(page.ids))
    assert set(page.links) <= {f"#{name}" for name in page.ids} | {"report.html"}


def test_the_page_fetches_nothing(written):
    assert re.findall(r"https?:|//[a-z]|@import|url\(|\bsrc=|fetch\(", written) == []


def test_tokens_are_text_and_never_markup(tmp_path):
    words = fake_words()
    for context in [c for pair in words["pairs"] for some in pair["contexts"].values() for c in some]:
        context["tokens"][2] = "</p><script>alert(1)</script>"
    written = features_page("<i>name</i>", read(write_attribution(tmp_path, words=words)))
    assert written.count("<script>") == 1
    assert BAD not in written
    assert BAD in Page(written).text
    assert "<i>name</i>" in Page(written).text


def test_colours_go_with_what_a_pair_takes_off_and_the_peak_is_marked(written):
    of_pairs = [token for token in Page(written).tokens if "KL by" in token.get("title", "")]
    looks = {(token["class"], token["style"], token["title"]) for token in of_pairs}
    assert looks == {
        ("lowers peak", "--a:0.60", "lowers the KL by 0.2 nats"),
        ("raises", "--a:0.15", "raises the KL by 0.05 nats"),
    }


def test_passages_carry_the_numbers_of_the_tokens_that_count(written):
    told = [token["data-kl"] for token in Page(written).tokens if "data-kl" in token]
    assert told == ["0.5 0.4 0.1", "0.4 0.3 0.5", "0.3 0.3 0.3", "0.2 0.2 0.1"] * 3
    text = Page(written).text
    for why in ("repair most", "harm most", "at random"):
        assert why in text
    assert "mean KL 0.35 nats/token with the SAE, 0.3 with the linear part, 0.25 with the NFM" in text


def test_moved_tokens_are_in_percentage_points_and_blanks_are_seen(written):
    text = Page(written).text
    assert f"{BAD} +12" in text
    assert "·a -4.2" in text
    assert '<i>↵</i><b class="lowers peak"' in written
    assert "<i>·</i><i>∅</i>" in written


def test_latents_name_their_pairs(written):
    card = written[written.index('id="latent-3"') :]
    assert "in <a href" in card[:400]
    assert re.findall(r"#pair-3-\d+", card)[:2] == ["#pair-3-12", "#pair-3-8"]
    assert 'title="activation 2.5"' in card
