"""The page in a real browser: sketched with the mouse, prompted, watched, cancelled."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from adapters import write_lora
from fakes import SMALLEST, WORDS, random_stage, save_stage
from hostile_files import hostile_files
from PIL import Image
from ports import reserve_port

from ragaf_jax.palette import PALETTE, nearest

gradio_client = pytest.importorskip("gradio_client")

ROOT = Path(__file__).parents[2]
PRETRAINED = ROOT / "pretrained" / "openmoji"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT = 180_000  # ms: the first image is compiled
SCREEN = {"width": 1366, "height": 768}

pytestmark = pytest.mark.slow


def stages():
    return [f"--stage{i}={PRETRAINED / f'stage{i}'}" for i in (1, 2)]


@contextlib.contextmanager
def served(stages, folder):
    """The address of a server of two stages."""
    port, log = reserve_port(), folder / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "ragaf_jax.demo", *stages, f"--port={port}"],
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


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A server of the pretrained stages."""
    with served(stages(), tmp_path_factory.mktemp("demo")) as url:
        yield url


@contextlib.contextmanager
def opened(address):
    """The page in Chromium, on a small screen."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport=SCREEN)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("#canvas canvas", timeout=WAIT)
        page.wait_for_selector("#canvas [aria-label=Brush].highlight", timeout=WAIT)
        yield page
        browser.close()
        # Nothing is loaded from elsewhere.
        own = (address, "data:", "blob:", address.replace("http", "ws"))
        assert all(url.startswith(own) for url in asked), asked


@pytest.fixture
def page(address):
    with opened(address) as page:
        yield page


@pytest.fixture(scope="module")
def page_of_small_stages(tmp_path_factory):
    """With random weights, for the gate: images appear after seconds. Loaded once for two tests."""
    folder = tmp_path_factory.mktemp("page")
    workdirs = [save_stage(random_stage(i, **SMALLEST), folder / f"stage{i}") for i in (1, 2)]
    flags = [f"--stage{i}={workdir}" for i, workdir in enumerate(workdirs, 1)]
    facts = {"modelspec.trigger_phrase": "a <b>sks</b>"}
    params = random_stage(1, **SMALLEST).params
    write_lora(folder / "style.safetensors", np.random.default_rng(0), params, **facts)
    flags.append(f"--lora={folder / 'style.safetensors'}=0.5,0")
    with served(flags, folder) as url, opened(url) as page:
        yield page


def picture(page, name):
    """The image of an element."""
    image = page.wait_for_selector(f"#{name} img", timeout=WAIT)
    return np.array(Image.open(io.BytesIO(page.request.get(image.get_attribute("src")).body())))


def stroke(page, *points):
    """Drags the mouse over the canvas, along points in shares of its sides."""
    box = page.locator("#canvas canvas").first.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def status(page, text):
    """Waits until the status has this text, or is empty."""
    value = "document.querySelector('#status').innerText.trim()"
    wanted = f"{value}.includes({text!r})" if text else f"{value} === ''"
    page.wait_for_function(wanted, timeout=WAIT)


def upload(page, file):
    with page.expect_file_chooser() as chooser:
        page.locator("#upload").click()
    chooser.value.set_files(file)


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def assert_on_one_screen(page):
    """No scrolling is needed, and the important elements are inside the window."""
    root = "document.documentElement"
    sizes = page.evaluate(f"[{root}.scrollWidth, {root}.scrollHeight]")
    assert sizes == [SCREEN["width"], SCREEN["height"]]
    for name in ("canvas", "regions", "apply", "inputs", "results", "generate", "status"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= SCREEN["width"], name
        assert box["y"] >= 0 and box["y"] + box["height"] <= SCREEN["height"], name
    assert min(page.locator("#results").bounding_box()[side] for side in ("width", "height")) > 480


def generate(page, region_prompt, prompt, negative=""):
    """Draws a square, prompts for its inside, and waits for the images."""
    stroke(page, (0.3, 0.2), (0.7, 0.2), (0.7, 0.8), (0.3, 0.8), (0.3, 0.2))
    regions = picture(page, "regions")
    assert min(regions.shape[:2]) >= 512
    page.locator("#regions img").click()  # in the middle, where the square is
    page.wait_for_function(
        "document.querySelector('#region_prompt').innerText.includes('(region ')", timeout=WAIT
    )
    page.locator("#region_prompt textarea, #region_prompt input").fill(region_prompt)
    page.locator("#region_negative textarea, #region_negative input").fill(negative)
    page.locator("#apply").click()
    listed = f"{region_prompt} (negative: {negative})" if negative else region_prompt
    page.wait_for_function(
        f"document.querySelector('#region_prompts').innerText.includes('{listed}')",
        timeout=WAIT,
    )
    page.locator("#prompt textarea, #prompt input").fill(prompt)
    page.locator("#generate").click()
    status(page, "step")
    status(page, "Done in ")


def test_the_page_has_one_screen_and_names_what_is_missing_or_wrong(page_of_small_stages):
    page = page_of_small_stages
    assert_on_one_screen(page)
    for label in ("Prompt", "Negative prompt", "Region prompt", "Region negative prompt"):
        assert page.get_by_label(label, exact=True).is_visible(), label
    assert "native size 16 × 16 px" in page.locator("#title").inner_text()
    tab(page, "Vocabulary")
    assert page.locator("#words").inner_text().split() == sorted(WORDS)
    tab(page, "LoRA")
    assert "trigger words: a <b>sks</b>." in page.locator("#loras").inner_text()
    assert page.get_by_label("number input for style, UNet").input_value() == "0.5"
    assert page.get_by_label("number input for style, text encoder").input_value() == "0"
    tab(page, "Regions")
    assert page.get_by_label("Region prompts by").input_value() == "Automatic"
    page.locator("#generate").click()
    page.get_by_text("There is no sketch yet").first.wait_for(timeout=WAIT)
    status(page, "")  # "Queued …" would stay for ever
    tab(page, "Settings")
    page.get_by_label("Images").fill("99")
    page.locator("#generate").click()
    page.get_by_text("Images is 99; choose").first.wait_for(timeout=WAIT)
    assert_on_one_screen(page)


@pytest.fixture(scope="module")
def page_with_images(page_of_small_stages):
    """After two images of a square were generated."""
    page = page_of_small_stages
    tab(page, "Settings")
    page.get_by_label("Images").fill("2")
    page.get_by_label("Steps").fill("2")
    tab(page, "LoRA")
    page.get_by_label("number input for style, UNet").fill("0.25")
    tab(page, "Prompt")
    generate(page, "red middle", "a house", "blue")
    return page


def test_a_sketch_and_a_region_prompt_become_images(page_with_images):
    page = page_with_images
    assert page.locator("#result img").count() == 2
    assert picture(page, "result").std() > 0
    assert_on_one_screen(page)
    with page.expect_download() as download:
        page.locator("#download").click()
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert {"ragaf_seed0/images/0.png", "ragaf_seed0/images/1.png"} <= set(names)
    with zipfile.ZipFile(download.value.path()) as archive:
        metadata = json.loads(archive.read("ragaf_seed0/metadata.json"))
    (lora,) = metadata["loras"]
    assert [*metadata["region_negative_prompts"].values()] == ["blue"]
    assert (Path(lora["path"]).name, lora["unet"], lora["text"]) == ("style.safetensors", 0.25, 0)
    for title, name in (("Stage 1", "stage1"), ("Attention", "attention")):
        tab(page, title)
        assert picture(page, name).std() > 0
    assert_on_one_screen(page)


@pytest.mark.browser
def test_what_is_drawn_and_said_comes_back(page):
    generate(page, "large red in the middle", "square")
    drawn = picture(page, "result")
    side = len(drawn)
    middle = drawn[side // 3 : -side // 3, side // 3 : -side // 3].reshape(-1, 3)
    assert PALETTE[nearest(np.median(middle, 0)[None].astype(np.uint8))[0]] == "red"
    corner = np.median(drawn[: side // 10, : side // 10].reshape(-1, 3), 0)
    assert PALETTE[nearest(corner[None].astype(np.uint8))[0]] == "white"
    tab(page, "Attention")
    assert picture(page, "attention").shape[0] > 200


@pytest.mark.browser
def test_stage_1_alone_has_region_prompts_and_no_attention_maps(tmp_path):
    with served(stages()[:1], tmp_path) as url, opened(url) as page:
        assert not page.get_by_role("tab", name="Attention").is_visible()
        generate(page, "large red in the middle", "square: large yellow in the middle")
        drawn = picture(page, "result")
        side = len(drawn)
        middle = drawn[side // 3 : -side // 3, side // 3 : -side // 3].reshape(-1, 3)
        assert PALETTE[nearest(np.median(middle, 0)[None].astype(np.uint8))[0]] == "red"
        assert_on_one_screen(page)


@pytest.mark.browser
def test_an_uploaded_sketch_is_what_the_command_draws(page, tmp_path):
    sketch, prompt = ROOT / "docs" / "images" / "ping_pong.png", "ball: large pink at the top"
    upload(page, sketch)
    picture(page, "regions")
    page.locator("#prompt textarea, #prompt input").fill(prompt)
    page.locator("#generate").click()
    status(page, "Done in ")
    command = [sys.executable, "-m", "ragaf_jax.sample", *stages(), f"--sketch={sketch}"]
    command += [f"--prompt={prompt}", f"--output={tmp_path / 'out'}", "--seed=0"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for title, name, file in (("Result", "result", "stage2"), ("Stage 1", "stage1", "stage1")):
        tab(page, title)
        expected = np.array(Image.open(tmp_path / "out" / f"{file}_output.png"))
        shown = picture(page, name)
        factor = len(shown) // len(expected)
        np.testing.assert_array_equal(shown[::factor, ::factor], expected)


@pytest.mark.browser
def test_a_wide_sketch_has_a_wide_canvas_and_image(page, tmp_path):
    wide = np.full((400, 600), 255, np.uint8)
    cv2.circle(wide, (170, 200), 120, 0, 7)
    cv2.rectangle(wide, (340, 90), (560, 310), 0, 7)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    upload(page, tmp_path / "wide.png")
    regions = picture(page, "regions")
    assert regions.shape[1] == 1.5 * regions.shape[0]
    page.locator("#prompt textarea, #prompt input").fill("ball: large red on the left")
    page.locator("#generate").click()
    status(page, "Done in ")
    image = picture(page, "result")
    assert image.shape[1] == 1.5 * image.shape[0]
    assert_on_one_screen(page)
    tab(page, "Settings")
    page.get_by_label("Width").fill("80")
    page.get_by_label("Width").press("Enter")
    page.wait_for_timeout(2000)
    regions = picture(page, "regions")
    assert regions.shape[1] * 56 == regions.shape[0] * 80


@pytest.mark.browser
def test_what_is_no_sketch_is_said_and_what_runs_can_be_cancelled(page, tmp_path):
    page.locator("#generate").click()
    page.get_by_text("There is no sketch yet").first.wait_for(timeout=WAIT)
    bad = tmp_path / "sketch.png"
    bad.write_bytes(b"no picture")
    upload(page, bad)
    page.get_by_text("is not an image").first.wait_for(timeout=WAIT)
    stroke(page, (0.3, 0.3), (0.7, 0.3), (0.5, 0.7), (0.3, 0.3))
    picture(page, "regions")
    page.locator("#generate").click()
    status(page, "step")
    page.locator("#cancel").click()
    status(page, "Cancelled")
    # The next request is sampled without results of the cancelled one.
    page.locator("#generate").click()
    status(page, "Done in ")


@pytest.mark.browser
def test_an_example_is_taken_with_its_prompt(page):
    file = sorted((PRETRAINED / "examples").glob("*.txt"))[1]
    page.locator("#examples img").nth(1).click()
    picture(page, "regions")
    said = page.locator("#prompt textarea, #prompt input")
    page.wait_for_function("document.querySelector('#prompt textarea, #prompt input').value != ''")
    assert said.input_value() == file.read_text().strip()
    # It is on the canvas, with the brush in hand: a stroke adds to it.
    before = picture(page, "regions")
    source = page.locator("#regions img").get_attribute("src")
    stroke(page, (0.25, 0.15), (0.75, 0.15))
    page.wait_for_function(
        f"document.querySelector('#regions img').src !== {source!r}", timeout=WAIT
    )
    page.wait_for_timeout(2000)
    added = picture(page, "regions").astype(int) - before
    assert (added[: len(added) // 4] < -100).any() and (before < 100).any()


def drawn(client, sketch, prompt="ball", seed=0, **asked):
    """The image of Stage 2, as a visitor without a browser gets it."""
    client.predict(gradio_client.handle_file(sketch), api_name="/upload")
    settings = {"param_5": 2} | asked  # steps
    _, images, *_ = client.predict(prompt, "", seed, **settings, api_name="/generate")
    return np.asarray(Image.open(images[0]["image"]))


@pytest.mark.browser
def test_after_all_that_nobody_should_send_the_server_serves(address, tmp_path):
    client = gradio_client.Client(address, verbose=False)
    (tmp_path / "files").mkdir()
    files = hostile_files(tmp_path / "files")
    good = files["whole.png"]
    before = drawn(client, good)
    asked = [(path, {}) for path in files.values() if path.is_file()]
    asked += [
        (good, {"prompt": text}) for text in ("house " * 10_000, "\x1b[31m\x07\u202e", "🏠" * 999)
    ]
    asked += [(good, {"seed": seed}) for seed in (-1, 2**32, 10**30, 1.5, None)]
    names = [f"param_{i}" for i in range(4, 12)]
    values = float("nan"), float("inf"), -1, 2.5, 10**30
    asked += [(good, {name: value}) for name in names for value in values]
    asked += [(good, {"param_4": None})]  # an empty field
    # Requests that no browser sends, which Gradio refuses itself.
    unlike = [(good, {name: value}) for name in names for value in (None, "abc", [1], {"a": 1})]
    assert len(asked) + len(unlike) > 100
    for path, settings in asked + unlike:
        said = "drawn"
        try:
            drawn(client, path, **settings)
        except Exception as error:
            said = str(error)
        assert said and "\n" not in said.strip(), (path, settings)
        (value,) = settings.values() or [None]
        if "prompt" not in settings and settings and value not in (1.5, 2.5, None):
            assert said != "drawn", settings
        if (path, settings) not in unlike:
            # The message of an unexpected exception.
            assert "verbose error reporting" not in said, (path, settings)
    np.testing.assert_array_equal(drawn(client, good), before)


@pytest.mark.browser
def test_visitors_at_once_get_their_own_pictures(address, tmp_path):
    def visit(visitor):
        client = gradio_client.Client(address, verbose=False)
        page = np.full((256, 256), 255, np.uint8)
        cv2.circle(page, (60 + 18 * visitor, 128), 40, 0, 5)
        sketch = tmp_path / f"{visitor}.png"
        Image.fromarray(page).save(sketch)
        return [drawn(client, sketch, seed=visitor) for _ in range(2)]

    alone = [visit(visitor) for visitor in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(visit, range(8)))
    np.testing.assert_array_equal(together, alone)
    assert len({picture.tobytes() for pictures in together for picture in pictures}) == 8
