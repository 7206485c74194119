"""Tables and pages hold whatever texts they are given."""

import numpy as np
import pytest

from ragaf_jax.figures.web_page import html_table, image, markdown_table, page

NASTY = "<b>x</b> | y\n\x1b[31m"


def test_texts_are_texts():
    rows = [["", "head"], ["row", NASTY]]
    assert "<b>" not in html_table(rows) and "&lt;b&gt;x&lt;/b&gt;" in html_table(rows)
    lines = markdown_table(rows).splitlines()
    assert len(lines) == 3 and "\\|" in lines[2] and "\x1b" not in lines[2]
    assert len({len(line) for line in lines}) == 1
    whole = page(NASTY, ["<p>body</p>"], "p { color: red }")
    assert "<title>&lt;b&gt;" in whole and whole.endswith("<p>body</p>\n</body></html>\n")
    assert "default-src 'none'" in whole and "p { color: red }" in whole


@pytest.mark.parametrize(("drawn", "kind"), [(False, "png"), (True, "webp")])
def test_pictures_are_inside(rng, drawn, kind):
    for shape in ((5, 7), (5, 7, 3)):
        shown = image('"name"', rng.integers(0, 256, shape, np.uint8), drawn)
        assert f'src="data:image/{kind};base64,' in shown and 'alt="&quot;name&quot;"' in shown
        assert ('class="drawn"' in shown) is drawn
