"""The size of the data set that these tests read."""

SIZE, RECOLORINGS, LIMIT = 64, 2, 4
