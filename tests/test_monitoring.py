"""Changes: against worked examples."""

import numpy as np
import pandas as pd
import pytest

from monitoring.change import of_numbers


def test_changes_by_hand():
    assert of_numbers(pd.Series([0.1, 0.2, np.nan]), pd.Series([0.15, 0.3])).size == pytest.approx(0.5)
