"""The page in a real Chromium, on a real server and a real database."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyglove as pg
import pytest

import nas
from nas.store import ArchMeasurement, StoredPredictor, open_store
from nas.store.filters import Filter
from nas.text import human
from tests.web.served import add, running, toy
from tests.web.test_jobs import JOB, NETWORKS

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; apt-get install chromium")

STATIC = Path(nas.__file__).parent / "web" / "static"
WAIT_MS = 120_000
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
EXPECTED = (
    "409 (Conflict)",
    "400 (Bad Request)",
    "401 (Unauthorized)",
    "404 (Not Found)",
)  # sentences of the API, shown


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        expect.set_options(timeout=WAIT_MS)
        one = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must say nothing wrong on its console."""
    yield from opened(browser)


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    yield from opened(browser, viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True)


def opened(browser: Browser, **options: object) -> Iterator[Page]:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **options)  # type: ignore[arg-type]
    one = context.new_page()
    one.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    one.on("pageerror", lambda error: wrong.append(str(error)))
    one.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    one.on("response", lambda answer: wrong.append(f"{answer.status} {answer.url}") if answer.status >= 500 else None)
    yield one
    hacked = one.evaluate("window.hacked === undefined")
    context.close()
    assert hacked, "text from the database ran as a script"
    assert [said for said in wrong if not any(each in said for each in (*EXPECTED, "ERR_"))] == []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "toy.db"
    toy(path)
    toy(path, "other", trials=10)
    return path


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[str]:
    with running(store) as url:
        yield url


def front(store: Path, where: str | None = None) -> list[int]:
    """Numbers on the front, the most accurate first."""
    with open_store(store, create=False) as opened_store:
        found = opened_store.open_study("toy").front(where)
        return [int(one) for one in found.sort_values("accuracy", ascending=False).index]


def shown(page: Page) -> list[int]:
    return [int(text) for text in page.locator("#trials tbody tr td:first-child").all_inner_texts()]


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def ready(page: Page) -> None:
    expect(page.locator("#front-said")).to_contain_text("on the front")
    expect(page.locator("#rows-said")).to_contain_text("trial")
    expect(page.locator("#best")).to_be_visible()


def settled(page: Page) -> None:
    """Nothing is being asked for, so that a server may end without breaking off an answer."""
    expect(page.locator("[aria-busy]")).to_have_count(0)


# -- a study


def test_a_study_opens_with_its_front_drawn_and_in_the_table(page: Page, server: str, store: Path) -> None:
    page.goto(f"{server}/")
    page.get_by_role("link", name="toy").click()
    ready(page)
    members = front(store)
    expect(page.locator("#front-said")).to_have_text(f"{len(members)} on the front. 24 trials shown.")
    assert shown(page) == members
    expect(page.locator("#finished")).to_have_text("24")
    expect(page.locator("#link-state")).to_have_text("Live")
    expect(page.locator("#best")).to_have_text(f"Trial {members[0]}")
    assert page.locator(".chart canvas").count() >= 1


def test_a_filter_narrows_the_front_and_sets_the_sliders(page: Page, server: str, store: Path) -> None:
    page.goto(f"{server}/?study=toy")
    ready(page)
    page.locator("#where").fill("params <= 2_000 and act == 'gelu'")
    within = front(store, "params <= 2_000 and act == 'gelu'")
    assert 0 < len(within) < len(front(store))
    expect(page.locator("#rows-said")).to_have_text(re.compile(rf"^{len(within)} trials? on the front$"))
    expect(page.locator("output[for='slider-params']")).to_have_text("≤ 2,000")
    expect(page.locator("#best")).to_have_text(f"Trial {within[0]}")
    assert shown(page) == within
    assert query(page)["where"] == ["params <= 2_000 and act == 'gelu'"]


def test_a_slider_writes_a_clause_of_the_filter(page: Page, server: str, store: Path) -> None:
    page.goto(f"{server}/?study=toy&where=act+%3D%3D+'relu'+or+depth+%3D%3D+1")
    ready(page)
    page.locator("#slider-params").focus()
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#where")).to_have_value(re.compile(r"^\(act == 'relu' or depth == 1\) and params <= [\d_.]+$"))
    written = page.locator("#where").input_value()
    within = front(store, written)
    expect(page.locator("#best")).to_have_text(f"Trial {within[0]}")
    page.locator("#slider-params").press("End")
    expect(page.locator("#where")).to_have_value("(act == 'relu' or depth == 1)")


