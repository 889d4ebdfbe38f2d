"""Conversations, and contexts in them."""

import json

import pytest

import factlab as fl
from factlab.editing.closed_form.lookup import prompt_rows
from factlab.errors import InvalidRequestError

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ raise_exception('no tools') }}{% endif %}[{{ m.role }}]\n{{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
QUESTION = "Where is {}?"


@pytest.fixture
def lm(make_model):
    made = make_model("llama", add_bos=True)
    made.tokenizer.chat_template = TEMPLATE
    return made


def test_the_ids_are_those_of_the_template(lm):
    asked = [{"role": "user", "content": "Where is Rome?"}]
    right = lm.tokenizer.apply_chat_template(asked, add_generation_prompt=True)
    assert list(lm.encode(lm.chat_prompt("Where is Rome?")).ids) == list(right["input_ids"])
    assert lm.chat_prompt(asked) == lm.chat_prompt("Where is Rome?")


def test_an_answer_is_without_its_question(lm):
    prompt = lm.chat_prompt("Where is Rome?")
    answer = lm.chat("Where is Rome?", 9)
    assert answer == lm.generate(prompt, 9)[len(prompt) :].strip()
    assert lm.chat("Where is Rome?", 9, seed=2, temperature=1.5) != answer


def test_a_context_goes_where_the_user_speaks(lm):
    fact = fl.Fact(lm.chat_prompt(QUESTION), "The Eiffel Tower", "Rome")
    rows = prompt_rows(lm, fact, ["", "Hello there. "])
    text = lm.tokenizer.decode(rows[1].ids)
    assert text == "<s>[user]\nHello there. Where is The Eiffel Tower?</s>[assistant]\n"
    for row in rows:
        assert [i for i, t in enumerate(row.ids) if t == lm.tokenizer.bos_token_id] == [0]
        assert row.n_prompt == len(row.ids)
    last = lm.tokenizer.decode(rows[1].ids[: rows[1].lookup + 1])
    assert last.endswith("The Eiffel Tower")


def test_no_template(make_model):
    with pytest.raises(InvalidRequestError, match=r"tiny-gpt2 has no chat template.*generate\(\)"):
        make_model("gpt2").chat("Where is Rome?")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"The messages are \[\]"),
        ([{"role": "user"}], "Message 1 is {'role': 'user'}. A message has role and content"),
        ([{"role": "user", "content": " "}], "The content of message 1 is empty"),
        ([{"role": "tool", "content": "x"}], "does not take these messages: no tools"),
        ([{"role": "user", "content": "\udce9"}], r"content of message 1 holds U\+DCE9"),
    ],
)
def test_what_is_no_conversation(lm, messages, message):
    with pytest.raises(InvalidRequestError, match=message):
        lm.chat(messages)


def test_ask_in_a_chat(run, lm, monkeypatch):
    monkeypatch.setattr("factlab.models.loading.load", lambda *_args, **_kwargs: lm)
    code, out, _ = run("ask", "Where is Rome?", "--chat", "--generate", 5, "--top", 2, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["answer"] == lm.chat("Where is Rome?", 5)
    top = lm.top_tokens(lm.chat_prompt("Where is Rome?"), 2)
    assert [row["token"] for row in document["top"]] == [token for token, _ in top]
    code, out, _ = run("ask", "Where is Rome?", "--top", 1)
    assert repr(lm.top_tokens("Where is Rome?", 1)[0][0]) in out


def test_ask_without_a_template(run):
    code, _, err = run("ask", "Where is Rome?", "--chat", "--model", "tiny:gpt2")
    assert code == 2
    assert "has no chat template" in err
