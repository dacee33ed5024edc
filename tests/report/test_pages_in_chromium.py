"""The pages in a headless Chromium: nothing on the console, nothing hidden, nothing loaded.

Report, explain and sweep pages at 390 and 1280 pixels, light and dark. Two tests show that a page
with a fault is noticed. Without Chromium the tests are skipped; CI has it.
"""

import pytest

from clear_ref.commands import explain_batch, report
from clear_ref.commands.given import Given
from clear_ref.commands.settings import Report as ReportSettings
from clear_ref.oracle.explain.page import page as explain_page
from clear_ref.report import sweep_page
from tests.helpers import chromium, made_runs, made_sweep
from tests.helpers.page_faults import faults

pytestmark = pytest.mark.skipif(
    chromium.found() is None, reason=f"there is no {chromium.NAME} on PATH"
)
WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def browser():
    with chromium.started() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{name: file}: a run's page, a page of many runs, and an explanation of two semantics."""
    folder = tmp_path_factory.mktemp("pages")
    one = made_runs.write(folder / "one", "scrub", forget=0.4)
    report.of_run(one, "paper")
    long = {"a_long_name_of_an_option": 0.123456789, "layers": "0,1,2,3,4,5,6,7,8,9,10,11,12,13"}
    many = [
        made_runs.write(folder / "a", "npo", forget=0.3),
        made_runs.write(folder / "b", "npo", forget=0.2, options=long),
        made_runs.write(folder / "c", "dpo", retain=0.1, semantics="released"),
        *(made_runs.write(folder / f"s{i}", "sku", seed=i, forget=0.2 + i / 20) for i in range(3)),
        made_runs.write(folder / "d", "kl", modality="visual", said="x" * 900),
    ]
    settings = ReportSettings(out=str(folder / "report"), data="mini")
    report.run([str(path) for path in many], settings)
    resolved = explain_batch.resolve("scrub", explain_batch.ExplainSettings(records=1), Given())
    explained = explain_batch.explain_batch(resolved)["explained"]
    (folder / "explain.html").write_text(
        explain_page(explained, explain_batch.pictures_of(resolved)), encoding="utf-8"
    )
    (folder / "sweep.html").write_text(
        sweep_page.page(made_sweep.of_all_methods(), made_sweep.RECORD), encoding="utf-8"
    )
    return {
        "run": one / "report.html",
        "runs": folder / "report/report.html",
        "explain": folder / "explain.html",
        "sweep": folder / "sweep.html",
    }


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["run", "runs", "explain", "sweep"])
def test_a_page_is_whole_and_quiet(browser, pages, name, width, dark):
    tab = browser.tab()
    tab.open(pages[name], width, dark)
    assert tab.evaluate("innerWidth") == width
    shade = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, shade[4:-1].split(","))) < 384) == dark
    assert faults(tab) == []


@pytest.mark.slow
def test_a_click_on_a_heading_sorts_the_table(browser, pages):
    """The one script of the page runs under its content security policy."""
    tab = browser.tab()
    tab.open(pages["runs"], 1280)
    head = 'document.querySelector("table.sort th:nth-child(2)")'
    tab.evaluate(f"{head}.querySelector('button').click()")
    assert tab.evaluate(f"{head}.getAttribute('aria-sort')") == "descending"
    values = tab.evaluate(
        '[...document.querySelector("table.sort").tBodies[1].rows].map(row => '
        "+row.cells[1].dataset.value)"
    )
    assert values == sorted(values, reverse=True) and len(values) > 2
    assert faults(tab) == []


GOOD = "<!DOCTYPE html><title>t</title><style>body { margin: 0 }</style>"
TABLE = "<table><thead><tr><th>a</th><th>b</th></tr></thead></table>"


@pytest.mark.parametrize(
    "body, expected",
    [
        ("<p>nothing is wrong</p>" + TABLE, ""),
        ('<div style="width: 700px">wide</div>', "wider than the window: 700 of 390"),
        ("<script>console.error('lost')</script>", "console: error: lost"),
        ("<script>nothing.at.all</script>", "console: "),
        ('<img src="https://127.0.0.1:9/x.png">', "request: https://127.0.0.1:9/x.png"),
        (f'<div style="width: 5px; overflow: hidden">{TABLE}</div>', "column cannot be reached: b"),
        (
            f'<div style="position: fixed; inset: 0; background: #fff"></div>{TABLE}',
            "column cannot be reached: a",
        ),
        (
            '<div style="width: 50px; overflow: hidden; white-space: nowrap">a long text that is '
            "cut</div>",
            "text is cut: a long text",
        ),
    ],
)
def test_a_page_with_a_fault_is_noticed(browser, tmp_path, body, expected):
    path = tmp_path / "page.html"
    path.write_text(GOOD + body, encoding="utf-8")
    tab = browser.tab()
    tab.open(path, 390)
    found = faults(tab)
    assert any(expected in one for one in found) if expected else found == [], found


@pytest.mark.slow
def test_a_page_that_the_policy_lets_load_nothing_reports_an_attempt(browser, pages, tmp_path):
    """A picture from elsewhere in a page of ours is blocked, and the console says so."""
    text = pages["run"].read_text(encoding="utf-8")
    path = tmp_path / "page.html"
    path.write_text(
        text.replace("<main>", '<main><img alt="" src="https://127.0.0.1:9/x.png">'),
        encoding="utf-8",
    )
    tab = browser.tab()
    tab.open(path, 1280)
    assert any("Content Security Policy" in one for one in faults(tab))
