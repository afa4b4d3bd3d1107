"""The pages as a browser lays them out. The measure is checked on a page that is too wide."""

import html
import re
import shutil
import subprocess

import pytest

from fake_results import BASELINES, KL, fake_result, swept_result, write_study
from sae_nfm.compare.__main__ import main
from sae_nfm.report.html import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
SOME_BOX_SCROLLS = (
    "w => [...w.document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary on this machine"),
]


def evaluate(page, script, width, folder, *flags):
    """The value of a JavaScript function of the page's window, laid out at a width.

    The page is in a frame, because a browser window is never narrower than 500 pixels.
    """
    frame = (
        f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{html.escape(page)}"></iframe>'
    )
    probe = folder / "probe.html"
    code = f"onload = () => document.title = ({script})(frames[0])"
    probe.write_text(f"<title></title><body>{frame}<script>{code}</script></body>", encoding="utf-8")
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder / 'browser'}", "--window-size=1400,1000"]
    done = subprocess.run(
        [*command, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=120
    )
    return re.search("<title>(.*?)</title>", done.stdout).group(1)


def overflow(page, width, folder):
    """By how many CSS pixels the page is wider than its window."""
    script = "w => [w.document.documentElement.scrollWidth, w.innerWidth].join(' ')"
    needed, given = map(int, evaluate(page, script, width, folder).split())
    assert given == width
    return needed - given


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "all").mkdir()
    report = write_report(fake_result(), folder)
    everything = write_report(fake_result(tuple(KL), tuple(BASELINES)), folder / "all")
    for layer in (10, 0, 2):
        name = f"layer-{layer},sae.k-32,some.very.long.setting.of.the.sweep-{layer:060}"
        write_study(folder / "sweep" / name, swept_result(layer=layer))
    assert main([str(folder / "sweep")]) == 0
    paths = {"report": report, "all": everything, "compare": folder / "sweep" / "compare.html"}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}


def test_the_measure_notices_a_page_that_is_too_wide(tmp_path):
    page = "<!doctype html><body><div style='width: 700px'>wide</div></body>"
    assert overflow(page, 400, tmp_path) >= 300
    assert overflow(page, 1280, tmp_path) <= 0


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", ["report", "all", "compare"])
def test_pages_do_not_scroll_sideways(pages, name, width, tmp_path):
    assert overflow(pages[name], width, tmp_path) <= 0


def test_a_wide_table_scrolls_in_its_own_box(pages, tmp_path):
    assert evaluate(pages["compare"], SOME_BOX_SCROLLS, 400, tmp_path) == "true"


@pytest.mark.parametrize("name", ["report", "all"])
def test_a_report_on_a_phone_has_nothing_that_scrolls_sideways_even_where_it_is_unfolded(
    pages, name, tmp_path
):
    unfolded = pages[name].replace("<details>", "<details open>")
    assert evaluate(unfolded, SOME_BOX_SCROLLS, 400, tmp_path) == "false"


def test_a_row_of_the_comparison_is_a_card_on_a_narrow_screen(pages, tmp_path):
    fits = "table => table.scrollWidth <= table.parentNode.clientWidth"
    script = f"w => [...w.document.querySelectorAll('.cards')].every({fits})"
    assert evaluate(pages["compare"], script, 400, tmp_path) == "true"
    label = "w => w.getComputedStyle(w.document.querySelector('#studies td'), '::before').content"
    assert evaluate(pages["compare"], label, 400, tmp_path) == '"layer"'
    assert evaluate(pages["compare"], label, 1280, tmp_path) == "none"


@pytest.mark.parametrize(
    ("words", "layers"),
    [
        ("layer=2", "2"),
        ("layer>0 layer<=10", "2 10"),
        ("very.long LAYER-0,", "0"),
        ("klreduction>0 klreduction<100", "0 2 10"),
        ("nothing=2", ""),
        ("", "0 2 10"),
    ],
)  # fmt: skip
def test_the_filter_leaves_the_rows_that_fit_every_word(pages, words, layers, tmp_path):
    script = f"""w => {{
      const field = w.document.querySelector('.filter input');
      field.value = '{words}';
      field.dispatchEvent(new w.Event('input'));
      const shown = [...w.document.querySelectorAll('#studies tbody tr')].filter(row => row.offsetHeight);
      const values = shown.map(row => row.cells[0].textContent).join(' ');
      return values + ';' + w.document.querySelector('output').value;
    }}"""
    num = len(layers.split())
    for width in (400, 1280):
        assert evaluate(pages["compare"], script, width, tmp_path) == f"{layers};{num} of 3"


def test_a_figure_is_as_wide_as_a_narrow_page_and_a_tap_enlarges_it(pages, tmp_path):
    script = """w => {
      const image = w.document.querySelector('figure img'), before = image.offsetWidth;
      image.click();
      return [before <= 400, image.offsetWidth, w.document.documentElement.scrollWidth].join(' ');
    }"""
    assert evaluate(pages["compare"], script, 400, tmp_path) == "true 900 400"


def test_dark_is_dark_and_the_figures_are_too(pages, tmp_path):
    script = """w => [w.getComputedStyle(w.document.body).backgroundColor,
      w.getComputedStyle(w.document.querySelector('figure img')).filter].join(' ')"""
    assert evaluate(pages["compare"], script, 1280, tmp_path).startswith("rgb(255, 255, 255)")
    dark = evaluate(pages["compare"], script, 1280, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert dark == "rgb(18, 18, 18) invert(0.93) hue-rotate(180deg)"


def test_a_click_on_a_heading_sorts_and_a_second_one_turns_it(pages, tmp_path):
    values = (
        "[...w.document.querySelectorAll('#studies tbody tr')].map(row => row.cells[0].textContent).join(' ')"
    )
    click = "w.document.querySelector('th button').click()"
    assert evaluate(pages["compare"], f"w => ({click}, {values})", 1280, tmp_path) == "0 2 10"
    assert evaluate(pages["compare"], f"w => ({click}, {click}, {values})", 1280, tmp_path) == "10 2 0"
