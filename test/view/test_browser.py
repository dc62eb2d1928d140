"""The page in a real browser: Debian's Chromium, driven by Selenium."""

import shutil
from contextlib import closing
from typing import Any

import pytest
from fake_graph import COUNTS, fed, nominal, pass_s, picture, report, served, turning
from observe import until

from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.core.missed import Missed
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.report import page
from perception_nodes.report.chart import Axis, Chart

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no Chromium and its driver; make view-packages"
    ),
]
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
TIMEOUT_S = 30.0
LONG = "front_left_very_wide_camera_no1"
"""As many letters as a camera's name can have."""
EVIL = "</script><img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>"


class Browser:
    """A window, and what a person would see in it."""

    def __init__(self, driver):
        self.driver = driver
        self.run = driver.execute_script

    def open(self, port):
        self.driver.get(f"http://localhost:{port}")
        self.until(lambda: self.text("link") == "live")

    def until(self, condition):
        until(condition, TIMEOUT_S, lambda: self.run("return document.body.innerText"))

    def text(self, name):
        return str(self.run("return document.getElementById(arguments[0]).innerText", name))

    def click(self, selector):
        self.run("document.querySelector(arguments[0]).click()", selector)

    def size(self, width, height, mobile=False):
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile},
        )

    def scheme(self, name):
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": name}]},
        )

    def pixel(self, selector):
        """The pixel near a canvas's upper left corner."""
        return list(self.run(
            "const one = document.querySelector(arguments[0]), pen = one.getContext('2d');"
            "return [...pen.getImageData(one.width / 8, one.height / 8, 1, 1).data]",
            selector,
        ))  # fmt: skip

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def driver():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver):
    one = Browser(driver)
    driver.get("about:blank")  # the page before looks for its server, and complains
    one.size(1440, 1000)
    one.scheme("light")
    one.complaints()
    return one


def test_a_person_sees_cameras_figures_health_and_opens_a_missed_frame(browser):
    with served("front", "rear") as (feed, _, port), fed(feed, "front", "rear"):
        feed.safe_stop(True)
        browser.open(port)
        browser.until(lambda: browser.run("return misses.length") > 2)
        for camera in ("front", "rear"):
            assert camera in browser.text("cameras")
        assert browser.text("cameras").count("NOMINAL") == 2
        assert "SAFE STOP requested at" in browser.text("stop")
        assert "6.4 ms" in browser.text("tiles").replace("\n", " ")
        assert "inference" in browser.text("stages") and "6.0" in browser.text("stages")
        red, green, blue, opaque = browser.pixel(".camera canvas")
        assert red == green == blue and opaque == 255
        assert "OK 0" in browser.text("statuses").replace("\n", " ")
        assert browser.run("return document.querySelectorAll('#chart canvas').length") == 1
        feed.safe_stop(False)
        browser.until(lambda: "SAFE STOP" not in browser.text("notices"))
        assert "ended" in browser.text("stops")

        browser.click("#misses button")
        browser.until(
            lambda: browser.run("return !document.getElementById('frame-picture').hidden")
        )
        assert "LATE, 13.0 ms of 10 ms" in browser.text("frame-title")
        assert browser.text("frame-reason") == "late by 3.0 ms"
        assert "+2.53" in browser.text("frame-budget")  # of inference
        browser.click("#before")
        browser.click("#close")
        assert not browser.run("return document.getElementById('frame').open")
        browser.click(".camera:nth-child(2)")
        browser.until(lambda: browser.text("timeline").splitlines()[0].endswith("rear"))
        assert browser.complaints() == []


def test_the_last_missed_frames_of_each_camera_are_shown_in_their_order(browser):
    with served("front", "rear") as (feed, _, port):
        for number in range(130):
            for camera in ("front", "rear") if number < 70 else ("rear",):
                feed.frame(camera, report(FrameStatus.LATE, 13.0, f"{number}"))
        browser.open(port)
        browser.until(lambda: browser.run("return misses.length") == 120)
        shown = browser.run("return misses.map(({camera, reason}) => [camera, Number(reason)])")
        expected = {"front": range(10, 70), "rear": range(70, 130)}
        assert sorted(map(tuple, shown)) == [(c, n) for c, ns in expected.items() for n in ns]
        assert [n for _, n in shown] == sorted((n for _, n in shown), reverse=True)
        feed.frame("front", report(FrameStatus.LATE, 13.0, "130"))
        browser.until(lambda: browser.run("return misses[0].reason") == "130")
        assert browser.run("return misses.length") == 120
        oldest = "return misses.filter((miss) => miss.camera === 'front').at(-1).reason"
        assert browser.run(oldest) == "11"


