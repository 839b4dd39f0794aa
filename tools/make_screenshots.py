"""Makes the pictures of the guide: ``python tools/make_screenshots.py CLIPART CELLS``.

CLIPART is a folder of PNG files, such as ``/usr/share/openclipart/png`` of Debian's package
openclipart-png. CELLS is the folder ``elpv_dataset/data`` of PyPI's package elpv-dataset: images of
solar cells, and how probably each is defective. The digits are those of the demo.
Chromium and ChromeDriver must be installed; see ``tools/install_test_servers.sh``.
"""

from __future__ import annotations

import csv
import io
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.browser import Browser, chromium  # noqa: E402

import imagearchive  # noqa: E402
from imagearchive.cli.viewer.server import ViewerServer  # noqa: E402

GUIDES = ROOT / "docs" / "guides"
DIGITS = ROOT / "examples" / "data" / "digits.tar"
WIDTH, HEIGHT = 1280, 800
# Larger files take long to decode, and show nothing else.
LARGEST_FILE = 400_000
MOST_FILES = 4000


def write_archive(path: Path, folder: Path) -> None:
    """Write the images of a folder to a TAR."""
    images = [one for one in sorted(folder.rglob("*.png")) if one.stat().st_size < LARGEST_FILE]
    with imagearchive.TarWriter(path) as tar:
        for one in images[:MOST_FILES]:
            tar.add(str(one.relative_to(folder)), one.read_bytes())


def save(image: Image.Image, path: Path) -> None:
    """Save an image in few colors, which takes a third of the bytes."""
    image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def screenshot(browser: Browser) -> Image.Image:
    """Return what the browser shows."""
    return Image.open(io.BytesIO(browser.screenshot()))


def show_clipart(browser: Browser, folder: Path, temporary: Path) -> None:
    """Show clip art in the viewer, and in a report."""
    archive_path = temporary / "clipart.tar"
    write_archive(archive_path, folder)
    with imagearchive.open(archive_path) as archive, ViewerServer(archive) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.open(server.url)
        browser.wait("document.querySelectorAll('.cell img').length > 20")
        browser.wait("[...document.querySelectorAll('.cell img')].every(one => one.complete)")
        save(screenshot(browser), GUIDES / "viewer.png")
        server.shutdown()
    page = temporary / "report.html"
    imagearchive.report(archive_path, page)
    browser.open(page.as_uri())
    browser.run("document.querySelector('.classes').scrollIntoView()")
    save(screenshot(browser), GUIDES / "report.png")


def show_digits(browser: Browser, temporary: Path) -> None:
    """Show digits as a notebook does."""
    page = temporary / "notebook.html"
    with imagearchive.ImageArchive(DIGITS) as digits:
        # Without the folder of this machine.
        html = digits._repr_html_().replace(str(DIGITS), DIGITS.name)
    page.write_text(f"<!doctype html><body>{html}", encoding="utf-8")
    browser.open(page.as_uri())
    height = browser.run("return Math.ceil(document.body.getBoundingClientRect().bottom)")
    save(screenshot(browser).crop((0, 0, WIDTH, height + 8)), GUIDES / "notebook.png")


def show_cells(folder: Path, temporary: Path) -> None:
    """Show solar cells with their labels."""
    archive_path, table = temporary / "cells.tar", temporary / "cells.csv"
    with imagearchive.TarWriter(archive_path) as tar, table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "defective"])
        for line in (folder / "labels.csv").read_text().splitlines():
            name, probability, _ = line.split()
            tar.add(name, (folder / name).read_bytes())
            rows.writerow([name, f"{float(probability):.2f}"])
    with imagearchive.ImageArchive(
        archive_path, table=table, image="image", label="defective"
    ) as cells:
        save(cells.show(n=16), GUIDES / "cells.png")


def main() -> None:
    """Make all of them."""
    clipart, cells = map(Path, sys.argv[1:3])
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        show_cells(cells, temporary)
        with chromium(temporary) as browser:
            browser.resize(WIDTH, HEIGHT)
            show_digits(browser, temporary)
            show_clipart(browser, clipart, temporary)


if __name__ == "__main__":
    main()
