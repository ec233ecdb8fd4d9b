"""Name: what a wrong function computes instead, found by changing the oracle until it gives the same numbers.

``changes`` is one change and its numbers. Changes are made of ``inputs`` (alone, or several ``joint``), of
``numbers`` and results, of steps that are ``borrowed`` from other objectives, and of the oracle's ``code``. ``search``
tries them in the order of a person's suspicion, on new ``batches`` first; ``combined`` puts names together.
"""
