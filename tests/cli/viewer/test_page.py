"""The viewer's page in Chromium."""

import re

import numpy as np
import pytest
from support.archives import encoded
from support.browser import chromium
from support.viewer import HOSTILE, serving

from imagearchive import TarWriter

MANY = 100_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        browser.resize(1280, 800)
        yield browser


@pytest.fixture
def page(browser, server):
    """The page of the archive of all kinds of members, fully loaded."""
    browser.resize(1280, 800)
    browser.open("about:blank")
    browser.console()
    browser.open(server.url)
    browser.wait("document.querySelectorAll('.cell .name').length > 20")
    yield browser
    # Broken pictures are answered with 422, wrong sizes with 400. Nothing else may fail.
    assert [one for one in browser.console() if not re.search(r"status of 4(00|22)", one)] == []


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The server of 100,000 members, of which a grid is higher than an element can be shown."""
    image = encoded(np.zeros((2, 2, 3), np.uint8))
    path = tmp_path_factory.mktemp("large") / "large.tar"
    with TarWriter(path) as tar:
        for number in range(MANY):
            tar.add(f"{number:06d}.png", image)
    with serving(path) as server:
        yield server


def cells(browser):
    return browser.run("return [...document.querySelectorAll('.cell')].map(c => c.title)")


def wait_for_status(browser, text):
    browser.wait("document.getElementById('status').textContent === arguments[0]", text)


def test_page_takes_the_token_out_of_the_address(page, server):
    assert server.token not in page.run("return location.href")
    assert "token" not in page.run("return document.cookie")


def test_page_asks_only_for_thumbnails_at_first(page):
    page.wait("[...document.querySelectorAll('.cell img')].every(one => one.complete)")
    asked = page.run(
        "return performance.getEntriesByType('resource').map(e => new URL(e.name).pathname)"
    )
    assert [one for one in asked if one.startswith(("/members", "/folders"))] == []
    assert [asked.count(f"/thumbnail/{number}") for number in range(12)] == [1] * 12


def test_page_hostile_name_is_text(page, members):
    page.wait(
        "[...document.querySelectorAll('.cell')].some(c => c.title === arguments[0])", HOSTILE
    )
    assert page.run("return document.querySelectorAll('main script, dialog script').length") == 0
    # An alert would make the next command fail.
    page.run(
        "[...document.querySelectorAll('.cell')].find(c => c.title === arguments[0]).click()",
        HOSTILE,
    )
    page.wait("document.getElementById('name').textContent === arguments[0]", HOSTILE)


@pytest.mark.parametrize("name", ["page.html", "drawing.svg"])
def test_page_markup_of_members_is_shown_not_executed(page, members, name):
    page.run(
        "[...document.querySelectorAll('.cell')].find(c => c.title === arguments[0]).click()", name
    )
    page.wait("document.querySelector('#content pre')")
    assert page.text("#content pre") == members[name].decode()
    assert page.run("return document.title") == name


def test_page_broken_picture_is_a_box_with_its_error(page):
    page.wait("document.querySelector('.cell .broken')?.textContent.includes('PNG')")
    assert page.run("return document.querySelector('.cell.damaged').title") == "dogs/broken.png"
    page.click(".cell.damaged")
    page.wait("document.querySelector('#content .broken')?.textContent.includes('PNG')")


def test_page_search_and_filters_narrow_the_grid(page, members):
    page.type("#text", "CATS/1")
    wait_for_status(page, f"2 of {len(members)} files")
    page.wait("document.querySelectorAll('.cell .name').length === 2")
    assert cells(page) == ["cats/10.png", "cats/11.png"]
    page.type("#text", " ")
    page.type("#smallest", "20k")
    wait_for_status(page, f"2 of {len(members)} files")
    page.type("#smallest", "much")
    page.wait("document.querySelector('#status.wrong')?.textContent.includes('much')")
    page.type("#smallest", " ")
    page.run("[...document.querySelectorAll('#list a')].find(a => /dogs/.test(a.text)).click()")
    wait_for_status(page, f"2 of {len(members)} files")
    page.wait("document.querySelector('#path [aria-current]').textContent === 'dogs'")
    page.run("history.back()")
    wait_for_status(page, f"{len(members)} files")


def test_page_keyboard_reaches_everything(page, members):
    page.run("document.getElementById('grid').focus()")
    page.press("ArrowRight", "ArrowRight", "Enter")
    page.wait("document.querySelector('dialog').open")
    assert page.text("#name") == "cats/02.png"
    page.press("ArrowRight")
    page.wait("document.getElementById('name').textContent === 'cats/03.png'")
    page.press("ArrowLeft")
    page.wait("document.getElementById('name').textContent === 'cats/02.png'")
    page.press("Escape")
    page.wait("!document.querySelector('dialog').open")
    assert page.run("return document.activeElement.id") == "grid"
    active = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
    assert page.run(f"return {active}.title") == "cats/02.png"
    page.press("End")
    page.wait(f"{active}?.getAttribute('aria-posinset') === '{len(members)}'")
    page.press("/")
    assert page.run("return document.activeElement.id") == "text"


def test_page_link_to_a_member_opens_it(page, server):
    page.open(f"http://{server.hosts[0]}/#/member/0?text=cats")
    page.run("location.reload()")
    page.wait("document.querySelector('dialog')?.open")
    page.wait("document.getElementById('place').textContent === '1 of 14'")
    page.wait("document.querySelector('#content img')?.naturalWidth === 24")
    # The other members of the sample, and their contents.
    page.wait("document.querySelectorAll('#fields li').length === 3")
    page.wait("document.getElementById('fields').textContent.includes('a grey cat')")
    assert page.run("return document.getElementById('text').value") == "cats"
    assert page.run("return new URL(document.getElementById('download').href).pathname") == (
        "/download/0"
    )


def test_page_large_grid_scrolls_to_every_member(browser, large):
    browser.open(large.url)
    browser.wait("document.querySelectorAll('.cell .name').length > 10")
    # In one column, the rows are higher than the page makes an element: the scroll bar is scaled.
    browser.resize(200, 844)
    browser.wait("parseFloat(document.querySelector('.space').style.height) === 8e6")
    browser.run("const g = document.getElementById('grid'); g.scrollTop = g.scrollHeight")
    browser.wait("document.getElementById('cell-99999')?.title === '099999.png'")
    assert len(cells(browser)) < 100
    browser.run("const g = document.getElementById('grid'); g.scrollTop = g.scrollHeight / 2")
    index = "Number(document.querySelector('.cell .name')?.parentElement.dataset.index)"
    browser.wait(f"Math.abs({index} - {MANY / 2}) < 100")
    first = browser.run(f"return {index}")
    # Small steps are taken as they are.
    browser.run("document.getElementById('grid').scrollTop += 300")
    browser.wait(
        "Math.min(...[...document.querySelectorAll('.cell')].map(c => c.dataset.index))"
        f" > {first} && true"
    )
    after = browser.run(
        "return Math.min(...[...document.querySelectorAll('.cell')].map(c => c.dataset.index))"
    )
    assert after - first <= 3
    browser.run("document.getElementById('grid').focus()")
    browser.press("Home")
    browser.wait("document.getElementById('cell-0')?.title === '000000.png'")
    browser.press("End", "Enter")
    browser.wait("document.querySelector('dialog').open")
    assert browser.text("#place") == "100,000 of 100,000"


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_page_fits_its_window(page, width, height):
    page.resize(width, height)
    try:
        page.wait("document.querySelectorAll('.cell .name').length > 5")
        assert page.run("return document.documentElement.scrollWidth") <= width
        page.click(".cell")
        page.wait("document.querySelector('dialog').open")
        assert page.run("return document.documentElement.scrollWidth") <= width
    finally:
        page.resize(1280, 800)
