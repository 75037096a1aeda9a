"""Trainings of the Train page: two methods from one seed, side by side, beside the page."""