def test_a_filter_that_does_not_parse_is_marked_at_its_place_and_changes_nothing(page: Page, server: str) -> None:
    page.goto(f"{server}/?study=toy")
    ready(page)
    before = shown(page)
    page.locator("#where").fill("params <= 2_000 and depht == 1")
    expect(page.locator("#where-fault")).to_contain_text("depht")
    expect(page.locator("#where-fault mark")).to_have_text("depht")
    expect(page.locator("#where")).to_have_attribute("aria-invalid", "true")
    assert shown(page) == before
    assert "where" not in query(page)
    page.locator("#where").fill("params <= 2_000")
    expect(page.locator("#where-fault")).to_be_hidden()


def test_brushing_narrows_the_table_and_a_link_keeps_it(page: Page, server: str, store: Path) -> None:
    page.goto(f"{server}/?study=toy")
    ready(page)
    page.locator(".chart").first.scroll_into_view_if_needed()
    box = page.locator(".chart").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.6, steps=8)
    page.mouse.up()
    total = len(front(store))
    expect(page.locator("#rows-said")).to_contain_text(f" of {total} trials on the front")
    expect(page.locator(".chip.brushed")).to_have_count(2)
    inside = shown(page)
    assert 0 < len(inside) < total
    assert len(query(page)["brush"]) == 2
    page.reload()
    ready(page)
    expect(page.locator("#rows-said")).to_have_text(f"{len(inside)} of {total} trials on the front")
    assert shown(page) == inside
    page.locator("#rows").select_option("all")
    expect(page.locator("#trials tbody tr td:nth-child(2)").first).to_be_visible()
    assert set(inside) <= set(shown(page))
    for _ in range(2):
        page.locator(".chip.brushed").first.click()
    expect(page.locator("#rows-said")).to_have_text(re.compile("^1.24 of 24 trials$"))


def test_a_point_of_the_front_opens_its_trial(page: Page, server: str, store: Path) -> None:
    page.goto(f"{server}/?study=toy")
    ready(page)
    settled(page)
    chart = page.locator("section[aria-label='Front'] .chart")
    chart.scroll_into_view_if_needed()
    best = front(store)[0]
    with open_store(store, create=False) as opened_store:
        values = opened_store.open_study("toy").trial(best).measurements
    at = chart.evaluate(
        "(node, values) => echarts.getInstanceByDom(node).convertToPixel({ gridIndex: 0 }, values)",
        [values["params"], values["accuracy"]],
    )
    chart.click(position={"x": at[0], "y": at[1]})
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Trial {best}")


def test_behind_a_prefix_of_a_proxy_everything_is_found(page: Page, store: Path) -> None:
    with running(store, prefix="/tools/nas") as url:
        page.goto(f"{url}/tools/nas/?study=toy")
        ready(page)
        expect(page.locator("#link-state")).to_have_text("Live")
        page.get_by_role("link", name="Studies").first.click()
        expect(page.get_by_role("link", name="toy")).to_be_visible()
        settled(page)


