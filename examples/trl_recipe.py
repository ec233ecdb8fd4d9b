"""A recipe inside TRL: GRPOTrainer with one argument more, on a tiny model that is built here. Nothing is downloaded.

pip install ".[trl]"
python examples/trl_recipe.py                         dr_grpo
python examples/trl_recipe.py cispo:reduction=token-mean
"""

import sys
import tempfile
import warnings

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig

from torchstone.frameworks.trl import RecipeGRPOTrainer

transformers.logging.set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning)
torch.manual_seed(0)
WORDS = ["<pad>", "<eos>", "<unk>", *"0123456789", ">"]
plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.Split("", "isolated")
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )
)  # fmt: skip


def share_of_sevens(completions, **_):
    """The reward: how much of the completion is the digit 7."""
    return [text.count("7") / 8 for text in completions]


recipe = sys.argv[1] if len(sys.argv) > 1 else "dr_grpo"
if recipe in ("-h", "--help"):
    sys.exit(__doc__)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)  # a recipe with a KL makes its reference from here
    model = LlamaForCausalLM.from_pretrained(folder)
    trainer = RecipeGRPOTrainer(
        recipe=recipe,  # the one line that differs from TRL's own
        model=model,
        reward_funcs=share_of_sevens,
        args=GRPOConfig(
            output_dir=folder, num_generations=8, per_device_train_batch_size=16, gradient_accumulation_steps=2,
            max_completion_length=8, max_steps=20, learning_rate=5e-3, logging_steps=5, report_to="none",
            save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, seed=0,
        ),
        train_dataset=Dataset.from_dict({"prompt": [f"{i:03d}>" for i in range(256)]}),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
print(f"{recipe} in TRL: share of sevens {rewards[0]:.2f} in the first five steps, {rewards[-1]:.2f} in the last five")
sys.exit(rewards[-1] < 2 * rewards[0])
