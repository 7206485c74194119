"""The page in a real browser: drawn with the mouse, spoken of, watched, cancelled."""

import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ragaf_jax.palette import PALETTE, nearest

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).parents[1]
PRETRAINED = ROOT / "pretrained" / "openmoji"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT = 180_000  # ms: the first picture is compiled

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]


def stages():
    return [f"--stage{i}={PRETRAINED / f'stage{i}'}" for i in (1, 2)]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server of the pretrained stages."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("demo") / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "ragaf_jax.demo", *stages(), f"--port={port}"],
            cwd=ROOT,
            stdout=file,
            stderr=file,
        )
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(url, timeout=5).read()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(1)
        else:
            raise AssertionError(log.read_text())
        yield url
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def page(address):
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1200})
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("#canvas canvas", timeout=WAIT)
        page.get_by_label("Brush").first.click()
        yield page
        browser.close()
        # Nothing is loaded from elsewhere.
        own = (address, "data:", "blob:", address.replace("http", "ws"))
        assert all(url.startswith(own) for url in asked), asked


def picture(page, name):
    """The picture that an element shows."""
    image = page.wait_for_selector(f"#{name} img", timeout=WAIT)
    return np.array(Image.open(io.BytesIO(page.request.get(image.get_attribute("src")).body())))


def stroke(page, *points):
    """Drags the mouse over the canvas, along points in shares of its sides."""
    box = page.locator("#canvas canvas").first.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=12)
    page.mouse.up()


def test_what_is_drawn_and_said_comes_back(page):
    stroke(page, (0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.2))
    regions = picture(page, "regions")
    assert min(regions.shape[:2]) >= 512
    page.locator("#regions img").click()  # in the middle, where the square is
    page.wait_for_function(
        "document.querySelector('#words').innerText.includes('Words for region 0')", timeout=WAIT
    )
    page.locator("#words textarea, #words input").fill("large red in the middle")
    page.locator("#speak").click()
    page.wait_for_function(
        "document.querySelector('#spoken').innerText.includes('large red')", timeout=WAIT
    )
    page.locator("#prompt textarea, #prompt input").fill("square")
    page.locator("#draw").click()
    page.wait_for_function(
        "document.querySelector('#status').innerText.includes('step')", timeout=WAIT
    )
    page.wait_for_function(
        "document.querySelector('#status').innerText.includes('Done.')", timeout=WAIT
    )
    drawn = picture(page, "stage2")
    side = len(drawn)
    middle = drawn[side // 3 : -side // 3, side // 3 : -side // 3].reshape(-1, 3)
    assert PALETTE[nearest(np.median(middle, 0)[None].astype(np.uint8))[0]] == "red"
    corner = np.median(drawn[: side // 10, : side // 10].reshape(-1, 3), 0)
    assert PALETTE[nearest(corner[None].astype(np.uint8))[0]] == "white"
    assert picture(page, "attention").shape[0] > 200


def test_an_uploaded_sketch_is_what_the_command_draws(page, tmp_path):
    sketch, prompt = ROOT / "docs" / "images" / "ping_pong.png", "ping pong: large pink at the top"
    page.locator("#upload input[type=file]").set_input_files(sketch)
    picture(page, "regions")
    page.locator("#prompt textarea, #prompt input").fill(prompt)
    page.locator("#draw").click()
    page.wait_for_function(
        "document.querySelector('#status').innerText.includes('Done.')", timeout=WAIT
    )
    command = [sys.executable, "-m", "ragaf_jax.sample", *stages(), f"--sketch={sketch}"]
    command += [f"--prompt={prompt}", f"--output={tmp_path / 'out'}", "--seed=0"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in ("stage1", "stage2"):
        expected = np.array(Image.open(tmp_path / "out" / f"{name}_output.png"))
        shown = picture(page, name)
        factor = len(shown) // len(expected)
        np.testing.assert_array_equal(shown[::factor, ::factor], expected)


def test_what_is_no_sketch_is_said_and_what_runs_can_be_cancelled(page, tmp_path):
    page.locator("#draw").click()
    page.get_by_text("There is no sketch yet").first.wait_for(timeout=WAIT)
    bad = tmp_path / "sketch.png"
    bad.write_bytes(b"no picture")
    page.locator("#upload input[type=file]").set_input_files(bad)
    page.get_by_text("is not an image").first.wait_for(timeout=WAIT)
    stroke(page, (0.3, 0.3), (0.7, 0.3), (0.5, 0.7), (0.3, 0.3))
    picture(page, "regions")
    page.locator("#draw").click()
    page.wait_for_function(
        "document.querySelector('#status').innerText.includes('step')", timeout=WAIT
    )
    page.locator("#cancel").click()
    page.wait_for_function(
        "document.querySelector('#status').innerText.includes('Cancelled')", timeout=WAIT
    )
    time.sleep(3)
    assert "Cancelled" in page.locator("#status").inner_text()
    # And the next one is drawn.
    page.locator("#draw").click()
    page.wait_for_function(
        "document.querySelector('#status').innerText.includes('Done.')", timeout=WAIT
    )
