"""The page in a real browser: it draws, sorts, filters and opens trials, asks nobody for anything, and can be read."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from playwright.sync_api import Browser, Page

from hpo.report import html_page
from hpo.report.compare import write_comparison
from hpo.report.contents import contents
from hpo.report.tables import view_of
from synthetic import synthetic_finals, synthetic_loss_study, synthetic_study

pytestmark = pytest.mark.timeout(180)  # the session's browser starts in one of them
# Text against what is behind it, wherever there is text of its own (WCAG 2, AA: 4.5, or 3 where it is large).
CONTRASTS = """() => {
  const rgb = (css) => (css.match(/[\\d.]+/g) || []).map(Number);
  const parsed = (css) => {
    const [r, g, b, a = 1] = rgb(css);
    return css.startsWith("color(") ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const linear = (part) => (part <= 10.3 ? part / 3294.6 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parsed(getComputedStyle(each).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName) || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const front = light(parsed(element instanceof SVGElement ? style.fill : style.color));
    const back = light(behind(element));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    found.push([ratio, parseFloat(style.fontSize) >= 24 ? 3 : 4.5, element.textContent.trim().slice(0, 40)]);
  }
  return found;
}"""


@contextmanager
def opened(browser: Browser, path: Path, *, width: int = 1280, scheme: Any = "light", **options: Any) -> Iterator[Page]:
    """The page, which has said nothing on the console and asked for nothing but itself when it is left."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, **options)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
    context.close()


def becomes(page: Page, script: str, holds: Callable[[Any], bool]) -> Any:
    """What a script gives, as soon as it is as it should be."""
    # Not `wait_for_function`, which needs `eval`: the page forbids it.
    deadline = time.monotonic() + 60
    while not holds(given := page.evaluate(script)):
        assert time.monotonic() < deadline, f"{script} is still {given}"
        time.sleep(0.05)
    return given


def drawn(page: Page) -> int:
    """How many figures there are, when all of them are drawn."""
    missing = "[...document.querySelectorAll('.plot')].filter((plot) => !plot.querySelector('.main-svg')).length"
    becomes(page, missing, lambda number: number == 0)
    return page.locator(".plot").count()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study of 120 trials, with finals and errors."""
    best = view_of(synthetic_study(120)).best
    assert best
    view = view_of(synthetic_study(120, finals=synthetic_finals(winner=best)))
    path = tmp_path_factory.mktemp("films") / "report.html"
    path.write_text(html_page.page(view, contents(view, path.parent)), encoding="utf-8")
    return path


def column(page: Page, name: str) -> list[str]:
    """The cells of a column of the table of trials, as they are shown."""
    names = page.locator("#trial-table thead th").all_inner_texts()
    at = [each.strip() for each in names].index(name)
    rows = "[...document.querySelectorAll('#trial-table tbody tr')]"
    return list(page.evaluate(f"{rows}.map((row) => row.cells[{at}].innerText)"))


def test_every_figure_is_drawn_and_says_what_it_shows(chromium: Browser, report: Path) -> None:
    with opened(chromium, report) as page:
        assert drawn(page) == 7 + 9 + 2  # the sections' own, one a parameter, the winner's
        for plot in page.locator(".plot").all():
            titles = plot.locator(".xtitle, .ytitle").all_text_contents()
            assert len([title for title in titles if title.strip()]) >= 1
        headings = page.locator("figure h3").all_inner_texts()
        assert len(headings) == 18 and all(headings)


def test_sorts_by_a_column_either_way(chromium: Browser, report: Path) -> None:
    with opened(chromium, report) as page:
        assert column(page, "Trial")[0].endswith("best")
        assert page.locator("#trial-table tbody tr").count() == 50
        page.get_by_role("button", name="Show more").click()
        assert page.locator("#trial-table tbody tr").count() == 120
        header = page.locator("#trial-table th", has_text="learning_rate")
        header.get_by_role("button").click()
        rates = [float(cell) for cell in column(page, "learning_rate")]
        assert rates == sorted(rates) and rates[0] < rates[-1]
        assert header.get_attribute("aria-sort") == "ascending"
        header.get_by_role("button").press("Enter")  # the keyboard does
        assert [float(cell) for cell in column(page, "learning_rate")] == rates[::-1]
        assert header.get_attribute("aria-sort") == "descending"
        page.get_by_role("button", name="Accuracy", exact=True).click()
        scores = [float(cell) for cell in column(page, "Accuracy") if cell]
        assert scores == sorted(scores, reverse=True)  # the best first
        assert header.get_attribute("aria-sort") is None


def test_of_a_loss_the_least_stands_first_and_of_an_accuracy_beside_it_the_largest(
    chromium: Browser, tmp_path: Path
) -> None:
    view = view_of(synthetic_loss_study(40))
    path = tmp_path / "report.html"
    path.write_text(html_page.page(view, contents(view, tmp_path)), encoding="utf-8")
    with opened(chromium, path) as page:
        for name, down in (("Accuracy", True), ("Loss", False)):
            page.get_by_role("button", name=name, exact=True).click()
            scores = [float(cell) for cell in column(page, name) if cell]
            assert scores == sorted(scores, reverse=down) and scores[0] != scores[-1]


def test_filters_by_words_by_columns_and_by_states(chromium: Browser, report: Path) -> None:
    with opened(chromium, report) as page:
        page.get_by_label("Filter").fill("cosine, learning_rate>1e-4")
        shown = column(page, "Trial")
        assert 0 < len(shown) < 50
        assert set(column(page, "lr_scheduler_type")) == {"cosine"}
        assert all(float(rate) > 0.9999e-4 for rate in column(page, "learning_rate"))
        assert page.locator("#shown").inner_text() == f"{len(shown)} trials (of 120)."
        page.get_by_label("Filter").fill("")
        page.get_by_label("pruned").uncheck()
        assert not any(cell.startswith("pruned") for cell in column(page, "State"))
        page.get_by_label("pruned").check()
        page.get_by_label("Filter").fill("state=pruned trial<20")
        assert all(cell.startswith("pruned") for cell in column(page, "State"))
        assert {int(cell) for cell in column(page, "Trial")} <= set(range(20))
        page.get_by_label("Filter").fill("no such thing")
        assert page.locator("#shown").inner_text() == "0 trials (of 120)."


def test_opens_a_trial_with_its_parameters_curve_and_run(chromium: Browser, report: Path) -> None:
    with opened(chromium, report) as page:
        section = page.locator("#trial")
        assert not section.is_visible()
        page.locator("#trial-table tbody tr").nth(2).locator("td").nth(1).click()
        number = int(column(page, "Trial")[2])
        assert section.get_by_role("heading", level=3).inner_text() == f"Trial {number}"
        assert page.url.endswith(f"#trial-{number}")
        text = section.inner_text()
        for told in ("learning_rate", "Accuracy", "Optimizer steps", "Peak memory", "Seed", str(1000 + number)):
            assert told in text
        assert section.get_by_role("link").get_attribute("href") == f"http://127.0.0.1:5000/#/runs/{number:032x}"
        drawn(page)
        assert section.locator(".scatterlayer .trace").count() == 3  # it, the best, the default
        section.get_by_role("button", name="Next").click()
        assert section.get_by_role("heading", level=3).inner_text() == f"Trial {column(page, 'Trial')[3]}"
        section.get_by_role("button", name="Close").press("Enter")
        assert not section.is_visible()
        page.locator("#trial-table tbody a").nth(5).press("Enter")  # from the keyboard alone
        assert section.get_by_role("heading", level=3).inner_text() == f"Trial {column(page, 'Trial')[5]}"
        page.go_back()


def test_a_link_to_a_trial_opens_it(chromium: Browser, report: Path) -> None:
    with opened(chromium, report) as page:
        page.evaluate("location.hash = 'trial-7'")
        assert page.locator("#trial h3").inner_text() == "Trial 7"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_is_read_on_any_screen(chromium: Browser, report: Path, width: int, scheme: str) -> None:
    """Nothing is wider than the screen, and every text stands out from what is behind it."""
    with opened(chromium, report, width=width, scheme=scheme, is_mobile=width < 500, has_touch=width < 500) as page:
        page.evaluate("location.hash = 'trial-7'")
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wide = page.evaluate(
            "[...document.querySelectorAll('main *')].filter((each) => !each.closest('.scroll, pre, .quiet, svg')"
            " && each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.outerHTML.slice(0, 80))"
        )
        assert wide == []
        found = page.evaluate(CONTRASTS)
        assert len(found) > 300
        assert [each for each in found if each[0] < each[1]] == []
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_figures_follow_the_colour_scheme_and_the_printer(chromium: Browser, report: Path) -> None:
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    with opened(chromium, report) as page:
        drawn(page)
        light = page.evaluate(ink)
        page.emulate_media(color_scheme="dark")
        dark = becomes(page, ink, lambda colour: colour != light)
        page.emulate_media(media="print")
        becomes(page, ink, lambda colour: colour == light)
        widest = page.evaluate(
            "Math.max(...[...document.querySelectorAll('.main-svg')].map((each) => each.width.baseVal.value))"
        )
        assert widest <= 680  # of a page of A4 with its margins
        page.emulate_media(media="screen")
        becomes(page, ink, lambda colour: colour == dark)


def long_names(studies: int = 1) -> list[optuna.Study]:
    """Ten classes with names as long as data sets have them, and ten seeds."""
    labels = ["card_payment_wrong_exchange_rate", "balance_not_updated_after_cheque_or_cash_deposit"]
    labels += [f"topic_number_{at}" for at in range(8)]
    finals = synthetic_finals(winner=view_of(synthetic_study(60)).best or 0)
    reading, errors = finals.readings[0], finals.errors
    assert errors
    scores = {
        of: {name: each for name, each in getattr(reading, of).items() if "/" not in name}
        | {f"f1/{label}": getattr(reading, of)["f1/negative"] for label in labels}
        for of in ("winner_scores", "default_scores", "differences")
    }
    errors = errors.model_copy(
        update={
            "labels": labels,
            "confusion": [[100.0 if row == column else 3.2 for column in range(10)] for row in range(10)],
            "by_class": [errors.by_class[0].model_copy(update={"name": label}) for label in labels],
            "mistakes": [
                each.model_copy(update={"label": labels[0], "predicted": labels[1]}) for each in errors.mistakes
            ],
        }
    )
    finals = finals.model_copy(
        update={
            "seeds": [1804289383 + at for at in range(10)],
            "asked_seeds": 10,
            "finalists": [
                each.model_copy(update={"scores": (each.scores * 4)[:10], "runs": list(range(10))})
                for each in finals.finalists
            ],
            "readings": [reading.model_copy(update=scores)],
            "errors": errors,
        }
    )
    return [synthetic_study(60, finals=finals, name=f"a_study_with_a_rather_long_name_{at}") for at in range(studies)]


CUT_OFF = """[...document.querySelectorAll('.scroll')].filter((each) => each.scrollWidth > each.clientWidth + 1)
  .map((each) => [each.textContent.trim().slice(0, 30), each.scrollWidth])"""


@pytest.mark.parametrize("what", ["report", "comparison"])
def test_nothing_is_cut_off_on_paper(chromium: Browser, tmp_path: Path, what: str) -> None:
    if what == "report":
        view, path = view_of(long_names()[0]), tmp_path / "report.html"
        path.write_text(html_page.page(view, contents(view, tmp_path)), encoding="utf-8")
    else:
        path = write_comparison(long_names(8), tmp_path).page
    with opened(chromium, path, width=680) as page:  # of A4 with its margins
        page.emulate_media(media="print")
        drawn(page)
        assert page.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("width", [360, 390])
def test_a_long_name_leaves_room_for_what_stands_beside_it(chromium: Browser, tmp_path: Path, width: int) -> None:
    view, path = view_of(long_names()[0]), tmp_path / "report.html"
    path.write_text(html_page.page(view, contents(view, tmp_path)), encoding="utf-8")
    with opened(chromium, path, width=width, is_mobile=True, has_touch=True) as page:
        widths = page.evaluate(
            "[...document.querySelectorAll('.wide, .matrix')].map((each) => Math.max(...[...each.rows].map((row) =>"
            " row.cells[0].getBoundingClientRect().width)))"
        )
        assert len(widths) == 2  # the scores, and the confusion matrix
        assert max(widths) <= width / 2


def test_prints_figures_that_nobody_has_scrolled_to(chromium: Browser, report: Path) -> None:
    with opened(chromium, report) as page:
        page.emulate_media(media="print")
        drawn(page)
        assert page.pdf(format="A4").startswith(b"%PDF")


def test_a_thousand_trials_open_at_once(chromium: Browser, tmp_path: Path) -> None:
    view = view_of(synthetic_study(1000, finals=synthetic_finals()))
    path = tmp_path / "report.html"
    path.write_text(html_page.page(view, contents(view, tmp_path)), encoding="utf-8")
    assert path.stat().st_size < 7 * 2**20
    with opened(chromium, path) as page:
        loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        assert loaded < 6000  # 0.2 s where nothing else runs
        drawn(page)
        assert page.locator("#trial-table tbody tr").count() == 50
        page.get_by_label("Filter").fill("trial=700")
        assert column(page, "Trial") == ["700"]


def test_a_comparison(chromium: Browser, tmp_path: Path) -> None:
    studies = [synthetic_study(20, name=name, finals=synthetic_finals(winner=3)) for name in ("one", "another")]
    files = write_comparison(studies, tmp_path)
    for scheme in ("light", "dark"):
        with opened(chromium, files.page, width=390, scheme=scheme) as page:
            assert drawn(page) == 3
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert page.get_by_role("link", name="another").get_attribute("href") == "another/report.html"
            assert [each for each in page.evaluate(CONTRASTS) if each[0] < each[1]] == []
