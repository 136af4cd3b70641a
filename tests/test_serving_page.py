"""The page of `kvae serve`: its files, the calls that it needs, and what it shows in a browser."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.serving import Sampler
from kvae.serving.alphabet import Alphabet

from .conftest import made_once, random_tokens, small_model
from .test_examples_javascript import CHROMIUM, EXAMPLES, NODE
from .test_serving_server import check_problem, kvae_serve, metric, serving

from kvae.serving.pages import ASSETS, FOLDER, PAGES  # isort: skip
from kvae.serving.service import Limits  # isort: skip


@pytest.fixture(scope="module")
def client(map_folder: Path) -> Iterator[Any]:
    with serving(Sampler.load(map_folder)) as client:
        yield client


# --- what the server sends ------------------------------------------------------------------------


def test_the_map_is_that_of_the_bundle(client: Any, map_folder: Path) -> None:
    assert client.get("/map").json() == Sampler.load(map_folder).latent_map


def test_a_bundle_without_a_map_says_so(sampler: Sampler) -> None:
    with serving(sampler) as client:
        check_problem(client.get("/map"), 404, "has no map", "kvae export")


def test_codes_are_decoded_as_by_the_sampler(client: Any, sampler: Sampler) -> None:
    codes = sampler.draw_codes(5, seed=1)
    response = client.post("/decode", json={"codes": codes.tolist()})
    assert response.json() == {"texts": sampler.decode(codes)}
    read = client.post("/encode", json={"texts": ["KAMITO"]}).json()["codes"][0]["code"]
    texts = client.post("/decode", json={"codes": [read]}).json()["texts"]
    assert texts == sampler.reconstruct("KAMITO")
    assert client.post("/decode", json={"codes": []}).json() == {"texts": []}


@pytest.mark.parametrize(
    "codes", [[[0.0] * 3], [[0.0] * 5], [[]], [[0.0] * 4, [0.0]], [[1e300] * 4]]
)
def test_codes_of_another_size_or_beyond_float32_are_refused(
    client: Any, codes: list[list[float]]
) -> None:
    check_problem(client.post("/decode", json={"codes": codes}), 422, "codes must be", "(n, 4)")


def test_more_codes_than_a_request_may_have_are_refused(sampler: Sampler) -> None:
    with serving(sampler, Limits(max_texts=2)) as client:
        check_problem(
            client.post("/decode", json={"codes": [[0.0] * 4] * 3}), 422, "codes must be at most 2"
        )
        parts = client.get("/openapi.json").json()["components"]["schemas"]
    assert parts["DecodeRequest"]["properties"]["codes"]["maxItems"] == 2


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_nothing_but_its_own_files(client: Any, path: str) -> None:
    page = client.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert page.text == (FOLDER / PAGES[path]).read_text(encoding="utf-8")
    assert not re.search(r"<style|<script(?![^>]* src=)|\bon\w+=|style=|javascript:", page.text)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    for address in set(addresses) - {"data:,", "/openapi.json"}:
        assert client.get(address).status_code == 200


@pytest.mark.parametrize("name", ASSETS)
def test_scripts_and_styles_load_nothing_from_elsewhere(client: Any, name: str) -> None:
    file = client.get(f"/page/{name}")
    kind = {".js": "text/javascript", ".css": "text/css"}[Path(name).suffix]
    assert file.headers["content-type"].startswith(kind)
    own = file.text.replace("https://github.com/leeoniya/uPlot", "")  # where uPlot says it is from
    assert not re.search(r"https?:|url\(|@import|\beval\(|new Function", own)
    for imported in re.findall(r'from "\./([^"]+)"', own):
        assert imported in ASSETS


def test_the_page_replaces_what_the_model_never_saw_instead_of_showing_an_error() -> None:
    scripts = "".join((FOLDER / name).read_text(encoding="utf-8") for name in ASSETS)
    reading = re.findall(r'call\("/(?:encode|interpolate|reconstruct|score)", ([^)]*)\)', scripts)
    assert len(reading) == 4
    for body in reading:
        body = re.search(rf"const {body} = (.*);", scripts)[1] if body.isalpha() else body  # type: ignore[index]
        assert 'unknown: "replace"' in body


def test_the_policy_of_the_page_allows_no_inline_script_and_no_foreign_address(client: Any) -> None:
    for path in (*PAGES, *(f"/page/{name}" for name in ASSETS)):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        policy = dict(
            part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
        )
        assert policy.pop("img-src") == "data:"
        assert set(policy.values()) == {"'none'", "'self'"}
        assert policy["default-src"] == "'none'"


def test_nothing_else_is_read_from_the_folder_of_the_page(client: Any) -> None:
    for path in ("/page/uPlot-LICENSE.txt", "/page/page.html", "/page/..%2fserver.py", "/page/"):
        assert client.get(path).status_code == 404
    assert {path.name for path in FOLDER.iterdir()} == {
        *ASSETS,
        *PAGES.values(),
        "uPlot-LICENSE.txt",
    }


def test_what_the_page_loads_is_counted_as_the_page(sampler: Sampler) -> None:
    with serving(sampler) as client:
        client.get("/")
        client.get("/page/page.js")
        client.get("/page/nothing.js")
        assert metric(client, 'kvae_requests_total{endpoint="page",status="200"}') == 2
        assert metric(client, 'kvae_requests_total{endpoint="other",status="404"}') == 1


def test_the_version_and_the_licence_of_the_library_are_told() -> None:
    script = (FOLDER / "uPlot.iife.min.js").read_text(encoding="utf-8")
    found = re.search(r"uPlot \(v([\d.]+)\)", script)
    assert found
    document = Path(__file__).parents[1] / "docs" / "server.md"
    assert f"uPlot {found[1]}" in document.read_text(encoding="utf-8")
    assert "MIT License" in (FOLDER / "uPlot-LICENSE.txt").read_text(encoding="utf-8")


# --- what a browser shows -------------------------------------------------------------------------


def in_a_browser(test: Any) -> Any:
    """A test that `make test-javascript` runs where there are Node and Chromium."""
    missing = NODE is None or CHROMIUM is None or not (EXAMPLES / "node_modules").is_dir()
    reason = "needs Node, Chromium and examples/javascript/node_modules: make test-javascript"
    return pytest.mark.javascript(pytest.mark.skipif(missing, reason=reason)(test))


BROWSER = """
    import { chromium } from "playwright-core";
    import { text } from "node:stream/consumers";
    const given = JSON.parse(await text(process.stdin));
    const browser = await chromium.launch({
        executablePath: process.env.KVAE_CHROMIUM, args: ["--no-sandbox", "--disable-gpu"],
    });
    const said = [];
    const opened = async (options = {}) => {
        const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, ...options });
        page.setDefaultTimeout(60_000);
        page.on("pageerror", (error) => said.push(String(error)));
        page.on("console", (message) => message.type() === "error" && said.push(message.text()));
        await page.goto(given.url);
        await settled(page);
        return page;
    };
    const settled = async (page) => {
        await page.waitForTimeout(150);
        await page.waitForSelector("#main[aria-busy=false]", { state: "attached" });
    };
    const texts = (page, selector) => page.locator(selector).allTextContents();
    /** The place of a point of the map, and the text that is shown there; or of an empty place. */
    const found = async (page, wanted) => {
        await page.locator("#map").scrollIntoViewIfNeeded();
        const { x, y, width, height } = await page.locator("#map .u-over").boundingBox();
        for (let down = 15; down < height; down += 12) {
            for (let right = 15; right < width; right += 12) {
                const place = [x + right, y + down];
                await page.mouse.move(...place);
                const text = page.locator("#hover .text");
                if ((await text.isVisible()) !== wanted) continue;
                return { place, text: wanted ? await text.textContent() : null };
            }
        }
    };
    const work = async () => { BODY };
    try {
        const result = await work();
        console.log(JSON.stringify({ result, said }));
    } finally {
        await browser.close();
    }
