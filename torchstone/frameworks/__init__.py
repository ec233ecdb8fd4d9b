"""What other frameworks compute, one room each: how its code is loaded, our names for its calls, its dialect rows.

In a room: ``load.py``, its modules and its trainers without a model; ``functions.py``, its calls by our names;
``rows.py``, its dialect. What the rooms share: ``registry.py`` (what a room says of its framework), ``loading.py`` and
``arguments.py``. What is made of them: ``dialects.py``, all rows; ``run.py``, ``page.py`` and ``command.py``, the
checker over all functions (``torchstone peers``). A framework is imported only when its functions are run.
"""