def test_a_range_of_an_axis_of_the_parallel_coordinates_narrows_the_table(page: Page, server: str, store: Path) -> None:
    page.goto(f"{server}/?study=toy")
    ready(page)
    card = page.locator("section[aria-label='Decisions and metrics']")
    card.scroll_into_view_if_needed()
    expect(card.locator("canvas").first).to_be_visible()
    settled(page)
    chart = card.locator(".chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    across = box["x"] + 40 + (box["width"] - 100) * 3 / 4  # the fourth of five axes: accuracy
    page.mouse.move(across, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(across, box["y"] + 130, steps=6)
    page.mouse.up()
    expect(page.locator(".chip.brushed")).to_contain_text("accuracy")
    total = len(front(store))
    expect(page.locator("#rows-said")).to_contain_text(f" of {total} trials on the front")
    page.locator(".chip.brushed").click()
    expect(page.locator("#rows-said")).to_have_text(f"{total} trials on the front")
    expect(page.locator(".chip.brushed")).to_have_count(0)


def test_trials_are_sorted_by_a_heading(page: Page, server: str) -> None:
    page.goto(f"{server}/?study=toy&rows=all")
    ready(page)
    page.get_by_role("button", name="params", exact=True).click()
    expect(page.locator("#trials th[aria-sort]")).to_have_text("params")
    expect(page).to_have_url(re.compile("sort=params"))
    expect(page.locator("#trials tbody tr:first-child td:nth-child(2)")).to_have_text("completed")
    assert query(page)["up"] == ["yes"]


def test_a_command_is_copied(page: Page, server: str, store: Path) -> None:
    page.goto(f"{server}/?study=toy&trial=3")
    command = page.locator(".command code").first
    expect(command).to_contain_text("nas extract toy 3")
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == command.inner_text()


def test_the_front_is_downloaded_as_it_is_filtered(page: Page, server: str, store: Path) -> None:
    page.goto(f"{server}/?study=toy&where=params+%3C%3D+2_000")
    ready(page)
    with page.expect_download() as waiting:
        page.get_by_role("link", name="csv").click()
    lines = Path(waiting.value.path()).read_text().splitlines()
    assert sorted(int(line.split(",")[0]) for line in lines[1:]) == sorted(front(store, "params <= 2_000"))


def test_a_network_that_the_server_cannot_build_is_answered_with_the_command(page: Page, server: str) -> None:
    page.goto(f"{server}/?study=toy&trial=3")
    page.get_by_role("button", name="safetensors").click()
    expect(page.locator(".files .state.failed")).to_contain_text("jobs folder")
    expect(page.locator(".files .command code")).to_contain_text("nas extract toy 3")


def test_a_link_restores_filter_axes_and_rows(page: Page, server: str) -> None:
    page.goto(
        f"{server}/?study=toy&where=params+%3C%3D+3_000&x=latency_ms&y=params&colour=accuracy&rows=all&sort=params"
    )
    ready(page)
    expect(page.locator("#where")).to_have_value("params <= 3_000")
    for name, value in (("axis-x", "latency_ms"), ("axis-y", "params"), ("axis-colour", "accuracy"), ("rows", "all")):
        expect(page.locator(f"#{name}")).to_have_value(value)
    expect(page.locator("#trials th[aria-sort]")).to_have_text("params")


def test_going_back_shows_the_view_before(page: Page, server: str) -> None:
    page.goto(f"{server}/?study=toy&where=params+%3C%3D+3_000")
    ready(page)
    page.locator("#best").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"^Trial \d+$"))
    page.go_back()
    ready(page)
    expect(page.locator("#where")).to_have_value("params <= 3_000")


SPELLED = [
    ("", "params", True, 5e4, "params <= 50_000"),
    ("params < 3 and act == 'a and b'", "params", True, 2.5, "params <= 2.5 and act == 'a and b'"),
    ("9 >= params", "params", True, None, ""),
    ("params >= 1", "params", True, 7, "params >= 1 and params <= 7"),
    ("accuracy > .5 and depth == 1", "accuracy", False, 0.75, "accuracy >= 0.75 and depth == 1"),
    ("depth == 1 or width == 8", "params", True, 7, "(depth == 1 or width == 8) and params <= 7"),
    ("not (params <= 3 and depth == 1)", "params", True, 7, "not (params <= 3 and depth == 1) and params <= 7"),
    ("layers[0].kernel <= 5", "layers[0].kernel", True, None, ""),
    ("params in (1, 2) and params <= 1e3", "params", True, 9, "params in (1, 2) and params <= 9"),
]


@pytest.mark.parametrize(("text", "name", "upper", "value", "expected"), SPELLED)
def test_a_slider_changes_its_own_clause_alone(
    page: Page, server: str, text: str, name: str, upper: bool, value: float | None, expected: str
) -> None:
    page.goto(f"{server}/?devices=")
    script = "async (given) => (await import('./static/js/filters.js')).withBound(...given)"
    written = page.evaluate(script, [text, name, upper, value])
    assert written == expected
    if written:
        Filter(written)


def test_numbers_are_written_as_on_the_command_line(page: Page, server: str) -> None:
    page.goto(f"{server}/?devices=")
    values = [0, 1, 0.98765, 1234, 9999.5, 12345, 1_052_672, -2.5e9, 0.00015, 3e12]
    script = "async (values) => values.map((await import('./static/js/text.js')).human)"
    shown = [text.replace("\u00a0", " ") for text in page.evaluate(script, values)]
    assert shown == [human(value) for value in values]


