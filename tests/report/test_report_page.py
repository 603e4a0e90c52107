"""The page: complete, self-contained, readable without seeing it, and drawn by a real browser."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from limbeck.errors import RunFolderError
from limbeck.report import draw, exhibits, pictures
from limbeck.report.page import write_report
from limbeck.report.read import read_run

VOID = {"meta", "img", "br", "link", "input", "hr", "path", "use", "rect", "image"}


class Reader(HTMLParser):
    """Collects what the tests look at, and whether every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.faults, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text())
    return reader


SMALL = {"teacher": {0: 0.975}, "kd": {0: 0.93}}


def test_the_page_is_whole_and_every_part_has_words(page):
    assert page.name == "report.html"
    assert [p.name for p in page.parent.iterdir() if p.suffix == ".part"] == []
    reader = read(page)
    assert reader.faults == []
    assert reader.open == []
    images = [a for t, a in reader.tags if t == "img"]
    assert len(images) == 2 * (3 + 3 * 4)  # two layers, three samples, four networks
    assert all(a["alt"].strip() and a["src"].startswith("data:image/png;base64,") for a in images)
    drawings = re.findall(r"<svg.*?</svg>", page.read_text(), re.S)
    assert len(drawings) == 1 + 3 + 3 + 5 + 4 + 1 + 4
    for drawing in drawings:
        assert re.search(
            r'role="img" aria-labelledby="\S+ \S+"><title id="[^"]+">[^<]+</title><desc id="[^"]+">[^<]+</desc>',
            drawing,
        )
    tables = re.findall(r"<table.*?</table>", page.read_text(), re.S)
    assert all("<caption>" in t and 'scope="' in t for t in tables)
    levels = [int(t[1]) for t, _ in reader.tags if re.fullmatch("h[1-6]", t)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_ids_are_unique_and_references_resolve(page):
    reader, text = read(page), page.read_text()
    ids = [a["id"] for _, a in reader.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    references += [i for _, a in reader.tags for i in a.get("aria-labelledby", "").split()]
    assert len(references) > 50
    assert set(references) <= set(ids)


def test_nothing_is_loaded_from_anywhere(page):
    text = page.read_text()
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "<script" not in text
    assert "<link" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"#01010\d|#01030\d", text)  # no sentinel colour is left
    assert "prefers-color-scheme: dark" in text


def test_the_page_says_what_the_issue_asks_for(page):
    text = "".join(read(page).text).replace("\N{NO-BREAK SPACE}", " ")
    for part in (
        "kd lifts student from 91.0 ± 1.0 %",
        "n = 3 seeds",
        "single run",
        "limbeck run recipe.yaml --out runs/x",
        "# <kept> & escaped",
        "3f2a00112233",
        "abc1234",
        "2.15.0",
        "a note of the run",
        "teacher finds most alike: two as three (20.0 %)",
        "Loss of nst, phase hint",
        "mean r = ",
        "no clear difference: nst",
    ):
        assert part in text


def test_names_cannot_write_html(make_run):
    folder = make_run(
        accuracy=SMALL,
        curves=False,
        exhibits=False,
        name="<script>alert(1)</script>",
        notes=["<b>bold</b> $x^2$"],
        command="limbeck run 'a & b <c>'",
    )
    text = write_report(folder).read_text()
    assert "<script" not in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "a &amp; b &lt;c&gt;" in text


def test_a_stage_name_with_markup_stays_text_in_the_drawings(make_run):
    folder = make_run(accuracy={"teacher": {0: 0.9}, "alone": {0: 0.8, 1: 0.81}, "k<d>&$": {0: 0.82, 1: 0.85}})
    reader = read(write_report(folder))
    assert reader.faults == []
    assert "d" not in {t for t, _ in reader.tags}


@pytest.mark.parametrize("key", ["samples", "soft_labels", "reliability", "confusion", "attention", "classes"])
def test_each_exhibit_may_be_missing(make_run, key):
    folder = make_run(accuracy=SMALL, curves=False)
    path = folder / "exhibits.json"
    found = json.loads(path.read_text())
    del found[key]
    path.write_text(json.dumps(found))
    text = write_report(folder).read_text()
    heading = {
        "soft_labels": "No soft labels",
        "reliability": "No reliability",
        "confusion": "No confusion",
        "attention": "No attention",
    }
    assert heading.get(key, "Birth certificate") in text


def test_without_exhibits_and_curves_the_page_says_what_is_not_there(make_run):
    folder = make_run(exhibits=False, curves=False, status="running")
    text = write_report(folder).read_text()
    assert text.count("there is no exhibits.json") == 4
    assert "No curves" in text
    assert "Not finished (running)" in text


def test_exhibits_that_do_not_add_up_are_left_out(make_run):
    folder = make_run(accuracy=SMALL, curves=False)
    found = json.loads((folder / "exhibits.json").read_text())
    found["samples"][0]["image"]["pixels"] = [1, 2, 3]
    found["attention"][0]["map"] = [1]
    found["soft_labels"]["teacher"]["matrix"][0] = [None, 1]
    found["confusion"]["kd"] = "?"
    (folder / "exhibits.json").write_text(json.dumps(found))
    reader = read(write_report(folder))
    assert reader.faults == []
    assert "not recorded" in "".join(reader.text)


def test_an_empty_record_makes_a_page(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 1, "name": "x", "status": "running"}')
    assert "Nothing has been measured yet" in write_report(tmp_path).read_text()


def test_a_folder_that_cannot_be_written_is_named(make_run, monkeypatch):
    folder = make_run(exhibits=False)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(RunFolderError, match=r"cannot write .*report\.html.*Permission denied"):
        write_report(folder)


def test_the_report_needs_no_torch(make_run):
    code = "import sys; from limbeck.report.page import write_report; write_report(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(make_run(accuracy=SMALL, curves=False))], check=True)


def test_labels_are_moved_apart_as_little_as_it_takes():
    assert draw.spread([0.1, 0.5, 0.9], 0.2) == [0.1, 0.5, 0.9]
    placed = draw.spread([0.99, 1.0, 0.98, 0.2], 0.1)
    assert placed[3] == 0.2
    assert max(placed) <= 1.0
    tops = sorted(placed[:3])
    assert tops[1] - tops[0] >= 0.1 - 1e-6
    assert tops[2] - tops[1] >= 0.1 - 1e-6
    assert placed[2] < placed[0] < placed[1]  # in the order of their points


def test_maps_are_aligned_by_depth_where_the_layers_have_other_names(make_run):
    found = json.loads((make_run() / "exhibits.json").read_text())
    for entry in found["attention"]:
        if entry["model"] != "teacher":
            entry["tap"] = entry["tap"].replace("layer", "stage.")
    layers = pictures.layers(found, found["classes"])
    assert len(layers) == 2
    assert layers[0].title.startswith("layer1 of teacher, stage.1 of alone")
    assert layers[0].models == ("teacher", "alone", "kd", "nst")


def test_an_overlay_is_brightest_where_the_map_is():
    import numpy as np

    attention = np.zeros((4, 4))
    attention[0, 3] = 1.0
    drawn = pictures.overlay(attention, None, side=64).astype(float).sum(axis=2)
    y, x = np.unravel_index(drawn.argmax(), drawn.shape)
    assert y < 16
    assert x >= 48
    assert pictures.where(attention) == "strongest at the upper right"


def test_a_sample_is_enlarged_without_mixing_its_pixels():
    import base64

    import numpy as np
    from PIL import Image

    sample = {
        "row": 0,
        "label": 1,
        "image": {"shape": [2, 2, 3], "pixels": [0] * 3 + [255] * 3 + [10, 20, 30] + [90] * 3},
    }
    found = pictures.sample_picture(sample, ["a", "b"])
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found.uri.split(",")[1]))))
    assert pixels.shape == (found.height, found.width, 3)
    assert {tuple(p) for p in pixels.reshape(-1, 3)} == {(0, 0, 0), (255, 255, 255), (10, 20, 30), (90, 90, 90)}
    assert "class b" in found.alt