def test_texts_of_the_graph_are_only_text(browser):
    with served() as (feed, _, port):
        evil = report(FrameStatus.FAILED, 1.0, EVIL, EVIL)
        evil.model = EVIL
        feed.health("front", HealthMode.UNSAFE, EVIL, [EVIL, f"{EVIL} too"], COUNTS)
        feed.safe_stop(True)
        feed.frame("front", evil, picture(name=EVIL))
        browser.open(port)
        browser.until(lambda: browser.run("return misses.length"))
        browser.click("#misses button")
        browser.until(lambda: EVIL in browser.text("frame-facts"))
        for place in ("cameras", "stop", "log", "stops", "frame-reason", "strip", "causes"):
            browser.until(lambda place=place: EVIL in browser.text(place))
        assert EVIL in browser.run("return document.querySelector('.camera').innerText")
        assert browser.run("return window.hacked") is None
        assert browser.complaints() == []


def test_what_is_lost_is_the_largest_on_the_page(browser):
    """First the graph goes, and then the server; both come back."""

    def sizes():
        return list(browser.run(
            "return [...document.querySelectorAll('p, b, .mode')].filter((one) => "
            "one.offsetParent && one.id !== 'gone').map((one) => "
            "parseFloat(getComputedStyle(one).fontSize))"
        ))  # fmt: skip

    with served() as (feed, server, port), turning(feed):
        feed.safe_stop(True)
        with fed(feed):
            browser.open(port)
            browser.until(lambda: "NOMINAL" in browser.text("worst"))
        browser.until(lambda: "DISCONNECTED from the graph" in browser.text("gone"))
        assert "last known: NOMINAL, " in browser.text("gone")
        assert "no word from the watchdog" in browser.text("cameras")
        browser.until(lambda: "no picture for" in browser.text("cameras"))
        server.close()
        browser.until(lambda: browser.text("gone").startswith("DISCONNECTED 3"))
        assert browser.driver.title.startswith("✖ DISCONNECTED")
        icon = "return document.getElementById('icon').getAttribute('href')"
        assert browser.run(icon) == "icon-bad.svg"
        large = "return parseFloat(getComputedStyle(document.getElementById('gone')).fontSize)"
        assert browser.run(large) > max(sizes())
        assert browser.text("stop").startswith("LAST KNOWN: ✖ SAFE STOP")
        grey = "return getComputedStyle(document.getElementById('notices')).filter"
        assert browser.run(grey) == "none"
        assert browser.text("worst") == "not known"
        with closing(type(server)(feed, "localhost", port, "", 30.0)) as again, fed(feed):
            again.start()
            browser.until(lambda: browser.text("link") == "live")
            browser.until(lambda: "NOMINAL" in browser.text("worst"))
            browser.until(lambda: browser.run("return $('gone').hidden"))


def test_what_is_not_known_is_not_said_to_be_good(browser):
    with served() as (feed, _, port), turning(feed):
        browser.open(port)
        for place in ("no-stop", "no-miss", "no-cause"):
            assert browser.text(place).startswith("Not known yet")
        tiles = "return [...document.querySelectorAll('#tiles b')].map((one) => one.innerText[0])"
        browser.until(lambda: browser.run(tiles) == ["–"] * 6)
        assert "WAITING" in browser.text("worst")
        feed.safe_stop(False)
        browser.until(lambda: browser.text("no-stop").startswith("Not requested since"))


def test_a_page_without_time_says_so_and_does_not_blame_the_watchdog(browser, monkeypatch):
    with served() as (feed, _, port):
        nominal(feed)
        feed.turned()
        pass_s(monkeypatch, 5)
        browser.open(port)
        browser.until(lambda: browser.text("behind").startswith("THIS PAGE IS BEHIND by "))
        assert "SILENT" not in browser.text("cameras")
        assert "last known: ● NOMINAL" in browser.text("cameras")


