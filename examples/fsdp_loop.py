"""A loop of one's own on several processes: FSDP2, a transformers model, and this library's losses.

    torchrun --nproc-per-node 2 examples/fsdp_loop.py

An untrained model learns to write the token 7. Each process samples and judges its own prompts; the update is that of
one process which had them all. On GPUs: "nccl", and the model on the process's device before it is cut.
"""

from functools import partial

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

from torchstone.core import completion_mask, token_log_probs, token_mean
from torchstone.grpo import group_advantages, grpo_loss

END, PROMPTS, G, LENGTH, STEPS = 0, 4, 8, 8, 30  # PROMPTS in each process, G completions of each

dist.init_process_group("gloo")
torch.manual_seed(0)  # the same weights in every process
config = LlamaConfig(vocab_size=12, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
model = LlamaForCausalLM(config)
for part in (*model.model.layers, model):
    cut = fully_shard(part)
    cut.set_gradient_divide_factor(1.0)  # the sum over processes: each loss is divided by the whole batch's count
    cut.set_force_sum_reduction_for_comms(True)  # gloo has no other
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)  # after the cut: of each process's share
torch.manual_seed(1 + dist.get_rank())  # other prompts and samples in each

for step in range(STEPS):
    tokens = torch.randint(1, 12, (PROMPTS, 4)).repeat_interleave(G, 0)  # each prompt G times
    with torch.no_grad():
        for _ in range(LENGTH):  # as many passes in every process, since a layer is fetched from all: no early stop
            probs = model(tokens, use_cache=False).logits[:, -1].softmax(1)
            tokens = torch.cat([tokens, torch.multinomial(probs, 1)], 1)
    completions = tokens[:, 4:]
    mask = completion_mask(completions, eos_id=END)
    rewards = ((completions == 7) & mask).sum(1).float().view(PROMPTS, G)
    advantages = group_advantages(rewards, divide_by_std=True, correction=1, eps=1e-4).flatten()

    # The mean over tokens is over those of all processes and micro-batches. A mean over each part's own, averaged,
    # would weigh a token by how short the other completions of its part are.
    count = mask.sum()
    dist.all_reduce(count)
    reduce = partial(token_mean, denominator=count)
    for rows in (slice(0, PROMPTS * G // 2), slice(PROMPTS * G // 2, PROMPTS * G)):  # micro-batches: gradients add up
        log_probs = token_log_probs(model(tokens[rows]).logits[:, 3:-1], completions[rows], temperature=1.0)
        old = log_probs.detach()  # one update a round: the ratio is 1
        grpo_loss(log_probs, old, advantages[rows], mask[rows], reduce=reduce, epsilon=0.2, beta=0.0).value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # of the whole gradient, not of a share
    optimizer.step()
    optimizer.zero_grad()

    total = torch.stack([rewards.sum(), torch.tensor(float(rewards.numel()))])
    dist.all_reduce(total)
    if dist.get_rank() == 0 and step % 10 in (0, 9):
        print(f"round {step + 1:>2}  reward {total[0] / total[1]:.2f} of {LENGTH}")
dist.destroy_process_group()
