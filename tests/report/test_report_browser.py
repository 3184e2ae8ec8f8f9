"""The page in Chromium, as a reader opens it: from a file, offline."""

import json
import re
import shutil

import pytest
from readers import read_studies, read_study
from synthetic import HOSTILE

from scaling.report.kind import kind_of
from scaling.studies import STUDIES

pytestmark = pytest.mark.slow
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1100,900",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    for program in (CHROMIUM, DRIVER):
        if not shutil.which(program):
            pytest.skip(f"there is no {program}")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


def opened(browser, page):
    """Load a page; the URLs that it asked for, other than itself."""
    browser.get(page.as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # The log also holds what Chromium's own first tab loads.
    urls = [
        request["request"]["url"] for request in sent if request["documentURL"] == page.as_uri()
    ]
    assert page.as_uri() in urls
    return [url for url in urls if url != page.as_uri() and not url.startswith("data:")]


def hover(browser, mark):
    """The text beside the pointer when it is on a mark."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(browser).move_to_element(mark).perform()
    box = browser.find_element("id", "tip")
    WebDriverWait(browser, 10).until(lambda _: box.is_displayed())
    return box.text


def marks(browser, figure):
    """The marks of a figure that have texts: of its last part that has any."""
    svg = browser.find_elements("css selector", "figure svg")[figure]
    parts = svg.find_elements("css selector", "g[data-series]:has(use > title)")
    return parts[-1].find_elements("css selector", "use:has(> title)")


def test_the_page_of_one_study(browser, report, workdir):
    assert opened(browser, report[0]) == []
    assert browser.get_log("browser") == []
    assert len(browser.find_elements("css selector", "figure svg")) == 5
    text = browser.find_element("tag name", "body").text
    reached = [point for point in read_study(workdir).points if point.reached]
    for point in reached:
        assert re.search(rf"\b{point.steps_to_target:,} \(", text)
        assert f"{point.examples:,}" in text
    found = marks(browser, 0)
    assert len(found) == len(reached)
    for mark, point in [(found[0], reached[0]), (found[-1], reached[-1])]:
        text = hover(browser, mark).replace("\n", " ")
        assert f"batch {point.global_batch:,}" in text
        assert f"{point.steps_to_target:,}" in text
    assert browser.get_log("browser") == []


def test_a_click_on_an_entry_of_the_legend_hides_its_series(browser, report):
    opened(browser, report[0])
    svg = browser.find_element("css selector", "figure svg")
    entry = svg.find_element("css selector", "[data-entry='0']")
    series = svg.find_elements("css selector", "[data-series='0']")
    others = svg.find_elements("css selector", "[data-series='1']")
    assert series and all(part.is_displayed() for part in (*series, *others))
    click = "arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    browser.execute_script(click, entry)
    assert not any(part.is_displayed() for part in series)
    assert all(part.is_displayed() for part in others)
    browser.execute_script(click, entry)
    assert all(part.is_displayed() for part in series)


def test_hostile_titles_run_nothing(browser, comparison, three):
    assert opened(browser, comparison) == []
    assert browser.get_log("browser") == []
    assert HOSTILE in browser.title
    assert browser.find_element("tag name", "h1").text.count(HOSTILE) == 3
    label = read_studies(three)[-1].label
    assert label in hover(browser, marks(browser, 0)[0]).replace("\n", " ")


def test_the_page_of_every_kind(browser, mixed):
    assert opened(browser, mixed[0]) == []
    assert browser.get_log("browser") == []
    assert len(browser.find_elements("css selector", "figure svg")) > 15
    kinds = [heading.text for heading in browser.find_elements("css selector", "h1.kind")]
    assert kinds == [kind_of(study).name for study in STUDIES]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 1100
    assert HOSTILE in browser.find_element("tag name", "body").text


def test_a_relief_turns_with_the_pointer(browser, mixed):
    from selenium.webdriver import ActionChains

    opened(browser, mixed[0])
    one, other, *_ = browser.find_elements("css selector", ".reliefs canvas")
    drawn = lambda: [
        browser.execute_script("return arguments[0].toDataURL()", each) for each in (one, other)
    ]
    before = drawn()
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", one)
    ActionChains(browser).click_and_hold(one).move_by_offset(60, 10).release().perform()
    after = drawn()
    assert all(old != new for old, new in zip(before, after, strict=True))
    ActionChains(browser).move_by_offset(20, 0).perform()  # the button is up
    assert drawn() == after and browser.get_log("browser") == []


def test_the_page_fits_a_phone_and_paper(browser, report):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    opened(browser, report[0])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = [svg.is_displayed() for svg in browser.find_elements("css selector", "figure svg")]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert len(shown) == 5 and all(shown)
