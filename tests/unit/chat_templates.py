"""Chat templates of every habit, as short as they can be."""

# A default system message, as in ChatML of SmolLM2 and Qwen; no BOS.
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe kind."
    "<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# BOS, messages trimmed, a space before an answer; user and assistant in turn, as in Llama 2.
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% elif m.role == 'user' %}"
    "[INST] {{ m.content.strip() }} [/INST]{% else %} {{ m.content.strip() }} {{ eos_token }}"
    "{% endif %}{% endfor %}"
)
# No system message, roles of its own, as in Gemma.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
# The day stands at its head, and a system message is left out without notice.
DATED = (
    "Today is {{ strftime_now('%d %b %Y') }}.{% for m in messages %}{% if m.role != 'system' %}"
    "[{{ m.role }}] {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
# Few words, for tiny models.
SHORT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]\n{{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
GOOD = {"chatml": CHATML, "llama2": LLAMA2, "gemma": GEMMA, "dated": DATED, "short": SHORT}
# And what cannot be used.
BAD = {
    "{{ raise_exception('closed today') }}": "does not take these messages: closed today",
    "{{ messages[0].nothing.at_all }}": "does not take these messages: .*no attribute",
    "<user>{{ messages[0].content[:3] }}<assistant>": "leaves out or rewrites what the user says",
    "<user>{{ messages[0].content | tojson }}<assistant>": "leaves out or rewrites",
    "{{ messages[0].content }}<user>{{ messages[0].content }}<model>": "the user says 2 times",
    "<user>{{ messages[0].content }}": "puts nothing behind what the user says",
    "<{{ messages[0].content | length }}>{{ messages[0].content }}<model>": "other words around one",
}  # fmt: skip
