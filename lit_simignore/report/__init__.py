"""What a run looks like: a table for the terminal, figures, and one offline HTML file. A run folder in, pictures out.

Needs the standard library and Pillow only; reads nothing but the run folder and loads nothing from anywhere else.
"""
