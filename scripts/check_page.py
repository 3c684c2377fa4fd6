#!/usr/bin/env python3
"""Opens report.html in headless Chromium and holds it against what it promises.

usage: check_page.py PAGE.html [--screenshots DIR NAME] [--chromium PROGRAM]
Checks, with every model in turn, light and dark, at 1280 and 390 pixels: no message on the console, no request but
for the page itself, every chart has data, nothing wider than the window, tables sort and filter, answers open.
Exits 0 when all holds, 1 with a line for each failure, 77 when there is no Chromium (ctest: skipped).
Speaks the DevTools protocol over a pipe; needs nothing but Python and Chromium (apt-get install chromium).
"""
import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

SKIPPED = 77
WIDTHS = (1280, 390)


class Browser:
    """One page of one Chromium; messages are JSON, ended by a zero byte, on file descriptors 3 and 4."""

    def __init__(self, program, profile):
        to_child, self.write_end = os.pipe()
        self.read_end, from_child = os.pipe()
        # Not 3 and 4 themselves, which the child's side must become.
        to_child, from_child = (self._above(fd, 10) for fd in (to_child, from_child))

        def descriptors():
            os.dup2(to_child, 3)
            os.dup2(from_child, 4)

        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
             "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=descriptors, pass_fds=(3, 4, to_child, from_child), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(to_child)
        os.close(from_child)
        self.buffer, self.number, self.session, self.events = b"", 0, None, []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    @staticmethod
    def _above(fd, lowest):
        import fcntl
        other = fcntl.fcntl(fd, fcntl.F_DUPFD, lowest)
        os.close(fd)
        return other

    def _message(self, seconds):
        import select
        end = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.read_end], [], [], left)[0]:
                return None
            part = os.read(self.read_end, 1 << 20)
            if not part:
                raise RuntimeError("Chromium ended")
            self.buffer += part
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message(60)
            if answer is None:
                raise RuntimeError(f"{method}: no answer")
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def wait(self, event, seconds=30):
        while True:
            for i, message in enumerate(self.events):
                if message.get("method") == event:
                    return self.events.pop(i)
            message = self._message(seconds)
            if message is None:
                raise RuntimeError(f"{event} did not come")
            self.events.append(message)

    def run(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", "exception"))
        return result["result"].get("value")

    def open(self, url, width, scheme):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=url)
        self.wait("Page.loadEventFired")
        self.settle()

    def settle(self):
        self.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(r, 60))))")

    def screenshot(self, path, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.settle()
        image = self.call("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(image))
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)

    def close(self):
        try:
            self.session = None
            self.call("Browser.close")
        except (RuntimeError, OSError):
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# What a chart without data looks like: no dataset, or none with a finite number in it.
CHARTS = """[...document.querySelectorAll('canvas')].map((canvas) => {
  const chart = Chart.getChart(canvas);
  const numbers = chart ? chart.data.datasets.flatMap((d) => d.data).map((v) => typeof v === 'number' ? v : Array.isArray(v) ? v[1] : v.y) : [];
  return [canvas.getAttribute('aria-label').split('.')[0], numbers.filter(Number.isFinite).length, canvas.offsetWidth * canvas.offsetHeight];
})"""
OVERFLOW = "document.documentElement.scrollWidth"
SORT = """(() => {
  const table = document.querySelector('[data-table="scores"]');
  const column = [...table.querySelectorAll('thead th')].findIndex((th) => th.textContent === 'Score');
  const read = () => [...table.querySelectorAll('tbody tr')].map((tr) => parseFloat(tr.children[column].textContent)).filter(Number.isFinite);
  const button = table.querySelectorAll('thead th')[column].querySelector('button');
  button.click();
  const up = read(), sortedUp = table.querySelectorAll('thead th')[column].getAttribute('aria-sort');
  button.click();
  const down = read(), sortedDown = table.querySelectorAll('thead th')[column].getAttribute('aria-sort');
  const ordered = (list, sign) => list.every((v, i) => i === 0 || sign * (v - list[i - 1]) >= 0);
  return [up.length, ordered(up, 1), ordered(down, -1), sortedUp, sortedDown];
})()"""
FILTER = """(() => {
  const table = document.querySelector('[data-table="scores"]'), input = table.querySelector('input');
  const rows = () => [...table.querySelectorAll('tbody tr')].map((tr) => tr.textContent.toLowerCase());
  const all = rows(), word = table.querySelector('tbody tr:last-child td').textContent;
  input.value = word;
  input.dispatchEvent(new Event('input'));
  const found = rows(), expected = all.filter((row) => word.toLowerCase().split(/\\s+/).every((w) => row.includes(w)));
  input.value = '';
  input.dispatchEvent(new Event('input'));
  return [word, found.length, expected.length, rows().length === all.length, found.length < all.length];
})()"""
LABELS = """[...document.querySelectorAll('button, select, input, a')].filter((e) =>
  !(e.textContent.trim() || e.getAttribute('aria-label') || e.closest('label'))).map((e) => e.outerHTML.slice(0, 80))"""


def check(browser, url, failures, expect):
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            where = f"{width} pixels, {scheme}"
            browser.open(url, width, scheme)
            models = browser.run("document.querySelectorAll('.picker button').length")
            if not models:
                failures.append(f"{where}: no model to choose")
            for i in range(models):
                browser.run(f"document.querySelectorAll('.picker button')[{i}].click()")
                browser.settle()
                charts = browser.run(CHARTS)
                if len(charts) < expect:
                    failures.append(f"{where}, model {i}: {len(charts)} charts, expected at least {expect}")
                for title, numbers, area in charts:
                    if numbers == 0 or area == 0:
                        failures.append(f"{where}, model {i}: chart '{title}' has no data or no size")
            if (wide := browser.run(OVERFLOW)) > width:
                failures.append(f"{where}: the page is {wide} pixels wide")
            if unnamed := browser.run(LABELS):
                failures.append(f"{where}: controls without a name: {unnamed}")
    count, up, down, *sorts = browser.run(SORT)
    if count < 2 or not up or not down or sorts != ["ascending", "descending"]:
        failures.append(f"sorting the scores: {count} numbers, ascending {up}, descending {down}, aria-sort {sorts}")
    word, found, expected, back, fewer = browser.run(FILTER)
    if found != expected or not found or not back or not fewer:
        failures.append(f"filtering the scores by '{word}': {found} rows, expected {expected}; all back: {back}")
    answers = browser.run("""(() => { const d = document.querySelector('#answers details'); if (!d) return null;
      d.open = true; return new Promise((r) => setTimeout(() => r(d.querySelectorAll('pre').length), 50)); })()""")
    if answers is not None and answers < 1:
        failures.append("a changed answer opens empty")
    for _ in range(3):  # light, dark, the system's again
        browser.run("document.getElementById('theme').click()")
    browser.run("dispatchEvent(new Event('beforeprint')), dispatchEvent(new Event('afterprint')), true")
    browser.settle()


def gather(browser, url, failures):
    for event in browser.events:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled":
            failures.append("console: " + " ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded":
            failures.append("log: " + params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            failures.append("exception: " + json.dumps(params["exceptionDetails"])[:300])
        elif method == "Network.requestWillBeSent":
            asked = params["request"]["url"]
            if asked.split("#")[0] != url and not asked.startswith("data:"):
                failures.append("request: " + asked[:200])


def screenshots(browser, url, folder, name):
    os.makedirs(folder, exist_ok=True)
    for scheme in ("light", "dark"):
        for width, height in ((1280, 1500), (390, 1500)):
            browser.open(url, width, scheme)
            browser.screenshot(os.path.join(folder, f"{name}-{width}-{scheme}.png"), width, height)
            browser.run("document.getElementById('models').scrollIntoView({behavior: 'instant'})")
            browser.screenshot(os.path.join(folder, f"{name}-models-{width}-{scheme}.png"), width, height)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page")
    parser.add_argument("--screenshots", nargs=2, metavar=("DIR", "NAME"))
    parser.add_argument("--charts", type=int, default=6, help="at least so many charts a model")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser") or
                        shutil.which("google-chrome"))
    options = parser.parse_args()
    if not options.chromium:
        print("no Chromium here (apt-get install chromium): the page was not opened")
        return SKIPPED
    url = "file://" + os.path.abspath(options.page)
    failures = []
    with tempfile.TemporaryDirectory(prefix="nibble-page-", ignore_cleanup_errors=True) as profile:
        browser = Browser(options.chromium, profile)
        try:
            check(browser, url, failures, options.charts)
            gather(browser, url, failures)
            if options.screenshots:
                screenshots(browser, url, *options.screenshots)
        finally:
            browser.close()
    for failure in failures:
        print(failure)
    if not failures:
        print(f"{options.page}: no console message, no request, every chart has data")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