def test_many_classes_make_a_picture_and_a_short_table(make_run):
    folder = make_run()
    n = 60
    matrix = [[0.9 if i == j else 0.1 if j == (i + 1) % n else 0.0 for j in range(n)] for i in range(n)]
    (folder / "exhibits.json").write_text(
        json.dumps({"soft_labels": {"teacher": {"temperature": 4.0, "matrix": matrix}}})
    )
    shown = exhibits.soft_labels(read_run(folder))[0]
    assert "data:image/png" in shown.chart.svg
    assert len(shown.grid.rows) == 40


def browser():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


PROBE = """<script>
addEventListener("load", () => {
  const images = [...document.images];
  const drawings = [...document.querySelectorAll("svg.chart")];
  document.documentElement.dataset.probe = JSON.stringify({
    images: images.length, drawnImages: images.filter(i => i.complete && i.naturalWidth > 0).length,
    charts: drawings.length,
    drawnCharts: drawings.filter(d => d.querySelector("path") && d.getBoundingClientRect().height > 40).length,
    wide: document.documentElement.scrollWidth, window: innerWidth,
    ink: getComputedStyle(document.querySelector("svg.chart text")).fill,
  });
});
</script>"""


def chrome(program, folder, page, *options):
    command = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={folder / 'profile'}",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(browser() is None, reason="no chromium, chromium-browser or google-chrome on the path")
def test_a_browser_draws_it_with_a_clean_console(page, tmp_path):
    import numpy as np
    from PIL import Image

    shots = {}
    for scheme, value in (("dark", 0), ("light", 1)):
        shot = tmp_path / f"{scheme}.png"
        scheme_option = f"--blink-settings=preferredColorScheme={value}"
        done = chrome(browser(), tmp_path, page, f"--screenshot={shot}", "--window-size=390,2400", scheme_option)
        assert "CONSOLE" not in done.stderr
        shots[scheme] = np.asarray(Image.open(shot).convert("L"), dtype=float)
    assert all(shot.std() > 5 for shot in shots.values())  # not blank
    assert shots["light"].mean() > 200
    assert shots["dark"].mean() < 60

    # The page forbids scripts, so a copy without that rule is asked what was drawn.
    copy = tmp_path / "probe.html"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    copy.write_text(text.replace("</body>", PROBE + "</body>"))
    done = chrome(browser(), tmp_path, copy, "--dump-dom", "--window-size=500,900")
    assert "CONSOLE" not in done.stderr
    found = json.loads(re.search(r'data-probe="([^"]+)"', done.stdout).group(1).replace("&quot;", '"'))
    assert found["images"] == found["drawnImages"] == 30
    assert found["charts"] == found["drawnCharts"] == 21
    assert found["wide"] <= found["window"]  # only tables scroll sideways, never the page
    assert found["ink"] not in ("rgb(0, 0, 0)", "rgb(1, 2, 1)")  # the page's own colours are in use
