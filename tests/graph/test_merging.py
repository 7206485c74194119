import numpy as np

from ragaf_jax.graph.borders import Border, Cells
from ragaf_jax.graph.merging import merge_cells


def test_an_outside_that_joins_at_an_inner_cell_is_one_region():
    """Cell 0 opens widely to cell 1, which reaches the frame; then 0 and 2 are one outside."""
    wide = Border(contact=40, open_contact=40, half_width=20.0, ink=0.5)
    narrow = Border(contact=20, open_contact=20, half_width=10.0, ink=0.0)
    cells = Cells(
        area=np.full(3, 1000),
        depth=np.full(3, 20, np.float32),
        on_frame=np.array([False, True, True]),
        borders=[{1: wide, 2: narrow}, {0: wide}, {0: narrow}],
        stroke_width=2.0,
        page_side=100.0,
    )
    assert merge_cells(cells, max_regions=32, neck_splits=1.0).tolist() == [0, 0, 0]
    # Without the cell on the frame in between, the narrow opening separates inside from outside.
    inside = cells._replace(area=np.array([1000, 0, 1000]), borders=[{2: narrow}, {}, {0: narrow}])
    assert len(set(merge_cells(inside, max_regions=32, neck_splits=1.0)[[0, 2]].tolist())) == 2