def test_a_cause_is_chosen_and_a_frame_is_opened_by_its_link(browser):
    with served() as (feed, _, port), fed(feed):
        for number in range(3):
            bad = report(FrameStatus.FAILED, 1.0, f"bad image {number}", sequence=70 + number)
            feed.frame("front", bad)
        feed.frame("front", report(FrameStatus.LATE, 30.0, sequence=7))
        browser.open(port)
        rows = "return [...document.querySelectorAll('#causes tbody tr')].map((r) => r.innerText)"
        browser.until(lambda: any("bad image 2" in row for row in browser.run(rows)))
        (failed,) = (row for row in browser.run(rows) if "bad image" in row)
        assert failed.split()[-4:] == ["inference", "3", "3", "3"]
        browser.run(
            "[...document.querySelectorAll('.cause-of')].find((one) => "
            "one.innerText.includes('bad image')).click()"
        )
        tiles = "return document.querySelectorAll('#misses li').length"
        browser.until(lambda: browser.run(tiles) == 3)
        browser.driver.get(f"http://localhost:{port}/#front/7")
        browser.driver.refresh()
        browser.until(lambda: "frame 7: ▲ LATE, 30.0 ms" in browser.text("frame-title"))
        assert browser.complaints() == []


def test_the_keyboard_reaches_frames_and_stops_the_chart(browser):
    with served() as (feed, _, port), fed(feed):
        browser.open(port)
        browser.until(lambda: browser.run("return misses.length") > 2)
        browser.run("document.getElementById('chart').focus()")
        keys = browser.driver.switch_to.active_element
        keys.send_keys("p")
        assert browser.text("pause") == "go on"
        keys.send_keys("+")
        assert browser.run("return !document.getElementById('whole').hidden")
        keys.send_keys("0")
        assert browser.run("return document.getElementById('whole').hidden")


def test_an_old_picture_is_old_to_a_page_that_is_opened_later(browser, monkeypatch):
    with served() as (feed, _, port):
        feed.frame("front", report(), picture())
        pass_s(monkeypatch, 60)
        browser.open(port)
        # The first text, so that a picture that ages on the page does not pass.
        first = "return document.querySelector('.outcome').innerText"
        browser.until(lambda: browser.run(first) not in ("waiting for a frame", "…"))
        assert browser.run(first).startswith("no picture for 6")
        assert browser.run("return document.querySelector('.camera').className").endswith("old")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height", "mobile"), [(390, 844, True), (1440, 1000, False)])
def test_it_fits_the_screen_in_light_and_dark(browser, scheme, width, height, mobile):
    browser.size(width, height, mobile)
    browser.scheme(scheme)
    with served(LONG, "rear") as (feed, _, port), fed(feed, LONG, "rear"):
        feed.health(LONG, HealthMode.DEGRADED, "x" * 300, ["y" * 300], COUNTS)
        feed.frame(LONG, report(FrameStatus.FAILED, 1.0, "z" * 300), picture(name="w" * 90))
        browser.open(port)
        browser.until(lambda: browser.run("return misses.length") > 1)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        background = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(245, 247, 250)" if scheme == "light" else "rgb(13, 17, 23)")
        shown = browser.run("return getComputedStyle(document.body).fontSize")
        assert float(shown.removesuffix("px")) >= 15
        assert browser.complaints() == []


def test_a_report_without_objects_shows_all_of_its_charts(browser, tmp_path):
    axis = Axis("x", (0, 1))
    charts = [Chart(axis, axis, 100) for _ in range(2)]
    charts[1].add([0.0, 1.0], [0.0, 1.0], "latency", "#000000", "line")
    values: dict[str, Any] = dict.fromkeys(("heading", "tone", "verdict"), "")
    values["verdicts"] = [ScenarioVerdict(scenario=name, title="") for name in "ab"]
    missed = {name: Missed.of([], 10.0) for name in "ab"}
    values |= {"charts": dict(zip("ab", charts, strict=True)), "modes": {}, "missed": missed}
    file = tmp_path / "page.html"
    file.write_text(page.render("scenarios.html.j2", **values))
    browser.driver.get(file.as_uri())
    assert browser.run("return document.querySelectorAll('.chart .uplot').length") == 2
    assert browser.complaints() == []
