"""A local page for one image and one question: which visual tokens a method keeps, what it answers, what that saves.

``python -m lit_simignore.explore`` starts it. It listens on the loopback device only, and asks no other host for
anything.
"""
