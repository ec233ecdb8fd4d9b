"""The type checker behind the annotations in the tests: beartype, for which an int is also a float, as in Python."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
