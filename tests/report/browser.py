"""A headless Chromium driven over a pipe by the DevTools protocol: one start for any number of pages and checks."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe"),
]
WIDE, PHONE = (1100, 800), (360, 740)


class Page:
    """One page. `reported`: what it wrote to the console or threw; `asked`: every address that it asked for."""

    def __init__(self, to: Any, back: Any) -> None:
        self._to, self._back, self._count, self._session = to, back, 0, None
        self.reported: list[str] = []
        self.asked: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser and wait for its answer; what it tells in between is kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        self._to.write(json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        self._to.flush()
        while (told := self._read()).get("id") != self._count:
            self._keep(told)
        assert "error" not in told, f"{method}: {told['error']}"
        return told["result"]

    def open(self, path: Path, *, size: tuple[int, int] = WIDE, **media: str) -> None:
        """Load a file at a window's size; `media` are features such as prefers_color_scheme="dark"."""
        self.reported.clear()
        self.asked.clear()
        self.resize(size, **media)
        self.call("Page.navigate", url=path.absolute().as_uri())
        while (told := self._read()).get("method") != "Page.loadEventFired":
            self._keep(told)
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")

    def resize(self, size: tuple[int, int], kind: str = "", **media: str) -> None:
        """Show the page at another size, on another medium (`kind`: "print")."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def run(self, script: str) -> Any:
        """Return the value of an expression of the page, awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def point_at(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key, such as ("Enter", 13, "\\r")."""
        for kind in ("keyDown", "keyUp"):
            said = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **said)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a screenshot of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def printed(self) -> bytes:
        """Return the page as it is printed, a PDF."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"])

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._back.read(1)) != b"\0":
            assert byte, "the browser has ended"
            text += byte
        return json.loads(text)

    def _keep(self, told: dict[str, Any]) -> None:
        method, params = told.get("method"), told.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.reported.append(str([one.get("value", one.get("description")) for one in params["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.reported.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.reported.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Start a browser, and end it."""
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()

    arguments = [str(PROGRAM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    pipes = f'exec "$@" 3<&{command_read} 4>&{answer_write}'  # the browser reads from 3 and writes to 4
    process = subprocess.Popen(
        ["bash", "-c", pipes, "bash", *arguments], pass_fds=(command_read, answer_write),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(command_read)
    os.close(answer_write)
    try:
        with os.fdopen(command_write, "wb") as to, os.fdopen(answer_read, "rb") as back:
            yield Page(to, back)
    finally:
        process.kill()
        process.wait()
