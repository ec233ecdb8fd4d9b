"""The smallest complete loop around the maths: ``online.py`` on one screen, then ``methods.py``, a class a method."""
