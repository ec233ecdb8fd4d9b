"""Torchstone: reinforcement learning for language models, in equations, code and tests.

Read in this order: ``core``, ``reinforce``, ``ppo``, ``grpo``, ``dpo``. Each is one folder with its equations
(README.md) and its code; its tests are ``tests/test_<folder>.py``. ``distill`` needs only the first two.
"""

import warnings

warnings.filterwarnings("ignore", "Failed to initialize NumPy", UserWarning)  # torch's, at import; NumPy is not needed

__version__ = "0.1.0"
