"""What a person does to an installation: set it up, look at its images, remove it.

Decides in which order things are made and how that is told; what they are and how they are made is `images`.
Functions here print
nothing by themselves: they are given a console.
"""
