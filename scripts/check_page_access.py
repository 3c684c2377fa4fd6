"""What report.html promises to those who do not see it, do not use a mouse, or print it. Used by check_page.py."""
import base64
import re

PAPER = 1039  # CSS pixels between the margins of the page's own paper, A4 landscape
SMALLEST_CONTRAST = 4.5  # WCAG 2.2 AA; 3 for large text
LANDMARKS = {"banner": 1, "navigation": 1, "main": 1, "contentinfo": 1}

# Element and place, ids that stand there twice, cells of tables that do not say what they head.
DOM = """(() => {
  const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
  return [document.documentElement.lang, document.title, ids.filter((id, i) => ids.indexOf(id) !== i),
    [...document.querySelectorAll('th:not([scope])')].map((e) => e.outerHTML.slice(0, 80)),
    [...document.querySelectorAll('table')].filter((t) => !t.caption && !t.getAttribute('aria-label') && !t.closest('[aria-label]')).map((t) => t.outerHTML.slice(0, 80)),
    [...document.querySelectorAll('.scroll, .sideways, pre')].filter((e) => e.scrollWidth > e.clientWidth && e.tabIndex < 0).map((e) => e.className)];
})()"""

# [what, ratio] of text that stands out too little from what lies behind it; colours as the browser resolves them.
CONTRAST = """(() => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const ctx = canvas.getContext('2d', {willReadFrequently: true});
  const seen = new Map();
  const rgba = (colour) => {
    if (!seen.has(colour)) {
      ctx.clearRect(0, 0, 1, 1);
      ctx.fillStyle = colour;
      ctx.fillRect(0, 0, 1, 1);
      seen.set(colour, [...ctx.getImageData(0, 0, 1, 1).data]);
    }
    return seen.get(colour);
  };
  const over = (top, below) => [0, 1, 2].map((k) => top[k] * top[3] / 255 + below[k] * (1 - top[3] / 255));
  const behind = (e) => {
    if (!e) return [255, 255, 255];
    const colour = rgba(getComputedStyle(e).backgroundColor);
    return colour[3] === 255 ? colour : over(colour, behind(e.parentElement));
  };
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, k) => {
    const v = c[k] / 255;
    return sum + weight * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);
  const poor = new Map();
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility() || ['SCRIPT', 'STYLE', 'NOSCRIPT', 'OPTION'].includes(e.tagName)) continue;
    const style = getComputedStyle(e), back = behind(e);
    const [a, b] = [light(over(rgba(style.color), back)), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    const what = `${e.tagName.toLowerCase()}.${e.className} in ${e.parentElement.tagName.toLowerCase()}.${e.parentElement.className}`;
    if (ratio < (large ? 3 : LIMIT) && !(poor.get(what) <= ratio)) poor.set(what, ratio);
  }
  return [...poor].map(([what, ratio]) => [what, Math.round(100 * ratio) / 100]);
})()""".replace("LIMIT", str(SMALLEST_CONTRAST))

PRINTED = """[...document.querySelectorAll('canvas')].filter((c) => c.checkVisibility()).map((c) =>
  [c.getAttribute('aria-label').split('.')[0], c.getBoundingClientRect().right, c.closest('.card').getBoundingClientRect().right])"""
SHOWN_ON_PAPER = """['.controls', '.picker', '.top', '#answers', 'thead button'].filter((s) =>
  [...document.querySelectorAll(s)].some((e) => e.checkVisibility()))"""
HIDDEN_EVIDENCE = """[...document.querySelectorAll('details.issue table')].filter((t) => !t.checkVisibility({contentVisibilityAuto: true})).length"""


def value(node, key):
    return node.get(key, {}).get("value")


def properties(node):
    return {p["name"]: p["value"].get("value") for p in node.get("properties", [])}


def in_reading_order(nodes):
    """The tree that a screen reader walks, without what it passes over."""
    by_id = {n["nodeId"]: n for n in nodes}

    def walk(node):
        if not node.get("ignored"):
            yield node
        for child in node.get("childIds", []):
            if child in by_id:
                yield from walk(by_id[child])
    return list(walk(nodes[0]))


