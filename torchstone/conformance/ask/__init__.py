"""Ask: a fitted function is called on a case, and its numbers are compared with the right ones.

``call`` runs it once and takes the gradients; ``returns`` finds our outputs in what came back; ``compare`` says
whether two sets of numbers are equal. ``screening`` finds what needs no search: a gradient that is lost, answers that
change from call to call, a mode that is refused, a branch that no case took.
"""
