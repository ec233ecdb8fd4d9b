"""Fit: which of a function's parameters is which argument or setting of the objective, and how it wants them.

``target`` finds the function; ``aliases`` knows the names of the field; ``containers`` opens a dict, a config or
``self``; ``signature`` matches the parameters, and where one cannot be told, ``refusal`` says which and writes an
adapter. ``calling`` is what names leave open (arrays, masks, layouts), and ``arguments`` builds what is passed.
"""