# -- live


def test_a_study_is_followed_while_trials_finish(page: Page, tmp_path: Path) -> None:
    store = tmp_path / "toy.db"
    toy(store, trials=4)
    with running(store) as url:
        page.goto(f"{url}/?study=toy&rows=all")
        ready(page)
        expect(page.locator("#link-state")).to_have_text("Live")
        add(store, 7)
        expect(page.locator("#finished")).to_have_text("11")
        expect(page.locator("#rows-said")).to_have_text(re.compile("^1.11 of 11 trials$"))
        assert page.evaluate("performance.getEntriesByType('navigation').length") == 1
        settled(page)


def test_a_lost_connection_is_said_and_nothing_is_missed_after_a_restart(page: Page, tmp_path: Path) -> None:
    store = tmp_path / "toy.db"
    toy(store, trials=4)
    with running(store) as url:
        page.goto(f"{url}/?study=toy")
        ready(page)
        expect(page.locator("#link-state")).to_have_text("Live")
        settled(page)
    expect(page.locator("#link-state")).to_contain_text("Lost connection")
    add(store, 3)
    with running(store, port=int(url.rsplit(":", 1)[1])):
        expect(page.locator("#link-state")).to_have_text("Live")
        expect(page.locator("#finished")).to_have_text("7")
        expect(page.locator("#front-said")).to_contain_text("7 trials shown")
        settled(page)


def test_what_could_not_be_loaded_anew_is_shown_as_stale(page: Page, tmp_path: Path) -> None:
    store = tmp_path / "toy.db"
    toy(store, trials=4)
    with running(store) as url:
        page.goto(f"{url}/?study=toy")
        ready(page)
        page.route("**/front*", lambda route: route.abort())
        add(store, 2)
        card = page.locator("section.card[aria-label='Front']")
        expect(card).to_have_attribute("data-state", "stale")
        expect(card.locator(".state.stale")).to_contain_text("Stale: as of")
        expect(card.locator("canvas").first).to_be_visible()
        page.unroute("**/front*")
        card.get_by_role("button", name="Try again").click()
        expect(card).to_have_attribute("data-state", "ready")
        settled(page)


# -- devices


def on_a_board(store: Path, name: str) -> None:
    """Measurements of some archs of the study on a board, a fifth slower than the trials say, and a predictor of it."""
    with open_store(store, create=False) as opened_store:
        record, hardware = opened_store.open_study("toy"), opened_store.hardware
        hardware.add_device(name, {"cores": 8, "soc": EVIL})
        done = [record.trial(int(number)) for number in record.front().index]
        rows = [
            ArchMeasurement(one.key, one.row, one.measurements["latency_ms"] * 1.25, noisy=at == 0, details={})
            for at, one in enumerate(done)
        ]
        mark = record.schema["fingerprint"]
        hardware.add_measurements(name, mark, rows)
        hardware.save_predictor(StoredPredictor(name, mark, "toy", "ridge", {"mape": 12.5}, {}, b"-"))


def test_a_device_shows_what_was_predicted_beside_what_was_measured(page: Page, tmp_path: Path) -> None:
    store = tmp_path / "toy.db"
    toy(store)
    on_a_board(store, "phone")
    pairs = len(front(store))
    with running(store) as url:
        page.goto(f"{url}/?devices=")
        page.get_by_role("link", name="phone").click()
        expect(page.locator("table[aria-label='Predictors']")).to_contain_text("mape 12.5")
        expect(page.locator("main")).to_contain_text(EVIL)
        page.locator("#of").select_option("toy")
        figures = page.locator("section[aria-label='Predicted and measured latency'] .figures")
        expect(figures).to_have_text(f"{pairs} networks · 20 % mean absolute error · rank correlation 1")
        assert query(page) == {"devices": ["phone"], "of": ["toy"]}
        page.goto(f"{url}/?study=toy")
        ready(page)
        page.locator("section[aria-label='Predicted and measured latency']").scroll_into_view_if_needed()
        expect(figures).to_contain_text(f"{pairs} networks")
        settled(page)
        assert page.locator("main img, main script").count() == 0


# -- jobs and files


