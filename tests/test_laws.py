"""Every law, every variant, every engine of this installation, forward and backward, in float64."""

import pytest

from laws import LAWS, NEEDS_RESETS, NEEDS_TAPE, VARIANTS, Case
from longshort.cell import Cell
from longshort.engine import engines

NEVER_REFUSE = {"cpu", "reference"}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("cell", VARIANTS, ids=repr)
@pytest.mark.parametrize("engine", list(engines()))
def test_law(cell, engine, law):
    case = Case.make(cell, engine)
    able = engine in NEVER_REFUSE or (cell.plain and law not in NEEDS_RESETS | NEEDS_TAPE)
    if able:
        return law(case)
    with pytest.raises(ValueError, match=f"engine '{engine}' was asked for but refuses: .+"):
        law(case)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(
    "cell", [Cell(zoneout=(0.3, 0.2), drop_h=0.3, drop_g=0.2), Cell(layer_norm=True, projection=3)], ids=repr
)
@pytest.mark.parametrize("engine", [name for name in engines() if name in NEVER_REFUSE])
def test_law_in_evaluation_without_bias(cell, engine, law):
    law(Case.make(cell, engine, bias=False, training=False))
