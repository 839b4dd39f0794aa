"""The page of a report in Chromium."""

import numpy as np
import pytest
from support.archives import write_tar
from support.browser import chromium
from support.images import encode, photo

import imagearchive

# The contrast of text and background, as WCAG 2 defines it.
CONTRAST = """
const light = (color) => {
  const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((one) => one / 255)
    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const color = getComputedStyle(one).backgroundColor;
    if (color !== "rgba(0, 0, 0, 0)") return color;
  }
};
return arguments[0].map((selector) => {
  const element = document.querySelector(selector);
  const style = getComputedStyle(element);
  const [dark, bright] = [light(behind(element)),
    light(element instanceof SVGElement ? style.fill : style.color)].sort((a, b) => a - b);
  return (bright + 0.05) / (dark + 0.05);
});
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        browser.resize(1280, 800)
        yield browser


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    images = {f"cat/{n}.jpg": encode(photo(60 + 4 * n, 40, n)) for n in range(6)}
    images |= {f"dog/{n}.png": encode(photo(50, 80, 9 + n), "PNG") for n in range(3)}
    images |= {"dog/again.jpg": images["cat/0.jpg"], "dog/broken.jpg": b"nothing"}
    images |= {f"{'long' * 30}/<script>document.title = 'x'</script>.jpg": images["cat/1.jpg"]}
    train = write_tar(folder / "train.tar", images)
    val = write_tar(folder / "val.tar", {"cat/x.jpg": images["cat/0.jpg"]})
    pixels = np.stack([photo(20, 20, n) for n in range(4)])
    np.savez(folder / "arrays.npz", images=pixels, y=np.array([0, 1, 1, 1]))
    imagearchive.report([train, val, folder / "arrays.npz"], folder / "page.html")
    return (folder / "page.html").as_uri()


@pytest.fixture
def page(browser, url):
    browser.open("about:blank")
    browser.console()
    browser.open(url)
    yield browser
    browser.resize(1280, 800)
    # What the page's policy forbids would be reported here.
    assert browser.console() == []


def test_report_page_loads_nothing_from_elsewhere(page):
    page.run("for (const one of document.images) one.loading = 'eager'")
    page.wait("[...document.images].every((one) => one.complete && one.naturalWidth)")
    assert page.run("return document.images.length") > 15
    loaded = page.run("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert [one[:40] for one in loaded if not one.startswith("data:image/jpeg;")] == []
    assert page.run("return document.title").startswith("Report: train.tar")
    assert page.run("return document.scripts.length") == 0


def test_report_page_keyboard_opens_numbers_and_reaches_tables(page):
    summaries = page.run("return document.querySelectorAll('summary').length")
    reached, opened = set(), 0
    page.run("document.body.tabIndex = -1; document.body.focus()")
    for _ in range(400):
        page.press("Tab")
        name = page.run("return document.activeElement.tagName")
        if name == "BODY":
            break
        reached.add(name)
        if name == "SUMMARY":
            page.press("Enter")
            opened += page.run("return document.activeElement.parentElement.open")
        elif name == "DIV":
            assert page.run("return document.activeElement.ariaLabel").startswith("Table: ")
    assert reached == {"A", "SUMMARY", "DIV"}
    assert opened == summaries > 10


@pytest.mark.parametrize("dark", [False, True])
def test_report_page_is_readable_in_light_and_dark(page, dark):
    page.resize(1280, 800, dark=dark)
    back = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") is not dark
    texts = ["body", ".faint", ".bad", "nav a", "summary", "figcaption", "svg text", "td", "pre"]
    assert min(page.run(CONTRAST, texts)) >= 4.5
    # Bars are not text.
    assert min(page.run(CONTRAST, ["svg rect"])) >= 3


@pytest.mark.parametrize("width", [1280, 390])
def test_report_page_fits_its_window(page, width):
    page.resize(width, 844)
    assert page.run("return document.documentElement.scrollWidth") <= width


def test_report_page_charts_have_names_for_screen_readers(page):
    nodes = page.devtools("Accessibility.getFullAXTree", {})["nodes"]
    images = [node for node in nodes if node.get("role", {}).get("value") in ("image", "img")]
    names = [node["name"]["value"] for node in images]
    assert all(names)
    bars = [name for name in names if name.startswith("Images of each class")]
    assert "Bars of the number of images: cat 6, dog 5, " in bars[0]
    assert bars[1].endswith("Bars of the number of images: cat 1.")