"""


def browsed(url: str, body: str, **given: Any) -> Any:
    """What the JavaScript `body` returns, which drives the page at `url`; nothing went wrong."""
    done = subprocess.run(
        [str(NODE), "--input-type=module", "--eval", BROWSER.replace("BODY", body)],
        cwd=EXAMPLES,
        env={**os.environ, "KVAE_CHROMIUM": str(CHROMIUM)},
        input=json.dumps({"url": url, **given}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["said"] == given.get("said", []), found
    return found["result"]


@pytest.fixture(scope="module")
def url(map_folder: Path) -> Iterator[str]:
    with kvae_serve(map_folder) as (_, url):
        yield url


def other_bundle(factory: pytest.TempPathFactory, name: str, **shape: Any) -> Path:
    """A bundle of a small model, with the map of two hundred texts if it has codes."""
    from kvae.configuration import Config
    from kvae.export.bundle import write_bundle

    def make(path: Path) -> None:
        alphabet = Alphabet(tuple("abcde"))
        model = small_model(vocabulary_size=len(alphabet), **shape)
        config = replace(Config(), model=model.model_config)
        labels = np.arange(200) % 2 if model.model_config.attributes else None
        write_bundle(model, alphabet, config, path, held_out=random_tokens(200), labels=labels)

    return made_once(factory, name, make)


@in_a_browser
def test_the_page_opens_with_texts_and_three_fields(url: str, map_folder: Path) -> None:
    shown = browsed(
        url,
        """
        const page = await opened();
        return {
            probable: await texts(page, "#samples .first .text .text, #samples .first button.text"),
            drawn: await texts(page, "#samples .second button.text"),
            fields: await page.locator("input:visible:not([type=range]), select:visible").count(),
            addresses: await page.evaluate(
                () => performance.getEntriesByType("resource").map((entry) => entry.name)),
        };
        """,
    )
    sampler = Sampler.load(map_folder)
    assert shown["probable"] == sampler.sample(6, seed=0, greedy=True)
    assert shown["drawn"] == sampler.sample(6, seed=0, temperature=1.0)
    assert shown["fields"] == 3
    assert all(address.startswith(url) for address in shown["addresses"])


@in_a_browser
def test_other_texts_come_at_a_press_and_settings_are_folded_away(
    url: str, map_folder: Path
) -> None:
    shown = browsed(
        url,
        """
        const page = await opened();
        await page.getByRole("button", { name: "Write others" }).click();
        await settled(page);
        const seed = Number(await page.locator("[name=seed]").inputValue());
        const others = await texts(page, "#samples .second button.text");
        await page.locator("#sample summary").click();
        await page.locator("[name=top_k]").fill("1");
        await page.locator("[name=n]").fill("2");
        await page.locator("[name=n]").blur();
        await settled(page);
        return { seed, others, likely: await texts(page, "#samples .second button.text") };
        """,
    )
    sampler = Sampler.load(map_folder)
    assert shown["seed"] != 0
    assert shown["others"] == sampler.sample(6, shown["seed"])
    assert shown["likely"] == sampler.sample(2, shown["seed"], greedy=True)


@in_a_browser
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_page_fits_a_phone_a_tablet_and_a_desk_in_light_and_dark(url: str, path: str) -> None:
    shown = browsed(
        url + path,
        """
        const seen = [];
        for (const width of [390, 820, 1280]) {
            for (const colorScheme of ["light", "dark"]) {
                const page = await opened({ viewport: { width, height: 844 }, colorScheme });
                for (const summary of await page.locator("summary:visible").all())
                    await summary.click();
                seen.push(await page.evaluate(() => [
                    document.documentElement.scrollWidth - innerWidth,
                    getComputedStyle(document.body).backgroundColor,
                ]));
                await page.close();
            }
        }
        return seen;
        """,
    )
    assert [excess <= 0 for excess, _ in shown] == [True] * 6
    assert len({colour for _, colour in shown}) == 2


@in_a_browser
def test_a_point_of_the_map_is_read_back_and_a_place_beside_it_is_lifted(
    url: str, map_folder: Path
) -> None:
    shown = browsed(
        url,
        """
        const page = await opened();
        const point = await found(page, true);
        await page.mouse.click(...point.place);
        await settled(page);
        const read = await page.locator("#here").textContent();
        const asked = page.waitForRequest("**/decode");
        await page.mouse.click(...(await found(page, false)).place);
        const [code] = (await asked).postDataJSON().codes;
        await settled(page);
        return { text: point.text, read, code, written: await page.locator("#here").textContent() };
        """,
    )
    sampler = Sampler.load(map_folder)
    found = sampler.latent_map
    assert found
    assert shown["text"] in found["points"]["text"]
    assert shown["read"] == sampler.reconstruct(shown["text"])[0]
    assert shown["written"] == sampler.decode([shown["code"]])[0]
    components = np.array(found["components"])
    away = np.array(shown["code"]) - found["mean"]
    np.testing.assert_allclose(components.T @ (components @ away), away, atol=1e-4)
    assert np.linalg.norm(away) > 0


@in_a_browser
def test_a_drag_and_a_walk_show_the_texts_on_the_way(url: str, map_folder: Path) -> None:
    shown = browsed(
        url,
        """
        const page = await opened();
        const point = await found(page, true);
        await page.mouse.click(...point.place);
        await settled(page);
        const asked = [];
        page.on("request", (request) =>
            request.url().endsWith("/decode") && asked.push(request.postDataJSON().codes));
        const { x, y, width, height } = await page.locator("#map .u-over").boundingBox();
        await page.mouse.move(...point.place);
        await page.mouse.down();
        await page.mouse.move(x + 0.9 * width, y + 0.9 * height, { steps: 5 });
        await page.mouse.up();
        await settled(page);
        const dragged = await texts(page, "#way li");
        await page.locator("#walk").click();
        await page.locator("#map").scrollIntoViewIfNeeded();
        await page.mouse.click(...point.place);
        await settled(page);
        return { text: point.text, dragged, walked: await texts(page, "#way li"), asked };
        """,
    )
    sampler = Sampler.load(map_folder)
    dragged, walked = shown["asked"]
    assert shown["dragged"] == sampler.decode(dragged)
    assert shown["walked"] == sampler.decode(walked)
    assert len(dragged) == len(walked) == 7
    np.testing.assert_allclose(dragged[0], sampler.encode(shown["text"])[0], atol=1e-4)
    np.testing.assert_allclose(walked, dragged[::-1], atol=1e-4)


@in_a_browser
def test_a_slider_moves_its_dimension_and_the_text_follows(url: str, map_folder: Path) -> None:
    shown = browsed(
        url,
        """
        const page = await opened();
        const asked = [];
        page.on("request", (request) =>
            request.url().endsWith("/decode") && asked.push(request.postDataJSON().codes[0]));
        const sliders = page.locator("#sliders input");
        const high = await sliders.nth(1).getAttribute("max");
        await sliders.nth(1).fill(high);
        await settled(page);
        const text = await page.locator("#here").textContent();
        return { asked, high: Number(high), count: await sliders.count(), text };
        """,
    )
    sampler = Sampler.load(map_folder)
    assert sampler.latent_map
    dimension = sampler.latent_map["dimensions"]["index"][1]
    assert shown["count"] == 4
    assert shown["asked"][-1][dimension] == pytest.approx(shown["high"], abs=0.1)
    assert shown["text"] == sampler.decode([shown["asked"][-1]])[0]


@in_a_browser
def test_a_text_is_read_and_another_one_reached(url: str, map_folder: Path) -> None:
    shown = browsed(
        url,
        """
        const page = await opened();
        for (const summary of await page.locator("section > details > summary").all())
            await summary.click();
        await page.locator("[name=text]").fill("KAMITO");
        await page.locator("#read button").click();
        await settled(page);
        const read = await page.locator("#reading").textContent();
        await page.locator("[name=first]").fill("KAMITO");
        await page.locator("[name=last]").fill("RUNENE");
        await page.locator("#interpolate button").click();
        await settled(page);
        const way = await texts(page, "#interpolation li");
        const where = await page.locator("#where").textContent();
        await page.locator("[name=text]").fill("KA?");
        await page.locator("#read button").click();
        await settled(page);
        const replaced = await page.locator("#reading").textContent();
        return { read, where, way, replaced, problems: await page.locator(".problem").count() };
        """,
    )
    sampler = Sampler.load(map_folder)
    assert sampler.reconstruct("KA?", unknown="replace")[0] in shown["replaced"]
    assert shown["problems"] == 0
    assert sampler.reconstruct("KAMITO")[0] in shown["read"]
    assert (
        f"{sampler.score('KAMITO')[0].bits_per_character:.2f} bits per character" in shown["read"]
    )
    assert "KAMITO" in shown["where"]
    assert shown["way"] == sampler.interpolate("KAMITO", "RUNENE")


@in_a_browser
def test_without_a_map_the_rest_works(bundle_folder: Path) -> None:
    with kvae_serve(bundle_folder) as (_, url):
        shown = browsed(
            url,
            """
            const page = await opened();
            const drawn = await texts(page, "#samples .second .text");
            return [await page.locator("#space").isVisible(), drawn];
            """,
        )
    assert shown == [False, Sampler.load(bundle_folder).sample(6, seed=0)]


@in_a_browser
def test_a_language_model_offers_nothing_that_needs_codes(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    shape = {"encoder": "none", "latent": "none", "expander": "repeat", "expander_base": 0}
    bundle = other_bundle(tmp_path_factory, "language-model", auxiliary=False, **shape)
    with kvae_serve(bundle) as (_, url):
        shown = browsed(
            url,
            """
            const page = await opened();
            await page.locator("#own summary").click();
            await page.locator("[name=text]").fill("abc");
            await page.locator("#read button").click();
            await settled(page);
            return {
                sections: await texts(page, "h2:visible"),
                drawn: await texts(page, "#samples .second .text"),
                read: await page.locator("#reading").textContent(),
            };
            """,
        )
    assert shown["sections"] == ["New texts", "Let it read your text"]
    assert shown["drawn"] == Sampler.load(bundle).sample(6, seed=0)
    assert "bits per character" in shown["read"]


@in_a_browser
def test_the_label_of_a_place_can_be_chosen(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = other_bundle(tmp_path_factory, "labelled", attributes=("short", "long"))
    with kvae_serve(bundle) as (_, url):
        shown = browsed(
            url,
            """
            const page = await opened();
            const asked = page.waitForRequest("**/decode");
            const select = page.locator("#label select");
            const other = (await select.inputValue()) === "long" ? "short" : "long";
            await select.selectOption(other);
            const [code] = (await asked).postDataJSON().codes;
            await settled(page);
            const text = await page.locator("#here").textContent();
            await page.locator("[name=attribute]").selectOption(other);
            await settled(page);
            const legend = await page.locator("#legend").textContent();
            const drawn = await texts(page, "#samples .second small");
            return { other, code, text, legend, drawn };
            """,
        )
    place = ["short", "long"].index(shown["other"])
    assert shown["code"][-2:] == [1 - place, place]
    assert shown["text"] == Sampler.load(bundle).decode([shown["code"]])[0]
    assert "short" in shown["legend"]
    assert "long" in shown["legend"]
    assert [label for label in shown["drawn"] if label != "cut"] == [shown["other"]] * 6


@in_a_browser
def test_a_model_that_is_busy_and_a_server_that_is_gone_are_told(map_folder: Path) -> None:
    with kvae_serve(map_folder) as (process, url):
        shown = browsed(
            url,
            """
            const page = await opened();
            await page.route("**/sample", (route) => route.fulfill({
                status: 429,
                headers: { "Retry-After": "60" },
                contentType: "application/problem+json",
                body: JSON.stringify({ status: 429, detail: "256 requests wait" }),
            }));
            await page.getByRole("button", { name: "Write others" }).click();
            await settled(page);
            const busy = await page.locator("#samples").textContent();
            process.kill(given.process);
            await page.waitForTimeout(500);
            await page.locator("#sliders input").first().fill("0");
            await settled(page);
            const notice = await page.locator("#notice").textContent();
            said.length = 0;
            return { busy, notice, here: await page.locator("#here").textContent() };
            """,
            process=process.pid,
        )
    assert "too much to do" in shown["busy"]
    assert "256 requests wait" in shown["busy"]
    assert "does not answer" in shown["notice"]
    assert "does not answer" in shown["here"]
