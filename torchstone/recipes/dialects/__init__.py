"""What frameworks compute under the same names: one file a framework, one row an objective.

A row is the published one with the framework's own choices: the algorithm is selected by its name there, and every
other setting is left at the framework's default. The row's name carries the version, its source the file and line,
and its ``about`` what a choice of ours cannot say. peers/test_dialects.py holds each row against the framework itself.
"""
