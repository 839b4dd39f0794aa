"""A headless Chromium, driven by ChromeDriver over the WebDriver protocol."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.servers.program import Program, running

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "End": "\ue010",
    "Home": "\ue011",
    "ArrowLeft": "\ue012",
    "ArrowUp": "\ue013",
    "ArrowRight": "\ue014",
    "ArrowDown": "\ue015",
}
TIMEOUT = 20.0


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is missing; run `make servers` to install it")
    return path


class Browser:
    """One window. Each method waits until the browser has done what it says."""

    def __init__(self, driver: Program, folder: Path) -> None:
        self._port = driver.port
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}",
        ]  # fmt: skip
        options: dict[str, Any] = {"args": arguments}
        # ChromeDriver knows where Chrome is, but not where Debian's Chromium is.
        if chromium_path := shutil.which("chromium"):
            options["binary"] = chromium_path
        always = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "unhandledPromptBehavior": "ignore",
        }
        started = self._send("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self._session = f"/session/{started['sessionId']}"

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            text = None if method == "GET" else json.dumps(body or {})
            connection.request(method, path, text, {"Content-Type": "application/json"})
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(f"{value['error']}: {value['message']}")
        return value

    def command(self, method: str, path: str, body: Any = None) -> Any:
        """Send a command of the protocol to the session; return its value."""
        return self._send(method, self._session + path, body)

    def open(self, url: str) -> None:
        """Load a page."""
        self.command("POST", "/url", {"url": url})

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the page, and whether it prefers dark colors."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        """Send a command of the Chrome DevTools Protocol."""
        return self.command("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function; return its value."""
        return self.command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, *arguments: Any) -> Any:
        """Wait until an expression is true; return its value."""
        deadline = time.monotonic() + TIMEOUT
        while not (value := self.run(f"return {script}", *arguments)):
            assert time.monotonic() < deadline, f"not true within {TIMEOUT:g} s: {script}"
            time.sleep(0.02)
        return value

    def _element(self, selector: str) -> str:
        found = self.command("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[ELEMENT])

    def click(self, selector: str) -> None:
        """Click on the first element that a selector finds."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                self.command("POST", f"/element/{self._element(selector)}/click")
            except RuntimeError as error:
                # The page has replaced the element since it was found.
                if "stale element" not in str(error) or time.monotonic() > deadline:
                    raise
            else:
                return

    def type(self, selector: str, text: str) -> None:
        """Type into an input, after removing what is in it."""
        element = self._element(selector)
        self.command("POST", f"/element/{element}/clear")
        self.command("POST", f"/element/{element}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Press keys, where the focus is."""
        values = [KEYS.get(key, key) for key in keys]
        actions = [
            {"type": kind, "value": value} for value in values for kind in ("keyDown", "keyUp")
        ]
        keyboard = {"type": "key", "id": "keyboard", "actions": actions}
        self.command("POST", "/actions", {"actions": [keyboard]})

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def console(self) -> list[str]:
        """Return what the page has logged since the last call."""
        return [entry["message"] for entry in self.command("POST", "/se/log", {"type": "browser"})]

    def screenshot(self) -> bytes:
        """Return a PNG of the window."""
        return base64.b64decode(self.command("GET", "/screenshot"))

    def quit(self) -> None:
        """Close the window and end Chromium."""
        self._send("DELETE", self._session)


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile below a folder, and end it."""
    driver = _program("chromedriver")
    with running("chromedriver", lambda port: [driver, f"--port={port}"], folder) as server:
        browser = Browser(server, folder)
        try:
            yield browser
        finally:
            browser.quit()
