"""Generative models that are not adversarial, one file a method, behind the harness's method contract."""
