"""An annotation as one file to hand over: what is in it, its figures, and the page."""
