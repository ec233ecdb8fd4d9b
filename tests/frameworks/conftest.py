"""Settings for the tests that run other frameworks. pytest puts this folder on the path: `import cases_trl` works."""

import os

import jaxtyping
import torch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # no notice that trl.experimental may change
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
torch.set_num_threads(1)  # sums in one order
jaxtyping.config.update("jaxtyping_disable", True)  # tests/ checks the annotations; here that takes most of the time
