"""What is wrong with a page that a browser has opened: see `faults`."""

OPEN_ALL = "document.querySelectorAll('details').forEach(one => one.open = true)"

# A column is reachable if its heading can be scrolled to a place in the window where it is on top:
# nothing, such as a sticky column, covers its left edge, its middle or its right edge.
UNREACHABLE_COLUMNS = """
(() => {
  const found = [];
  for (const head of document.querySelectorAll("table tr:first-child > th")) {
    head.scrollIntoView({block: "center", inline: "center"});
    const box = head.getBoundingClientRect();
    const y = (box.top + box.bottom) / 2;
    const xs = [box.left + 2, (box.left + box.right) / 2, box.right - 2];
    const isOnTop = x => {
      const top = document.elementFromPoint(x, y);
      return top !== null && (top === head || head.contains(top));
    };
    if (!xs.every(isOnTop)) found.push(head.textContent.trim());
  }
  for (const box of document.querySelectorAll("*")) box.scrollLeft = 0;
  return found;
})()
"""

# Elements that cut what is in them and cannot be scrolled.
CUT_TEXTS = """
[...document.querySelectorAll("body *")].filter(one => {
  const style = getComputedStyle(one);
  return ["hidden", "clip"].includes(style.overflowX) && !one.closest("svg")
    && one.scrollWidth > one.clientWidth + 1 && one.textContent.trim();
}).map(one => one.textContent.trim().slice(0, 40))
"""

# Words of a chart that begin or end outside of its drawing.
OUTSIDE_OF_CHARTS = """
[...document.querySelectorAll("svg text")].filter(one => {
  const word = one.getBoundingClientRect();
  const chart = one.closest("svg").getBoundingClientRect();
  return word.left < chart.left - 1 || word.right > chart.right + 1
    || word.top < chart.top - 1 || word.bottom > chart.bottom + 1;
}).map(one => one.textContent)
"""


def faults(tab):
    """The faults of the open page, in words; [] if it has none. All folded parts are opened.

    Console messages, requests that leave the page, sideways overflow, columns that cannot be
    scrolled to, texts that are cut.
    """
    tab.evaluate(OPEN_ALL)
    found = [f"console: {message}" for message in tab.console]
    own, *others = tab.requests
    found += [f"request: {address}" for address in others if not address.startswith("data:")]
    if not own.startswith("file:"):
        found.append(f"request: {own}")
    width, window = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    if width > window:
        found.append(f"wider than the window: {width} of {window} pixels")
    for words, script in (
        ("column cannot be reached", UNREACHABLE_COLUMNS),
        ("text is cut", CUT_TEXTS),
        ("words outside of their chart", OUTSIDE_OF_CHARTS),
    ):
        found += [f"{words}: {one}" for one in tab.evaluate(script)]
    return found
