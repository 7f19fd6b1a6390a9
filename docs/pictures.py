"""The pictures of docs/inspect.md: trains the example, opens its page in chromium, and writes docs/inspect*.webp."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples"))
STEP = 20  # where the slider stands
PARTS = {"inspect": "#time", "inspect-unit": "#reading", "inspect-flow": "#flow"}

if __name__ == "__main__":
    import remember

    folder = HERE.parent / "out" / "remember"
    remember.main(folder)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1040, "height": 1400}, device_scale_factor=1.5, color_scheme="light")
        page.goto((folder / "inspect.html").resolve().as_uri())
        page.wait_for_selector("#time .main-svg")
        page.locator("#step").evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", STEP)
        page.select_option("#gate", "c")
        for name, part in PARTS.items():
            drawn = page.locator(part)
            card = drawn if part == "#reading" else drawn.locator("xpath=..")
            picture = Image.open(io.BytesIO(card.screenshot()))
            picture.save(HERE / f"{name}.webp", quality=80, method=6)
            print(f"wrote docs/{name}.webp, {(HERE / f'{name}.webp').stat().st_size // 1000} kB")
        browser.close()