def check_tree(browser, where, failures):
    nodes = in_reading_order(browser.call("Accessibility.getFullAXTree")["nodes"])
    roles = [value(n, "role") for n in nodes]
    for role, count in LANDMARKS.items():
        if roles.count(role) != count:
            failures.append(f"{where}: {roles.count(role)} landmarks '{role}', expected {count}")
    levels = [(properties(n).get("level"), value(n, "name") or "") for n in nodes if value(n, "role") == "heading"]
    if not levels or levels[0][0] != 1 or [level for level, _ in levels].count(1) != 1:
        failures.append(f"{where}: the first heading, and no other, must be of level 1: {levels[:3]}")
    for (before, _), (level, name) in zip(levels, levels[1:]):
        if level > before + 1:
            failures.append(f"{where}: heading '{name}' of level {level} after one of level {before}")
        if not name.strip():
            failures.append(f"{where}: a heading without words")
    for node, role in zip(nodes, roles):
        name = (value(node, "name") or "").strip()
        if role in ("image", "img", "Canvas") and not re.search(r"\d", name):
            failures.append(f"{where}: a picture whose words hold no figure: '{name[:80]}'")
        if role in ("table", "figure", "region") and not name:
            failures.append(f"{where}: a {role} without a name")
        if properties(node).get("focusable") and role not in ("RootWebArea", "main", "generic") and not name:
            if role != "pre" and value(node, "role") != "group":
                failures.append(f"{where}: a focusable {role} without a name")
    if "image" not in roles and "img" not in roles:
        failures.append(f"{where}: no picture in the accessibility tree")
    heads = sum(role in ("columnheader", "rowheader") for role in roles)
    if heads < roles.count("table"):
        failures.append(f"{where}: {heads} heads for {roles.count('table')} tables")


def check_dom(browser, where, failures):
    lang, title, twice, no_scope, unnamed, unreachable = browser.run(DOM)
    if lang != "en" or not title:
        failures.append(f"{where}: language '{lang}', title '{title}'")
    for what, found in (("ids twice", twice), ("heads without scope", no_scope), ("tables without a name", unnamed),
                        ("areas that only a mouse can scroll", unreachable)):
        if found:
            failures.append(f"{where}: {what}: {found[:5]}")


def press(browser, key, code):
    text = {"Enter": "\r", " ": " "}.get(key, "")
    for kind in ("keyDown", "keyUp"):
        extra = {"text": text} if text and kind == "keyDown" else {}
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code="Space" if key == " " else key,
                     windowsVirtualKeyCode=code, **extra)


def check_keyboard(browser, failures):
    press(browser, "Tab", 9)
    first = browser.run("document.activeElement.className + ' ' + document.activeElement.getBoundingClientRect().left")
    if not first.startswith("skip ") or float(first.split()[1]) < 0:
        failures.append(f"the first Tab does not show the link past the navigation: '{first}'")
    press(browser, "Enter", 13)
    browser.settle()
    if browser.run("document.activeElement.id") != "main":
        failures.append("the link past the navigation does not lead to the results")
    head = "document.querySelector('[data-table=\"scores\"] thead button')"
    browser.run(f"{head}.focus()")
    press(browser, "Enter", 13)
    if browser.run(f"{head}.parentElement.getAttribute('aria-sort')") != "ascending":
        failures.append("Enter on the head of a column does not sort")
    summary = "document.querySelector('details.issue summary, details.fold summary')"
    browser.run(f"{summary}.focus()")
    before = browser.run(f"{summary}.parentElement.open")
    press(browser, " ", 32)
    if browser.run(f"{summary}.parentElement.open") == before:
        failures.append("Space on a heading that folds does nothing")


def check_access(browser, url, failures):
    browser.call("Accessibility.enable")
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            browser.open(url, width, scheme)
            where = f"{width} pixels, {scheme}"
            browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
            browser.settle()
            check_tree(browser, where, failures)
            check_dom(browser, where, failures)
            for what, ratio in browser.run(CONTRAST):
                failures.append(f"{where}: contrast {ratio} of {what}")
    browser.open(url, 1280, "light")
    check_keyboard(browser, failures)


def check_print(browser, url, failures, pdf):
    """As paper shows it: every model, nothing cut off, no controls. `pdf`: where to leave it, or None."""
    browser.open(url, PAPER, "dark")
    models = browser.run("document.querySelectorAll('.picker button').length")
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    browser.run("dispatchEvent(new Event('beforeprint')), true")
    browser.settle()
    for title, right, limit in browser.run(PRINTED):
        if right > limit:
            failures.append(f"on paper: chart '{title}' is wider than its card")
    if (wide := browser.run("document.documentElement.scrollWidth")) > PAPER:
        failures.append(f"on paper: {wide} pixels wide, the paper has {PAPER}")
    if (names := browser.run("document.querySelectorAll('h3.name').length")) != models:
        failures.append(f"on paper: {names} of {models} models")
    if shown := browser.run(SHOWN_ON_PAPER):
        failures.append(f"on paper: useless there: {shown}")
    if hidden := browser.run(HIDDEN_EVIDENCE):
        failures.append(f"on paper: {hidden} issues without their evidence")
    if (paper := browser.run("getComputedStyle(document.body).backgroundColor")) != "rgb(255, 255, 255)":
        failures.append(f"on paper: background {paper}")
    browser.run("dispatchEvent(new Event('afterprint')), true")
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    data = base64.b64decode(browser.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", data))
    if not data.startswith(b"%PDF") or pages < models + 2:
        failures.append(f"on paper: {pages} pages for {models} models")
    if pdf:
        with open(pdf, "wb") as file:
            file.write(data)
    browser.settle()
    if browser.run("document.querySelectorAll('h3.name').length") != min(models, 1):
        failures.append("after printing the screen shows more than the chosen model")