@pytest.mark.slow  # imports torch in four processes
def test_a_job_is_started_and_its_network_looked_at_and_downloaded(page: Page, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "networks.py").write_text(NETWORKS)
    open_store(tmp_path / "all.db").close()
    with running(tmp_path / "all.db", jobs=tmp_path / "jobs") as url:
        page.goto(f"{url}/?jobs=")
        page.get_by_role("link", name="networks").click()
        page.locator("#job-workers").fill("0")
        page.get_by_role("button", name="Start").click()
        expect(page.locator(".log")).to_contain_text("networks")
        expect(page.locator("tbody .ended")).to_have_text("ended")
        page.goto(f"{url}/?study=networks")
        ready(page)
        page.locator("#best").click()
        page.locator("section[aria-label='Layers']").scroll_into_view_if_needed()
        expect(page.locator("table[aria-label='Layers'] tbody tr").first).to_contain_text("Linear")
        with page.expect_download() as waiting:
            page.get_by_role("button", name="safetensors").click()
        content = Path(waiting.value.path()).read_bytes()
        expect(page.locator(".files")).to_contain_text(hashlib.sha256(content).hexdigest())


def test_a_job_is_stopped(page: Page, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "waiting.py").write_text(JOB)
    (tmp_path / "jobs" / "hold").touch()
    open_store(tmp_path / "all.db").close()
    with running(tmp_path / "all.db", jobs=tmp_path / "jobs") as url:
        page.goto(f"{url}/?jobs=waiting")
        page.locator("#job-workers").fill("0")
        page.get_by_role("button", name="Start").click()
        page.get_by_role("button", name="Stop").click()
        (tmp_path / "jobs" / "hold").unlink()
        expect(page.locator("tbody .ended")).to_have_text(re.compile("stopped|ended"))
        expect(page.get_by_role("button", name="Start")).to_be_visible()


def test_a_server_that_only_reads_offers_no_write(page: Page, store: Path, tmp_path: Path) -> None:
    with running(store, jobs=tmp_path, read_only=True) as url:
        (tmp_path / "waiting.py").write_text(JOB)
        page.goto(f"{url}/?jobs=waiting")
        expect(page.locator(".card .note")).to_contain_text("read-only")
        expect(page.get_by_role("button", name="Start")).to_be_hidden()
        page.goto(f"{url}/?study=toy&trial=3")
        expect(page.get_by_role("button", name="safetensors")).to_be_disabled()


# -- states


def test_an_empty_database_says_how_to_start(page: Page, tmp_path: Path) -> None:
    with open_store(tmp_path / "empty.db"):
        pass
    with running(tmp_path / "empty.db") as url:
        page.goto(url)
        expect(page.locator(".state.empty")).to_contain_text("nas run")


@pytest.mark.parametrize(("where", "said"), [("?study=tooy", "tooy"), ("?study=toy&trial=99", "has no trial 99")])
def test_what_is_unknown_is_said_in_the_words_of_the_api(page: Page, server: str, where: str, said: str) -> None:
    page.goto(f"{server}/{where}")
    expect(page.locator(".state.failed")).to_contain_text(said)


def test_a_token_is_asked_for_and_remembered(page: Page, store: Path) -> None:
    with running(store, token="a-token-of-sixteen-letters") as url:
        page.goto(f"{url}/?study=toy")
        page.locator("#token").fill("another token of sixteen")
        page.keyboard.press("Enter")
        expect(page.locator("form.token .failed")).to_be_visible()
        page.locator("#token").fill("a-token-of-sixteen-letters")
        page.keyboard.press("Enter")
        ready(page)
        page.reload()
        ready(page)
        settled(page)
        page.get_by_role("button", name="Log out").click()
        expect(page.locator("#token")).to_be_visible()


# -- safe


