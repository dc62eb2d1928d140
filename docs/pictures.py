"""Makes the pictures of README and documentation anew: `make pictures`, three minutes.

They are real output of this checkout on this machine: the live page beside a graph that plays the
sample road, and the report of `perception demo`. With `ARGS=RESULT.json`, a result of `perception
bench deadline`, the tail of its latency too. Nothing is replaced before all are there.
"""

import argparse
import base64
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which

from PIL import Image

from perception_nodes.lab.page import deadline_page
from perception_nodes.system.threads import nodes

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
PERCEPTION = Path(sys.executable).parent / "perception"
ROAD = ROOT / "bags" / "road.mp4"
SIZE, PHONE = (1440, 900), (390, 844)
PORT = 8097
MOVING_S, FRAMES_A_S = 6.0, 4
MOVING_PX = 880
MAX_BYTES = 300_000
PATIENCE_S = 90.0
"""No wait is longer: a graph that hangs ends the script, and leaves the pictures as they are."""
IS_LIVE = "Object.values(cameras).some(({ frames, picture }) => picture && frames.length > 300)"
IS_DRAWN = "document.querySelectorAll('.chart').length && [...document.querySelectorAll('.chart')]"
IS_DRAWN += ".every((chart) => chart.querySelector('canvas'))"
TWO_FRAMES = "requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))"


@contextmanager
def browser():
    """A window of Chromium without a screen."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = which("chromium")
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(option)
    service = webdriver.ChromeService(executable_path=which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def graph():
    """A graph that plays the road again and again, with its page."""
    arguments = ["source:=" + str(ROAD), "loop:=true", "tracks:=true", "view:=true"]
    command = [PERCEPTION, "run", *arguments, f"view_port:={PORT}"]
    running = subprocess.Popen(command, cwd=ROOT)
    try:
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            hurry_page()
            with suppress(OSError):
                urllib.request.urlopen(f"http://localhost:{PORT}").close()
                break
            if running.poll() is not None or time.monotonic() > give_up_s:
                sys.exit("the graph has no page; its messages are above")
            time.sleep(0.5)
        hurry_page()
        yield
    finally:
        running.send_signal(signal.SIGINT)
        try:
            running.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            running.kill()
            raise


def hurry_page():
    """Let the page run as other programs do: on a busy machine nothing is left for it else."""
    for process in [pid for pid, name in nodes().items() if name.startswith("view_node")]:
        with suppress(OSError):
            for task in (Path("/proc") / str(process) / "task").iterdir():
                os.sched_setscheduler(int(task.name), os.SCHED_OTHER, os.sched_param(0))
            (Path("/proc") / str(process) / "autogroup").write_text("0")


def until(driver, condition):
    """Wait until an expression of the page is true, and the page is drawn as it says."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(driver, PATIENCE_S).until(lambda _: driver.execute_script(f"return {condition}"))
    settle(driver)


def settle(driver):
    """Wait until the page is drawn anew."""
    driver.execute_async_script(TWO_FRAMES)


def look(driver, size, scheme="light"):
    """Set the size of the window and its colours."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def shot(driver):
    """What the window shows."""
    png = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    return Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")


def moving(driver):
    """Pictures of the window for some seconds, smaller."""
    pictures, height = [], round(MOVING_PX * SIZE[1] / SIZE[0])
    begin_s = time.monotonic()
    for number in range(round(MOVING_S * FRAMES_A_S)):
        time.sleep(max(0.0, begin_s + number / FRAMES_A_S - time.monotonic()))
        pictures.append(shot(driver).resize((MOVING_PX, height), Image.Resampling.LANCZOS))
    return pictures


def save(pictures, file):
    """Write pictures as one webp that is small enough."""
    quality = 80
    while True:
        stream = io.BytesIO()
        pictures[0].save(
            stream, "webp", save_all=True, append_images=pictures[1:], quality=quality,
            method=4, duration=round(1000 / FRAMES_A_S), loop=0,
        )  # fmt: skip
        if len(stream.getvalue()) <= MAX_BYTES or quality <= 20:
            break
        quality -= 15
    file.write_bytes(stream.getvalue())
    print(f"{file.name}: {len(stream.getvalue()) / 1000:.0f} kB, quality {quality}")


def main(result=None):
    """Make all of them, and put them into their places."""
    if not (which("chromium") and which("chromedriver")):
        sys.exit("no Chromium and its driver; make view-packages installs them")
    with (
        tempfile.TemporaryDirectory(dir=IMAGES.parent, prefix=".pictures") as made,
        browser() as driver,
    ):
        folder = Path(made)
        with graph():
            look(driver, SIZE)
            driver.get(f"http://localhost:{PORT}")
            until(driver, IS_LIVE)
            save(moving(driver), folder / "live.webp")
            save([shot(driver)], folder / "view.webp")
            look(driver, PHONE, "dark")
            settle(driver)
            save([shot(driver)], folder / "view-phone.webp")
        out = folder / "demo"
        command = [PERCEPTION, "demo", "--bag", ROAD.relative_to(ROOT), "--out", out]
        subprocess.run(command, cwd=ROOT, check=True, timeout=PATIENCE_S)
        look(driver, SIZE)
        driver.get((out / "report.html").as_uri())
        until(driver, IS_DRAWN)
        save([shot(driver)], folder / "demo.webp")
        if result is not None:
            page = folder / "tail.html"
            page.write_text(deadline_page(json.loads(result.read_text())))
            driver.get(page.as_uri())
            until(driver, IS_DRAWN)
            chart = driver.find_element("css selector", ".chart").screenshot_as_png
            save([Image.open(io.BytesIO(chart)).convert("RGB")], folder / "tail.webp")
        for file in folder.glob("*.webp"):
            file.replace(IMAGES / file.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", nargs="?", type=Path, help="of `perception bench deadline`")
    main(parser.parse_args().result)
