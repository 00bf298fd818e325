"""Generative models that are not adversarial, one file a method, behind the harness's method contract."""

from baselines.baseline import Baseline, BaselineKind
from baselines.dbn import Dbn

BASELINES: dict[str, BaselineKind] = {
    "dbn": BaselineKind(Dbn),
}
"""By the name that a grid gives them."""

__all__ = ["BASELINES", "Baseline", "BaselineKind"]