def test_markup_in_names_choices_reasons_and_workers_is_text_and_runs_nothing(page: Page, tmp_path: Path) -> None:
    store = tmp_path / "evil.db"

    def evaluated(arch: nas.Arch) -> dict[str, float]:
        if arch.choices["op"] == "fail":
            raise RuntimeError(EVIL)
        return {
            "accuracy": float(len(str(arch.choices["op"]))),
            "params": float(sum(one for one in arch.choices.values() if isinstance(one, int))),
        }

    space = nas.Space(pg.Dict({"op": pg.oneof([EVIL, "fail", "conv"]), f"a {EVIL}": pg.oneof([1, 2])}), name=EVIL)
    study = nas.Study(
        "evil",
        space=space,
        objectives=["max accuracy", "min params"],
        evaluators=[evaluated],
        algorithm="random",
        store=store,
        trials=6,
    )
    study.run(workers=0, progress=False)
    number = next(int(one) for one in study.record.front().index)
    study.record.annotate({EVIL: EVIL}, number)
    study.close()
    toy(store)
    add(store, 1, worker=EVIL)
    with running(store) as url:
        for where in (
            "",
            "?study=evil",
            "?study=evil&rows=all",
            f"?study=evil&trial={number}",
            "?compare=evil&compare=toy",
            "?devices=",
        ):
            page.goto(f"{url}/{where}")
            expect(page.locator("section.card").first).not_to_have_attribute("data-state", "loading")
            if where.startswith("?study=evil") and "trial" not in where:
                ready(page)
                page.locator("section[aria-label='Failed and infeasible']").scroll_into_view_if_needed()
                expect(page.locator("td .reason").first).to_contain_text(EVIL)
            if "trial" in where:
                expect(
                    page.locator("section[aria-label='Choices'] th, section[aria-label='Choices'] td").filter(
                        has_text="onerror"
                    )
                ).not_to_have_count(0)
                expect(page.locator("section[aria-label='Notes']")).to_contain_text(EVIL)
            assert page.locator("main img, main script").count() == 0


def test_the_page_loads_from_its_own_server_alone(page: Page, server: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server}/?study=toy")
    ready(page)
    assert asked
    assert all(url.startswith((f"{server}/", "data:", "blob:")) for url in asked)


def test_the_document_names_every_module_so_that_they_load_side_by_side() -> None:
    html = (STATIC / "index.html").read_text()
    named = sorted(re.findall(r'rel="modulepreload" href="static/(js/[\w/]+\.js)"', html))
    there = sorted(path.relative_to(STATIC).as_posix() for path in (STATIC / "js").rglob("*.js"))
    assert named == [one for one in there if one != "js/main.js"]


def test_what_is_vendored_is_what_its_record_says() -> None:
    for one in json.loads((STATIC / "vendor" / "VENDORED.json").read_text())["files"]:
        content = (STATIC / "vendor" / one["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == one["sha256"]
        assert f'version="{one["version"]}"'.encode() in content
        assert all((STATIC / "vendor" / name).stat().st_size for name in one["licence_files"])


def test_no_module_writes_markup_or_evaluates_text() -> None:
    for path in (STATIC / "js").rglob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text()
        ), path


# -- for everybody


def test_the_table_is_reached_and_walked_by_keyboard(page: Page, server: str, store: Path) -> None:
    page.goto(f"{server}/?study=toy")
    ready(page)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Skip to the table":
            break
    page.keyboard.press("Enter")
    first, second = front(store)[:2]
    assert page.evaluate("document.activeElement.textContent") == str(first)
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == str(second)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Trial {second}")


VIEWS = ["", "?study=toy", "?study=toy&rows=all", "?study=toy&trial=3", "?compare=toy&compare=other", "?devices="]


@pytest.mark.parametrize("where", VIEWS)
def test_a_phone_in_the_dark_needs_no_sideways_scrolling(phone: Page, server: str, where: str) -> None:
    phone.goto(f"{server}/{where}")
    expect(phone.locator("section.card").first).to_have_attribute("data-state", re.compile("ready|empty"))
    if where.startswith("?study=toy") and "trial" not in where:
        ready(phone)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    red, green, blue = map(
        int, re.findall(r"\d+", phone.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    assert max(red, green, blue) < 60


def test_studies_are_laid_over_each_other(page: Page, server: str) -> None:
    page.goto(server)
    page.get_by_label("Compare toy").check()
    page.get_by_label("Compare other").check()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("table[aria-label='Studies compared'] tbody tr")).to_have_count(2)
    assert query(page)["compare"] == ["toy", "other"]
    page.locator("#compare-objectives").fill("max accuracy, min latency_ms")
    page.keyboard.press("Enter")
    expect(page.locator("th", has_text="Best latency_ms")).to_be_visible()
    page.locator("#compare-where").fill("latency_ms <")
    page.keyboard.press("Enter")
    expect(page.locator(".state.stale")).to_contain_text("does not parse")
    page.locator("#compare-where").fill("latency_ms < 3")
    page.keyboard.press("Enter")
    expect(page.locator(".state.stale")).to_have_count(0)
