"""The same numbers as the plain forms, tuned; each is tested equal to its own (tests/test_fast.py, test_linear.py).

    linear        log-probs, entropies and losses from hidden states, without the logits    core/logprobs.py
    recurrence    the recurrence of returns and GAE in 2 log2(T) steps                       core/scan.py
    pointwise     the ratio and the clip in fewer passes                                     core/logprobs.py, torch

What each gains is measured in docs/performance.md.
"""

import torchstone.core  # noqa: F401  core offers some of what stands here: it is loaded first, whichever is asked for
