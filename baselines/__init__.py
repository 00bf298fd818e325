"""Generative models that are not adversarial, one file a method, behind the harness's method contract."""

from baselines.autoencoder import Autoencoder
from baselines.baseline import Baseline, BaselineKind
from baselines.dbn import Dbn
from baselines.deep_gsn import DeepGsn
from baselines.energy import Energy
from baselines.gaussian import Gaussian
from baselines.k_means import KMeans
from baselines.ppca import Ppca
from baselines.stacked_cae import StackedCae
from baselines.training_images import TrainingImages
from baselines.vae import Vae

BASELINES: dict[str, BaselineKind] = {
    "autoencoder": BaselineKind(Autoencoder),
    "dbn": BaselineKind(Dbn),
    "deep-gsn": BaselineKind(DeepGsn),
    "energy": BaselineKind(Energy),
    "gaussian": BaselineKind(Gaussian),
    "k-means": BaselineKind(KMeans),
    "ppca": BaselineKind(Ppca),
    "stacked-cae": BaselineKind(StackedCae),
    "training-images": BaselineKind(TrainingImages),
    "vae": BaselineKind(Vae),
}
"""By the name that a grid gives them."""

__all__ = ["BASELINES", "Baseline", "BaselineKind"]
