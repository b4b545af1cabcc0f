"""The terms whose sum bounds -log p(x), in the order in which they are written."""

TERMS = ("prior", "reconstruction", "diffusion")
TOTAL_AND_TERMS = ("total", *TERMS)
