"""A headless Chromium for tests of pages, spoken to over a pipe: no port, no driver."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from attrs import define, field

from tests.support import folder

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_AXE = importlib.util.find_spec("axe_core_python")
MISSING = "" if BINARY else "no chromium here (apt-get install chromium)"
MISSING = MISSING or ("" if _AXE else "axe-core-python is not installed")
PATIENCE = 60.0  # seconds

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


@define(eq=False)
class Browser:
    """One page of one browser, which is gone after the test.

    `errors` are its console's errors: exceptions, what the policy forbade, what could
    not be fetched.  `requests` are the addresses that it asked for, besides data.
    """

    _process: subprocess.Popen
    _commands: int
    _answers: int
    _session: str | None = None
    _count: int = 0
    _buffer: bytes = b""
    errors: list[str] = field(factory=list)
    requests: list[str] = field(factory=list)

    @classmethod
    def start(cls, case: Any) -> Browser:
        """With a new, empty profile."""
        assert BINARY is not None
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # It reads commands from descriptor 3, and answers on 4; dash has no <&12.
        command = f'exec "$@" 3</dev/fd/{theirs_in} 4>/dev/fd/{theirs_out}'
        process = subprocess.Popen(
            ["sh", "-c", command, "sh", BINARY, *_FLAGS, "--remote-debugging-pipe",
             f"--user-data-dir={folder(case)}", "about:blank"],
            pass_fds=(theirs_in, theirs_out), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        made = cls(process, ours_out, ours_in)
        case.addCleanup(made._close)
        target = made._call("Target.createTarget", url="about:blank")["targetId"]
        made._session = made._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            made._call(f"{domain}.enable")
        return made

    def open_page(self, url: str, width: int = 1280, *, dark: bool = False) -> None:
        """Go to `url`."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=url)
        self.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript `expression`."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = PATIENCE) -> Any:
        """The value of `expression` as soon as it is true."""
        end = time.monotonic() + seconds
        while not (found := self.evaluate(expression)):
            if time.monotonic() > end:
                text = self.evaluate("document.body.innerText")
                raise AssertionError(f"{expression} did not come within {seconds} s: {text}")
            self._read(0.05)
        return found

    def find_barriers(self) -> list[str]:
        """Return what axe-core finds on the page, folds opened, that keeps somebody from it."""
        assert _AXE is not None and _AXE.origin is not None
        self.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; }); 1")
        if not self.evaluate("typeof axe === 'object'"):
            # Not as a script of the page, whose policy allows none but its own.
            self.evaluate(f"{Path(_AXE.origin).with_name('axe.min.js').read_text()}; 1")
        found: list[dict[str, Any]] = self.evaluate(
            "axe.run(document, { preload: false, resultTypes: ['violations'] })"
            ".then((done) => done.violations)"
        )
        return [
            f"{each['impact']}: {each['id']}: {each['help']}: {node['html'][:200]}"
            for each in found for node in each["nodes"][:3]
        ]  # fmt: skip

    def mouse(self, selector: str, *path: tuple[float, float], drag: bool = False) -> None:
        """Move over the element `selector`, to places in shares of its width and height."""
        box = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({ block: 'center' }); const b = e.getBoundingClientRect();"
            "return [b.left, b.top, b.width, b.height]; })()"
        )
        for i, (across, down) in enumerate(path):
            at = {"x": box[0] + across * box[2], "y": box[1] + down * box[3]}
            held = {"button": "left", "buttons": 1} if drag and i else {}
            self._call("Input.dispatchMouseEvent", type="mouseMoved", **at, **held)
            if drag and i in (0, len(path) - 1):
                self.press(at, "mouseReleased" if i else "mousePressed")

    def double_click(self, selector: str) -> None:
        """Click twice on the middle of the element `selector`."""
        self.mouse(selector, (0.5, 0.5))
        box = self.evaluate(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        for clicks in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                self.press({"x": box[0], "y": box[1]}, kind, clicks)

    def key(self, name: str) -> None:
        """Press and release a key, as a keyboard does."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27}.get(name, 0)
        text = (
            {"text": "\r" if name == "Enter" else name} if len(name) == 1 or name == "Enter" else {}
        )
        for kind, more in (("keyDown", text), ("keyUp", {})):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key=name, windowsVirtualKeyCode=code, **more
            )

    def press(self, at: dict[str, float], kind: str, clicks: int = 1) -> None:
        self._call("Input.dispatchMouseEvent", type=kind, **at, button="left", clickCount=clicks)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG, for a person to look at."""
        size = self.evaluate("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **parameters: Any) -> Any:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for answer in self._read(1.0):
                if answer.get("id") == self._count:
                    if "error" in answer:
                        raise AssertionError(f"{method}: {answer['error']}")
                    return answer["result"]
        raise AssertionError(f"{method}: no answer from the browser")

    def _read(self, seconds: float) -> list[dict[str, Any]]:
        """The messages that come within `seconds`; also keeps what the page complains of."""
        if select.select([self._answers], [], [], seconds)[0]:
            data = os.read(self._answers, 1 << 20)
            if not data:
                raise AssertionError(f"the browser is gone, with code {self._process.poll()}")
            self._buffer += data
        *whole, self._buffer = self._buffer.split(b"\0")
        messages = [json.loads(text) for text in whole]
        for message in messages:
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]))
            if message.get("method") == "Network.requestWillBeSent":
                address = message["params"]["request"]["url"]
                if not address.startswith("data:"):
                    self.requests.append(address)
            entry = message.get("params", {}).get("entry", {})
            if message.get("method") == "Log.entryAdded" and entry.get("level") == "error":
                self.errors.append(entry["text"])
        return messages

    def _close(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # its own session: all of it
        except ProcessLookupError:
            pass
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
