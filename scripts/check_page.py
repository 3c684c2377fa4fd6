#!/usr/bin/env python3
"""Opens report.html in headless Chromium and holds it against what it promises.

usage: check_page.py PAGE.html [--screenshots DIR NAME] [--pdf FILE] [--chromium PROGRAM]
       check_page.py --live http://127.0.0.1:PORT/   (a page whose study gains a cell within 30 s must show it)
Checks, with every model in turn, light and dark, at 1280 and 390 pixels: no message on the console, no request but
for the page itself, every chart has data, nothing wider than the window, tables sort and filter, answers open; then
what screen readers, keyboards and printers get (check_page_access.py).
Exits 0 when all holds, 1 with a line for each failure, 77 when there is no Chromium (ctest: skipped).
Speaks the DevTools protocol over a pipe; needs nothing but Python and Chromium (apt-get install chromium).
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
import time

from check_page_access import check_access, check_print
from chromium import Browser

SKIPPED = 77
WIDTHS = (1280, 390)


# What a chart without data looks like: no dataset, or none with a finite number in it.
CHARTS = """[...document.querySelectorAll('canvas')].map((canvas) => {
  const chart = Chart.getChart(canvas);
  const numbers = chart ? chart.data.datasets.flatMap((d) => d.data).map((v) => typeof v === 'number' ? v : Array.isArray(v) ? v[1] : v.y) : [];
  return [canvas.getAttribute('aria-label').split('.')[0], numbers.filter(Number.isFinite).length, canvas.offsetWidth * canvas.offsetHeight];
})"""
# [title, empty, coloured cells, choices of what to colour by] of each heat map.
HEATS = """[...document.querySelectorAll('figure.heatmap')].map((figure) => [figure.getAttribute('aria-label'), Boolean(figure.querySelector('.empty')),
  [...figure.querySelectorAll('td')].filter((td) => td.style.background && /\\d/.test(td.textContent)).length, figure.querySelectorAll('option').length])"""
# Every choice of a heat map's colour in turn: how many leave no cell coloured.
HEAT_CHOICES = """(() => {
  let blank = 0;
  const select = () => document.querySelector('figure.heatmap[aria-label="Sensitivity by layer"] select');
  for (const {value} of [...select().options]) {
    select().value = value;
    select().dispatchEvent(new Event('change'));
    const cells = [...document.querySelectorAll('figure.heatmap[aria-label="Sensitivity by layer"] td')];
    blank += !cells.some((td) => td.style.background);
  }
  return blank;
})()"""
# Fine-tuned models shown, rows of their tables, whether the head links there.
FINETUNED = """[document.querySelectorAll('#finetuning h3').length, document.querySelectorAll('#finetuning tbody tr').length,
  document.querySelector('#sections a[href="#finetuning"]').offsetWidth > 0]"""
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


def check(browser, url, failures, expect, analysed, finetuned):
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            where = f"{width} pixels, {scheme}"
            browser.open(url, width, scheme)
            models = browser.run("document.querySelectorAll('.picker button').length")
            with_analysis = 0
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
                for title, empty, cells, choices in browser.run(HEATS):
                    if not empty and (cells == 0 or choices == 0):
                        failures.append(f"{where}, model {i}: heat map '{title}': {cells} cells, {choices} choices")
                    if title == "Sensitivity by layer" and not empty:
                        with_analysis += 1
                        if blank := browser.run(HEAT_CHOICES):
                            failures.append(f"{where}, model {i}: {blank} choices of heat map '{title}' show nothing")
            if with_analysis < analysed:
                failures.append(f"{where}: {with_analysis} models with an analysis, expected {analysed}")
            pairs, rows, linked = browser.run(FINETUNED)
            if pairs != finetuned or (rows > 0) != (finetuned > 0) or linked != (finetuned > 0):
                failures.append(f"{where}: {pairs} fine-tuned models with {rows} rows (in the head: {linked}), expected {finetuned}")
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
            allowed = (url, url + "data.json") if url.startswith("http") else (url,)
            if asked.split("#")[0] not in allowed and not asked.startswith("data:"):
                failures.append("request: " + asked[:200])


def check_live(browser, url, failures):
    browser.open(url, 1280, "light")
    summary = "document.getElementById('summary').textContent"
    before, end = browser.run(summary), time.monotonic() + 30
    if not browser.run("document.getElementById('footer').textContent").startswith("Live: "):
        failures.append("the page does not say that it is live")
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    opened = browser.run("document.querySelectorAll('details[open]').length")
    while browser.run(summary) == before and time.monotonic() < end:
        time.sleep(0.2)
    if browser.run(summary) == before:
        failures.append(f"nothing new was shown: '{before}'")
    if browser.run("document.querySelectorAll('details[open]').length") < opened:
        failures.append("what was open is closed after an update")


def screenshots(browser, url, folder, name):
    os.makedirs(folder, exist_ok=True)
    for scheme in ("light", "dark"):
        for width, height in ((1280, 1500), (390, 1500)):
            browser.open(url, width, scheme)
            browser.screenshot(os.path.join(folder, f"{name}-{width}-{scheme}.png"), width, height)
            browser.run("document.getElementById('models').scrollIntoView({behavior: 'instant'})")
            browser.screenshot(os.path.join(folder, f"{name}-models-{width}-{scheme}.png"), width, height)
            if browser.run("""(() => { const part = document.getElementById('finetuning');
              if (part) part.scrollIntoView({behavior: 'instant'}); return Boolean(part); })()"""):
                browser.screenshot(os.path.join(folder, f"{name}-finetuning-{width}-{scheme}.png"), width, 900)
            if browser.run("""(() => { const map = document.querySelector('figure.heatmap[aria-label="Sensitivity by layer"] table');
              if (map) map.closest('figure').previousElementSibling.scrollIntoView({behavior: 'instant'}); return Boolean(map); })()"""):
                browser.screenshot(os.path.join(folder, f"{name}-layers-{width}-{scheme}.png"), width, 900)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", nargs="?")
    parser.add_argument("--live", metavar="URL")
    parser.add_argument("--screenshots", nargs=2, metavar=("DIR", "NAME"))
    parser.add_argument("--pdf", help="leave the printed page here")
    parser.add_argument("--charts", type=int, default=6, help="at least so many charts a model")
    parser.add_argument("--analysed", type=int, default=0, help="so many models have a stored analysis")
    parser.add_argument("--finetuned", type=int, default=0, help="so many fine-tuned models stand beside their base")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser") or
                        shutil.which("google-chrome"))
    options = parser.parse_args()
    if bool(options.page) == bool(options.live):
        parser.error("a file, or --live URL")
    if not options.chromium:
        print("no Chromium here (apt-get install chromium): the page was not opened")
        return SKIPPED
    url = options.live or "file://" + os.path.abspath(options.page)
    failures = []
    with tempfile.TemporaryDirectory(prefix="nibble-page-", ignore_cleanup_errors=True) as profile:
        browser = Browser(options.chromium, profile)
        try:
            if options.live:
                check_live(browser, url, failures)
            else:
                check(browser, url, failures, options.charts, options.analysed, options.finetuned)
                check_access(browser, url, failures)
                check_print(browser, url, failures, options.pdf)
            gather(browser, url, failures)
            if options.screenshots:
                screenshots(browser, url, *options.screenshots)
        finally:
            browser.close()
    for failure in failures:
        print(failure)
    if not failures:
        print(f"{url}: no console message, no request, every chart has data, all of it named and printable")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
