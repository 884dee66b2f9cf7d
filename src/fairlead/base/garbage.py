"""When a long-lived process looks for garbage."""

import gc

_THRESHOLDS = 50_000, 20, 1000


def collect_seldom() -> None:
    """From now on; what is here already stays.

    As Python has it, all objects of an idle fleet would be walked again and again, and the loop would stand still
    meanwhile. What connections leave is found by the seldom walk, too (`test_churn`).
    """
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
