"""The pages in a real browser, opened from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.browser import PHONE, window
from tests.conftest import Zygote
from tests.mixed import experiment as mixed_experiment
from tests.mixed import write_manifest


@pytest.fixture(scope="module")
def folder(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    experiment: dict[str, Any] = mixed_experiment(write_manifest(folder, num_rows=200, missing=0.2), "WorkspaceFusion")
    experiment["trainer"]["max_epochs"] = 4
    experiment["model"]["meta_learner"] = {"class_path": "crossmodal.meta_learner.MetaLearner"}
    (folder / "mixed.yaml").write_text(yaml.safe_dump({**experiment, "name": "mixed"}))
    for seed in (0, 1):
        status, output = crossmodal.run("fit", "--config", "mixed.yaml", "--seed_everything", seed, cwd=folder)
        assert status == 0, output
    for runs in (["runs/mixed/0"], ["runs/mixed/0", "runs/mixed/1"]):
        status, output = crossmodal.run("report", *runs, cwd=folder)
        assert status == 0, output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report", "compare"])
@pytest.mark.parametrize(
    ("look", "dark", "width"), [("light", False, 1200), ("dark", True, 1200), ("phone", False, PHONE)]
)
def test_a_page_is_whole_without_a_network(folder: Path, name: str, look: str, dark: bool, width: int) -> None:
    with window(folder, dark=dark, width=width) as opened:
        page = opened.page
        page.goto((folder / f"runs/mixed/0/{name}.html").as_uri())
        plots = page.locator(".plot")
        page.wait_for_function(
            "document.querySelectorAll('.plot svg.marks').length == document.querySelectorAll('.plot').length"
        )
        assert plots.count() >= 8
        assert all(plots.nth(number).get_attribute("aria-label") for number in range(plots.count()))
        assert opened.width <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") is not dark
        if name == "report":
            assert page.locator("audio").count() > 0
            page.wait_for_function("document.querySelector('audio').duration > 0.1")
            images = page.locator(".samples img")
            assert images.count() > 0
            assert page.evaluate(
                "[...document.querySelectorAll('img')].every(one => one.complete && one.naturalWidth > 0)"
            )
        page.locator("details").first.locator("summary").click()
        assert page.locator("details").first.locator("table").is_visible()
        assert opened.keep(f"{name}-{look}").stat().st_size > 10_000
        assert opened.complaints == []


@pytest.mark.slow
def test_a_page_can_be_printed(folder: Path) -> None:
    with window(folder) as opened:
        opened.page.goto((folder / "runs/mixed/0/report.html").as_uri())
        opened.page.wait_for_selector(".plot svg.marks")
        printed = opened.page.pdf(path=opened.screenshots / "report.pdf", format="A4")
        assert printed.startswith(b"%PDF")
        opened.page.emulate_media(media="print")
        assert not opened.page.locator("nav").is_visible()
