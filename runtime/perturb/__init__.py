"""Perturbation methods: what a model says of changed copies of one image."""
