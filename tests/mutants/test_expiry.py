"""Defences around certificates that end, or were broken by hand, taken away."""

from tests.mutants.mutant import suite

test_the_mutant_fits_and_its_test_exists, test_the_mutant_is_caught = suite("expiry")
