from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from crossmodal.check.charts import standalone, whiskers

SVG = "{http://www.w3.org/2000/svg}"


def test_a_standalone_picture_is_a_whole_file_with_colours_for_day_and_night():
    picture = standalone(Markup('<rect class="c0" width="5" height="5"/>'), 20, width=30)
    root = ElementTree.fromstring(picture)
    assert root.tag == f"{SVG}svg"
    assert root.get("viewBox") == "0 0 30 20"
    style = root.find(f"{SVG}style").text
    day, night = style.split("@media (prefers-color-scheme:dark)")
    assert ".c0{fill:#3b6fd4}" in day
    assert ".c0{fill:#7aa5f5}" in night


def test_whiskers_stand_where_the_values_are():
    root = ElementTree.fromstring(
        whiskers({"a<b": {"one": (0.5, 0.1)}, "c": {"one": (0.75, 0.0)}}, ["one"], low=0.0, high=1.0)
    )
    dots = [float(circle.get("cx")) for circle in root.iter(f"{SVG}circle")][:2]
    axis = [float(text.get("x")) for text in root.iter(f"{SVG}text") if text.get("class") == "n"]
    assert dots[0] == pytest.approx((axis[0] + axis[-1]) / 2)
    assert dots[1] == pytest.approx(axis[0] + 0.75 * (axis[-1] - axis[0]))
    start, end = (float(x) for x in root.find(f"{SVG}path[@class='l0']").get("d")[1:].replace("H", " ").split()[::2])
    assert end - start == pytest.approx(0.2 * (axis[-1] - axis[0]), abs=0.2)
    assert "a<b" in [text.text for text in root.iter(f"{SVG}text")]
