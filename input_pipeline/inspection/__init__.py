"""What a prepared data set holds, as numbers and a page."""
