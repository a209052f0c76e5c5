"""What Modelyard costs: run `make bench`. Every figure is measured beside something to compare it with, in one run."""
