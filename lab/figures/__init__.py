"""Figures: columns in, Bokeh figures out; every change afterwards is a change of data."""
