"""Chat formats as published, for checkpoints that carry no template; each marks the assistant's answers."""

_ALTERNATE = """
{%- for message in turns -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) or message.role not in ('user', 'assistant') -%}
{{ raise_exception('roles are ' ~ (turns | map(attribute='role') | join(', ')) ~ '; user and assistant in turn, after'
~ ' at most one system message, are needed') }}
{%- endif -%}
{%- endfor -%}
"""
_SPLIT = """
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages -%}
"""

# meta-llama/llama, llama/generation.py: the system prompt stands in the first user's turn; each pair is a document.
LLAMA2 = (
    _SPLIT
    + _ALTERNATE
    + """
{%- for message in turns -%}
{%- if message.role == 'user' -%}
{{ bos_token ~ '[INST] ' ~ ('<<SYS>>\\n' ~ system ~ '\\n<</SYS>>\\n\\n' if loop.first and system else '') }}
{{- message.content | trim ~ ' [/INST]' }}
{%- else -%}
{{ ' ' }}{% generation %}{{ message.content | trim ~ ' ' ~ eos_token }}{% endgeneration %}
{%- endif -%}
{%- endfor -%}
"""
)

# Formats that name the role of each message: `before` and `after` the role, `end` of what is said, what lies `between`.
_BY_ROLE = """
{%- for message in messages -%}
{{ before ~ message.role ~ after }}
{%- set said = (message.content | trim if trimmed else message.content) ~ end -%}
{%- if message.role == 'assistant' -%}
{% generation %}{{ said }}{% endgeneration %}
{%- else -%}
{{ said }}
{%- endif -%}
{{ between }}
{%- endfor -%}
{{ before ~ 'assistant' ~ after if add_generation_prompt else '' }}
"""

# meta-llama/llama3, llama/tokenizer.py, ChatFormat.
LLAMA3 = (
    """
{%- set before, after, end = '<|start_header_id|>', '<|end_header_id|>\\n\\n', '<|eot_id|>' -%}
{%- set trimmed, between = true, '' -%}
{{ bos_token }}
"""
    + _BY_ROLE
)

# OpenAI's ChatML, as Qwen and SmolLM2 use it.
CHATML = "{%- set before, after, end, between = '<|im_start|>', '\\n', '<|im_end|>', '\\n' -%}" + _BY_ROLE

# Phi-3, arXiv 2404.14219, section 2.
PHI = "{%- set before, after, end, between = '<|', '|>\\n', '<|end|>', '\\n' -%}" + _BY_ROLE

# Gemma, ai.google.dev/gemma/docs/core/prompt-structure: no system role, so its text goes before the first user's.
GEMMA = (
    _SPLIT
    + _ALTERNATE
    + """
{{- bos_token }}
{%- for message in turns -%}
{%- if message.role == 'user' -%}
{{ '<start_of_turn>user\\n' ~ (system ~ '\\n\\n' if loop.first and system else '') ~ message.content | trim }}
{{- '<end_of_turn>\\n' }}
{%- else -%}
{{ '<start_of_turn>model\\n' }}
{%- generation %}{{ message.content | trim ~ '<end_of_turn>' }}{% endgeneration -%}
{{ '\\n' }}
{%- endif -%}
{%- endfor -%}
{{ '<start_of_turn>model\\n' if add_generation_prompt else '' }}
"""
)

# Mistral 7B Instruct v0.3 (mistral-common's InstructTokenizerV3): the system prompt stands in the last user's turn.
MISTRAL = (
    _SPLIT
    + _ALTERNATE
    + """
{{- bos_token }}
{%- for message in turns -%}
{%- if message.role == 'user' -%}
{%- set last = turns[loop.index0 + 1:] | selectattr('role', 'equalto', 'user') | list | length == 0 -%}
{{ '[INST] ' ~ (system ~ '\\n\\n' if last and system else '') ~ message.content ~ '[/INST]' }}
{%- else -%}
{{ ' ' }}{% generation %}{{ message.content ~ eos_token }}{% endgeneration %}
{%- endif -%}
{%- endfor -%}
"""
)

CHAT_FORMATS = {
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "chatml": CHATML,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "phi": PHI,
}
