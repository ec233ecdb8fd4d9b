"""The same numbers as the plain forms, tuned; each is tested equal to them in value and gradient."""

import torchstone.core  # noqa: F401  core offers some of what stands here: it is loaded first, whichever is asked for
