"""Makes the screenshots of the documentation: ``python tools/make_screenshots.py FOLDER``.

FOLDER holds PNG files, such as ``/usr/share/openclipart/png`` of Debian's package openclipart-png.
Chromium and ChromeDriver must be installed; see ``tools/install_test_servers.sh``.
"""

from __future__ import annotations

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


def save(browser: Browser, path: Path) -> None:
    """Save what the browser shows in few colors, which takes a third of the bytes."""
    image = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Make all of them."""
    with tempfile.TemporaryDirectory() as temporary:
        archive_path = Path(temporary, "clipart.tar")
        write_archive(archive_path, Path(sys.argv[1]))
        with (
            imagearchive.open(archive_path) as archive,
            ViewerServer(archive) as server,
            chromium(Path(temporary)) as browser,
        ):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser.resize(WIDTH, HEIGHT)
            browser.open(server.url)
            browser.wait("document.querySelectorAll('.cell img').length > 20")
            browser.wait("[...document.querySelectorAll('.cell img')].every(one => one.complete)")
            save(browser, GUIDES / "viewer.png")
            server.shutdown()
            page = Path(temporary, "report.html")
            imagearchive.report(archive_path, page)
            browser.open(page.as_uri())
            browser.run("document.querySelector('.classes').scrollIntoView()")
            save(browser, GUIDES / "report.png")


if __name__ == "__main__":
    main()
