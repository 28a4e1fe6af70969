"""One Chromium for all tests of the console. A line of JSON on stdin is a deed, and a line on stdout says what came of it.

Deeds of several pages go on at the same time, so that one that waits delays nobody. It ends with its input.
"""

import asyncio
import io
import json
import sys

from axe_playwright_python.async_playwright import Axe
from PIL import Image
from playwright.async_api import Error, async_playwright

# Less than the tests wait, so that they hear what was waited for.
DEADLINE = 110_000
# Pages of an OpenID provider ask for fonts from there, and wait for them.
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP fonts.googleapis.com ~NOTFOUND"]


class Pages:
    def __init__(self, browser):
        self.browser = browser
        self.pages = {}
        self.troubles = {}

    async def open(self, page, url, width=1440, height=900, scheme="light", audited=False, travels=False):
        """`audited`: axe is put into the page, which its policy would not allow. `travels`: it may go to other origins."""
        context = await self.browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce",
            bypass_csp=audited, ignore_https_errors=True, timezone_id="UTC", permissions=["clipboard-read", "clipboard-write"],
        )
        troubles = self.troubles[page] = []
        origin = "/".join(url.split("/")[:3])

        def asked(request):
            if not travels and not request.url.startswith((origin + "/", "data:")):
                troubles.append(f"asked for {request.url}")

        def said(message):
            # What was refused, or could not be reached, is the test's own doing.
            if message.type == "error" and "Failed to load resource" not in message.text:
                troubles.append(f"console: {message.text}")

        context.on("request", asked)
        self.pages[page] = opened = await context.new_page()
        opened.set_default_timeout(DEADLINE)
        opened.on("console", said)
        opened.on("pageerror", lambda error: troubles.append(f"error: {error.stack or error}"))
        opened.on("dialog", lambda dialog: troubles.append(f"dialog: {dialog.message}"))
        await opened.goto(url)

    async def close(self, page):
        await self.pages.pop(page).context.close()
        return self.troubles.pop(page)

    async def goto(self, page, url):
        await self.pages[page].goto(url)

    async def see(self, page, where, text=None, hidden=False):
        found = self.pages[page].locator(where)
        found = found.filter(has_text=text) if text else found
        await found.first.wait_for(state="hidden" if hidden else "visible")

    async def click(self, page, role, name, inside="body"):
        await self.pages[page].locator(inside).get_by_role(role, name=name, exact=True).first.click()

    async def type(self, page, label, text):
        found = self.pages[page]
        await found.get_by_label(label).or_(found.get_by_placeholder(label)).first.fill(text)

    async def press(self, page, key):
        await self.pages[page].keyboard.press(key)

    async def read(self, page, where):
        return await self.pages[page].locator(where).first.inner_text()

    async def cookies(self, page, url):
        return await self.pages[page].context.cookies(url)

    async def run(self, page, script):
        return await self.pages[page].evaluate(script)

    async def until(self, page, script):
        await self.pages[page].wait_for_function(script)

    async def axe(self, page):
        result = await Axe().run(self.pages[page])
        return [
            f"{found['id']}: {found['help']}: {'; '.join(str(node['target']) for node in found['nodes'][:3])}"
            for found in result.response["violations"]
        ]

    async def shoot(self, page, path):
        """As small as it can be without looking worse: few colours are used, so a palette has them all."""
        picture = Image.open(io.BytesIO(await self.pages[page].screenshot(animations="disabled"))).convert("RGB")
        picture.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)

    async def clock(self, page, what, seconds=0):
        """`stop`: the browser is put to sleep. `wake`: so many seconds later."""
        clock = self.pages[page].clock
        if what == "stop":
            await clock.pause_at(await self.run(page, "Date.now() / 1000 + 60"))
        elif what == "wake":
            await clock.fast_forward(seconds * 1000)
            await clock.resume()
        else:
            await clock.install()


async def main():
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=sys.argv[1], args=FLAGS)
        pages = Pages(browser)

        async def do(number, deed, arguments):
            try:
                answer = {"number": number, "value": await getattr(pages, deed)(**arguments)}
            except (AttributeError, Error, KeyError, TypeError) as error:
                answer = {"number": number, "error": str(error)}
            print(json.dumps(answer), flush=True)

        print("ready", flush=True)
        going = set()
        while line := await asyncio.to_thread(sys.stdin.readline):
            task = asyncio.create_task(do(*json.loads(line)))
            going.add(task)
            task.add_done_callback(going.discard)
        await browser.close()


asyncio.run(main())
