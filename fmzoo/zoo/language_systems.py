"""Named systems of language: Llama 2 with its recipe, and the closed ones, Titan, Claude and Jurassic-2 Ultra."""

from fmzoo.zoo import anthropic, jurassic, llama
from fmzoo.zoo.systems import Fact, Stage, System, register_system

_LLAMA2 = "arXiv 2307.09288"
_ADAMW = {"optimizer": "AdamW", "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-5, "weight_decay": 0.1, "clip_norm": 1.0}


def llama2_recipe(size: str) -> tuple[Stage, ...]:
    """Pre-training, supervised fine-tuning, reward models and RLHF of Llama 2, as published for a size of it."""
    small, largest = size in ("7b", "13b"), size == "70b"
    return (
        Stage(
            "pre-training",
            {**_ADAMW, "learning_rate": 3e-4 if small else 1.5e-4, "schedule": "cosine to 10 %", "warmup_steps": 2000,
             "batch_tokens": 4_000_000, "tokens": 2_000_000_000_000, "sequence_length": 4096},
            f"{_LLAMA2}, section 2.2 and table 1",
        ),
        Stage(
            "supervised fine-tuning",
            {"learning_rate": 2e-5, "schedule": "cosine", "weight_decay": 0.1, "batch_size": 64,
             "sequence_length": 4096, "epochs": 2, "examples": 27_540, "loss": "on answers only"},
            f"{_LLAMA2}, section 3.1",
        ),
        Stage(
            "reward models",
            {"loss": "-log sigmoid(chosen - rejected - margin)", "learning_rate": 5e-6 if largest else 1e-5,
             "schedule": "cosine to 10 %", "warmup": "3 % of the steps, 5 at least", "batch_pairs": 512, "epochs": 1,
             "start": "the chat checkpoint with a scalar head",
             "margins": "1, 2/3, 1/3, 0 or 3, 2, 1, 0 by how much better the answer is"},
            f"{_LLAMA2}, section 3.2.2 and table 27",
        ),
        Stage(
            "RLHF",
            {**_ADAMW, "method": "rejection sampling, then PPO", "learning_rate": 1e-6, "schedule": "constant",
             "batch_size": 512, "mini_batch_size": 64, "clip_ratio": 0.2, "kl_coefficient": 0.01 if small else 0.005,
             "iterations": "200 to 400", "reward": "whitened logit; safety's if below 0.15 or the prompt unsafe"},
            f"{_LLAMA2}, section 3.2.3",
        ),
    )  # fmt: skip


_HHH, _RLHF, _CAI = "arXiv 2112.00861", "arXiv 2204.05862", "arXiv 2212.08073"
HHH_RECIPE = (
    Stage("context distillation", {"prompt": "14 dialogues, about 4,600 words", "targets": "the 50 likeliest tokens",
          "batch_size": 32, "learning_rate": "0.05 of pre-training's, linear to 0", "tokens": 350_000_000},
          f"{_RLHF}, appendix A.1; {_HHH}, section 2"),
    Stage("preference model pre-training", {"data": "StackExchange, Reddit and Wikipedia comparisons",
          "learning_rate": "0.1 of pre-training's", "sequence_length": 1024, "epochs": 1}, f"{_RLHF}, appendix A.2"),
    Stage("preference model", {"loss": "-log sigmoid(good - bad)", "learning_rate": "0.01 of pre-training's",
          "sequence_length": 1024, "epochs": 1}, f"{_RLHF}, appendix A.2 and equation 2.1"),
    Stage("RLHF", {"method": "PPO", "kl_coefficient": 0.001, "prompts": "137k written, 369k generated"},
          f"{_RLHF}, sections 4.1 and 4.3"),
)  # fmt: skip
CONSTITUTIONAL_RECIPE = (
    Stage("supervised: critique and revision", {"red_team_prompts": 182_831, "revisions": 4, "principles": 16,
          "helpful_prompts": 135_296, "temperature": 1.0, "epochs": 1, "batch_size": 1024,
          "learning_rate": "0.5 of pre-training's, constant"}, f"{_CAI}, sections 3.1 and 3.2"),
    Stage("preferences from a model", {"targets": "P(A) and P(B), normalised", "principles": 16,
          "helpful_comparisons": 135_296, "harmless_comparisons": 182_831,
          "with_chain_of_thought": "probabilities clamped to 40 to 60 %"}, f"{_CAI}, section 4.1"),
    Stage("RL from AI feedback", {"method": "PPO", "start": "the supervised model", "red_team_prompts_added": 491_142,
          "helpful_prompts_added": 474_300}, f"{_CAI}, section 4.2"),
)  # fmt: skip

register_system(
    System(
        name="llama2",
        title="Llama 2",
        made_by="Meta",
        count="published with the weights: 7B, 13B, 34B (not released) and 70B",
        public="weights under the publisher's licence, architecture, recipe and settings of every stage",
        unpublished="data of every stage, the reward models, weights of 34B",
        assumed="34B has the shape of Code Llama 34B",
        stand_in="itself; the recipe below is 70B's, `fmzoo.zoo.llama2_recipe` gives each size's",
        facts=(
            Fact("comparisons of Meta's own", "1,418,091", f"{_LLAMA2}, section 3.2.1"),
            Fact("GPU hours of all sizes", "3,311,616 on A100 80GB", f"{_LLAMA2}, table 2"),
            Fact("MMLU of 7B, 13B, 34B, 70B", "45.3, 54.8, 62.6, 68.9", f"{_LLAMA2}, table 3"),
        ),
        entries=tuple(f"llama2-{size}" for size in llama.TWO),
        recipe=llama2_recipe("70b"),
    )
)
_GUIDE = "Amazon Bedrock user guide (undated)"
register_system(
    System(
        name="titan",
        title="Amazon Titan: Text, Text Embeddings, Image Generator",
        made_by="Amazon Web Services",
        count="not published",
        public="what the service takes and gives; service cards",
        unpublished="parameters, layers, tokenizer, data, recipe of every model",
        assumed="nothing; no architecture is claimed",
        stand_in="any decoder here for text, `stable-diffusion-1.5` for pictures; their sizes are not Titan's",
        facts=(
            Fact("what the text models are", "proprietary language models for enterprise use",
                 "AWS AI Service Card, Amazon Titan Text Lite and Titan Text Express, 29 November 2023"),
            Fact("tokens of an answer", "at most 4,096 of Lite, 8,192 of Express, 3,072 of Premier; 512 by default",
                 f"{_GUIDE}, Amazon Titan Text models"),
            Fact("sampling of the text models", "temperature 0.7 and top-p 0.9 by default",
                 f"{_GUIDE}, Amazon Titan Text models"),
            Fact("form of a prompt", "`User: ...`, a new line, `Bot:`", f"{_GUIDE}, Amazon Titan Text models"),
            Fact("Text Embeddings V2", "up to 8,192 tokens or 50,000 characters to 1,024, 512 or 256 numbers",
                 f"{_GUIDE}, Amazon Titan Text Embeddings models"),
            Fact("Image Generator G1", "prompts of up to 512 characters; an invisible watermark in every picture",
                 f"{_GUIDE}, Amazon Titan Image Generator G1 models"),
        ),
    )
)  # fmt: skip
register_system(
    System(
        name="claude",
        title="Claude",
        made_by="Anthropic",
        count="not published for any product; 13M to 52B without embeddings for the papers' decoders",
        public="papers with seven decoders and their recipes, the constitution, the tokenizer file of Claude 1 and 2",
        unpublished="parameters, architecture, data of every product model",
        assumed="in the papers' decoders a width of 128 times the layers, which gives all seven counts",
        stand_in="the papers' decoders; no product's size is claimed",
        facts=(
            Fact("decoders of the papers", "13M, 42M, 197M, 810M, 2.7B, 13B, 52B without embeddings",
                 f"{_HHH}, appendix A"),
            Fact("pre-training", "400B tokens", f"{_HHH}, appendix A"),
            Fact("static comparisons", "44k helpful, 42k red-team", f"{_RLHF}, section 2"),
            Fact("accuracy of preference models", "0.72 + 0.007 log(P / 1e11) + 0.015 log(D / 8e4)",
                 f"{_RLHF}, equation A.1"),
            Fact("tokenizer of Claude 1 and 2",
                 "claude.json: 65,000 tokens, 5 of them special; `fmzoo.text.load_tokenizer` reads it from your disk",
                 "npm package @anthropic-ai/tokenizer 0.0.4 (MIT; by its own count 64,739)"),
        ),
        entries=tuple(f"anthropic-{size}" for size in anthropic.SIZES),
        recipe=HHH_RECIPE + CONSTITUTIONAL_RECIPE,
    )
)  # fmt: skip
_J2_PAGE = "docs.ai21.com, Jurassic-2 models (END OF LIFE November 14, 2024)"
register_system(
    System(
        name="jurassic-2-ultra",
        title="Jurassic-2 Ultra",
        made_by="AI21 Labs",
        count="not published; 7.5B and 178B for Jurassic-1, its predecessor",
        public="what the service took and gave until 14 November 2024, the tokenizer; Jurassic-1's architecture",
        unpublished="parameters, layers, data, recipe, weights",
        assumed="nothing of Jurassic-2; width and heads of Jurassic-1, which give its counts",
        stand_in="`jurassic1-178b`, Jurassic-1's architecture, which may not be Jurassic-2's",
        facts=(
            Fact("sizes on sale", "Ultra, Mid and Light, without figures", _J2_PAGE),
            Fact("languages", "English, Spanish, French, German, Portuguese, Italian, Dutch", _J2_PAGE),
            Fact("tokenizer", "j2-tokenizer.model: SentencePiece, 262,144 items; newlines are mapped by the package",
                 "PyPI package ai21-tokenizer 1.1.0 (Apache-2.0)"),
            Fact("Jurassic-1", "7.5B and 178B, 2,048 tokens of context, 256K items of vocabulary",
                 "AI21 Studio, Jurassic-1 Language Models (undated)"),
            Fact("layers of the larger", "76", "Jurassic-1 whitepaper, August 2021, by Tsang's review, March 2023"),
        ),
        entries=tuple(f"jurassic1-{size}" for size in jurassic.SIZES),
    )
)  # fmt: skip
