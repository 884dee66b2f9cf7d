"""What keeps bundles true on their way, taken away."""

from tests.mutants.mutant import suite

test_the_mutant_fits_and_its_test_exists, test_the_mutant_is_caught = suite("upgrade_images")
