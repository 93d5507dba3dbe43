"""Opens a report in a browser at the width of a desktop and of a phone, and checks it as a reader does.

    python tests/slow/screenshots.py out/demo/report.html OUT

Passes if nothing scrolls sideways, every video plays, every picture loads and nothing else is loaded. Writes a picture
of the whole page at each width into OUT. Needs `pip install playwright` and a Chromium: the program `chromium` (Debian:
apt-get install chromium), or that of `playwright install chromium`. pytest does not collect this file.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import TimeoutError, sync_playwright

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
WAIT = 10_000
"""Milliseconds in which a video in view begins to play."""
STATE = """() => ({
  wide: document.documentElement.scrollWidth - window.innerWidth,
  over: [...document.querySelectorAll('table,figure,pre,p,h1,h2,h3,video,img')].filter(
      e => e.getBoundingClientRect().right > window.innerWidth + 1).map(e => e.tagName),
  videos: document.querySelectorAll('video').length,
  small: [...document.querySelectorAll('video')].filter(v => v.getBoundingClientRect().width < 250).length,
  broken: [...document.querySelectorAll('img')].filter(i => !i.naturalWidth).length})"""


def main(page_file: Path, out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (width, height) in SIZES.items():
            page = browser.new_page(viewport=dict(width=width, height=height), device_scale_factor=1)
            asked = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(page_file.resolve().as_uri())
            still = 0
            for video in page.query_selector_all("video"):
                video.scroll_into_view_if_needed()
                try:
                    page.wait_for_function("video => video.currentTime > 0", arg=video, timeout=WAIT)
                except TimeoutError:
                    still += 1
            state = page.evaluate(STATE) | dict(still=still)
            loaded = [url for url in asked if not url.startswith(("data:", "file:"))]
            page.screenshot(path=str(out / f"{page_file.stem}_{name}.png"), full_page=True)
            wrong = state["wide"] > 0 or state["over"] or state["still"] or state["broken"] or state["small"] or loaded
            print(f"{'MISSED' if wrong else 'met   '} {name}, {width} pixels: {state}, loaded {loaded}")
            failed += bool(wrong)
        browser.close()
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
