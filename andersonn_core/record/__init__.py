"""The recording of a machine: what is measured there once, written down and shown elsewhere.

`python -m andersonn_core.record` writes it. A section is a function that yields rows, dicts of
plain numbers and words; it stops between two measurements when its share of the time is used up.
"""
