"""The page in Chromium, as a reader opens it: from a file, offline."""

import json
import re
import shutil

import pytest
from readers import read_studies, read_study
from synthetic import HOSTILE

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
    """What the figure tells when the pointer is on a mark."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(browser).move_to_element(mark).perform()
    shown = lambda _: browser.find_elements("css selector", ".hoverlayer .hovertext")
    return WebDriverWait(browser, 10).until(shown)[0].text


def marks(browser, plot):
    """The marks of the last trace of points: the fewest steps."""
    traces = browser.find_elements("css selector", ".plot")[plot]
    traces = traces.find_elements("css selector", ".scatterlayer .trace")
    traces = [trace for trace in traces if trace.find_elements("css selector", ".points path")]
    return traces[-1].find_elements("css selector", ".points path")


def test_the_page_of_one_study(browser, report, workdir):
    assert opened(browser, report[0]) == []
    assert browser.get_log("browser") == []
    assert len(browser.find_elements("css selector", ".plot .main-svg")) >= 5
    text = browser.find_element("tag name", "body").text
    reached = [point for point in read_study(workdir).points if point.reached]
    for point in reached:
        assert re.search(rf"\b{point.steps_to_target:,} \(", text)
        assert f"{point.examples:,}" in text
    found = marks(browser, 0)
    assert len(found) == len(reached)
    for mark, point in [(found[0], reached[0]), (found[-1], reached[-1])]:
        told = hover(browser, mark).replace("\n", " ")
        assert f"batch {point.global_batch:,}" in told
        assert f"{point.steps_to_target:,} steps to the goal" in told
        assert f"{point.counts['infeasible']} infeasible" in told
    assert browser.get_log("browser") == []


def test_the_slider_shows_one_batch_size_at_a_time(browser, report, workdir):
    from selenium.webdriver import ActionChains

    opened(browser, report[0])
    points = read_study(workdir).points
    first = next(point for point in points if point.reached)
    visible = (
        "return [...document.querySelectorAll('.plot')].find(plot => plot.layout.sliders)"
        ".data.filter(trace => trace.visible).flatMap(trace => trace.hovertext)"
    )
    assert len(browser.execute_script(visible)) == len(first.trials) + 1
    rail = browser.find_element("css selector", ".slider-rail-touch-rect")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", rail)
    end = rail.size["width"] / 2 - 3
    ActionChains(browser).move_to_element_with_offset(rail, end, 0).click().perform()
    texts = browser.execute_script(visible)
    last = points[-1]
    assert sum(f"{last.steps_to_target:,} steps to the goal" in text for text in texts) >= 2
    assert len(texts) == len(last.trials) + 1
    assert browser.get_log("browser") == []


def test_hostile_titles_run_nothing(browser, comparison, three):
    assert opened(browser, comparison) == []
    assert browser.get_log("browser") == []
    assert browser.title.startswith("Steps to 2.5% validation error: </script>")
    assert browser.find_element("tag name", "h1").text.count(HOSTILE) == 3
    label = read_studies(three)[-1].label
    assert label in hover(browser, marks(browser, 0)[0]).replace("\n", " ")


def test_the_page_of_every_kind(browser, mixed):
    assert opened(browser, mixed[0]) == []
    assert browser.get_log("browser") == []
    plots = browser.find_elements("css selector", ".plot")
    drawn = browser.find_elements("css selector", ".plot .main-svg")
    assert len(plots) > 15 and len(drawn) >= len(plots)
    kinds = [heading.text for heading in browser.find_elements("css selector", "h1.kind")]
    assert kinds == [
        "Advice",
        "Steps to target",
        "Accuracy",
        "Generalization",
        "Pareto fronts",
        "Noise scale",
        "Adaptive batch",
    ]
    assert "batch 128 on 8 devices" in hover(browser, marks(browser, 0)[-1])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 1100
    assert HOSTILE in browser.find_element("tag name", "body").text


def test_the_page_fits_a_phone_and_paper(browser, report):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    opened(browser, report[0])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = [image.is_displayed() for image in browser.find_elements("css selector", "figure img")]
    plots = [plot.is_displayed() for plot in browser.find_elements("css selector", ".plot")]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert len(shown) == 5 and all(shown) and not any(plots)
