"""Networks that give images features: classifiers of one data set, and those that torch-fidelity knows."""
