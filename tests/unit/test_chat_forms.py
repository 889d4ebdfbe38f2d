"""What a chat template puts around a prompt: against templates and tokenizers of every habit."""

import pytest
from chat_templates import BAD, CHATML, DATED, GEMMA, GOOD, LLAMA2, SHORT
from tokenizer_kinds import BOS, KINDS

import factlab as fl
from factlab.errors import InvalidRequestError, StorageError, TokenizationError
from factlab.models.texts import wrapped_continuation, wrapped_fact
from factlab.tokens import encode
from factlab.wrapping import Wrapping, context_of_json, context_to_json

ASK = "Tell me a fact."
SYSTEM = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
DAY = "Today is 01 Jan 2026."
BY_HAND = {
    CHATML: (SYSTEM, ANSWER, f"{SYSTEM}{ASK}{ANSWER}"),
    LLAMA2: ("<s>[INST] ", " [/INST]", f"<s>[INST] {ASK} [/INST] "),
    GEMMA: ("<s><turn>user\n", "<end>\n<turn>model\n", f"<s><turn>user\n{ASK}<end>\n<turn>model\n"),
    DATED: (f"{DAY}[user] ", "\n[assistant] ", f"{DAY}[user] {ASK}\n[assistant] "),
    SHORT: ("<s>[user]\n", "</s>[assistant]\n", f"<s>[user]\n{ASK}</s>[assistant]\n"),
}


@pytest.fixture
def lm(make_model):
    return make_model("llama", add_bos=True)


@pytest.mark.parametrize("name", GOOD)
def test_the_texts_around_a_prompt(lm, name):
    lm.tokenizer.chat_template = GOOD[name]
    before, after, head = BY_HAND[GOOD[name]]
    forms = lm.chat_forms()
    assert forms == fl.models.ChatForms(Wrapping(before, after), Wrapping(head))
    assert forms.asked.around(" Where is it? ") == f"{before}Where is it?{after}"
    assert forms.begun.around("Rome is in") == f"{head}Rome is in"


def test_an_answer_that_is_written_begins_as_one_that_is_begun(lm):
    """Of each template, but for what closes the turn."""
    for template in GOOD.values():
        lm.tokenizer.chat_template = template
        said = [
            {"role": "user", "content": ASK},
            {"role": "assistant", "content": "Rome is in Italy."},
        ]
        whole = lm.tokenizer.apply_chat_template(said, tokenize=False)
        begun = lm.chat_forms().begun.around("Rome is in")
        if template == DATED:  # it is today there
            whole, begun = (text.partition(".")[2] for text in (whole, begun))
        assert whole.startswith(begun)


def test_questions_are_asked_and_sentences_begun(lm):
    lm.tokenizer.chat_template = SHORT
    forms = lm.chat_forms()
    for question in ("Where is it?", "Where is it? ", "它在哪里？", "أين هو؟"):
        assert forms.of(question) is forms.asked
        assert [*forms.every(question)] == ["asked"]
    for sentence in ("Rome is in", "Where is it? Answer:", "Is it in Rome? Yes, in"):
        assert forms.of(sentence) is forms.begun
        assert [*forms.every(sentence)] == ["asked", "begun"]


@pytest.mark.parametrize("template", BAD)
def test_templates_that_cannot_be_used(lm, template):
    lm.tokenizer.chat_template = template
    with pytest.raises(InvalidRequestError, match=BAD[template]):
        lm.chat_forms()


def test_a_message_that_a_template_leaves_out_or_moves(lm, caplog):
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}]
    lm.tokenizer.chat_template = DATED
    with pytest.raises(InvalidRequestError, match="leaves out message 1, of the system"):
        lm.chat_prompt(talk)
    assert lm.chat_prompt(talk[1:]).endswith("[user] Hello.\n[assistant] ")
    lm.tokenizer.chat_template = "{% for m in messages | reverse %}<{{ m.content }}>{% endfor %}"
    assert lm.chat_prompt(talk) == "<Hello.><Be brief.>"
    assert "puts message 2, of the user, before those that come first" in caplog.text


def test_thoughts_that_a_template_leaves_out_are_no_loss(lm):
    lm.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.content.split('</think>')[-1] }}>{% endfor %}"
    )
    thought = {"role": "assistant", "content": "<think>Rome?</think>In Rome."}
    assert lm.chat_prompt([thought]) == "<In Rome.>"


@pytest.mark.parametrize("kind", [k for k in KINDS if k.options.get("bos_token")], ids=str)
@pytest.mark.parametrize("template", [LLAMA2, GEMMA, SHORT, CHATML])
def test_a_text_has_one_bos_at_most_and_at_its_start(lm, kind, template):
    tokenizer, own = kind.tokenizer, lm.tokenizer
    before, lm.tokenizer = tokenizer.chat_template, tokenizer
    tokenizer.chat_template = template
    try:
        forms = lm.chat_forms()
        for prompt in ("The Eiffel Tower is located in", "Where is the Eiffel Tower?"):
            ids = encode(tokenizer, forms.of(prompt).around(prompt)).ids
            places = [i for i, token in enumerate(ids) if token == tokenizer.bos_token_id]
            assert places in ([0], [])
            assert places or BOS not in template.replace("{{ bos_token }}", BOS)
    finally:
        tokenizer.chat_template, lm.tokenizer = before, own


def test_the_subject_is_found_in_the_form(lm):
    lm.tokenizer.chat_template = SHORT
    forms = lm.chat_forms()
    for template in ("  See {} in", "{} is in", "Where is {}?"):
        fact = fl.Fact(template, "the Space Needle", "Rome")
        for form in (forms.asked, forms.begun):
            made = wrapped_fact(lm, fact, form, "Rome")
            assert lm.tokenizer.decode(made.subject_ids).strip() == "the Space Needle"
            assert made.lookup == made.subject.last
            text = lm.tokenizer.decode(made.ids)
            joint = "" if form.after else " "
            assert text == f"{form.around(fact.prompt)}{joint}Rome"
            assert made == wrapped_fact(lm, fact, form, "Rome")
            plain = wrapped_continuation(lm, fact.prompt, form, "Rome")
            assert (plain.ids, plain.target_ids) == (made.ids, made.target_ids)


def test_how_a_target_is_joined_is_of_the_prompt_only(lm):
    lm.tokenizer.chat_template = SHORT
    forms = lm.chat_forms()
    fact = fl.Fact("{} =", "Rome", "Paris", joint="none")
    asked = wrapped_continuation(lm, fact.prompt, forms.asked, fact.target_new)
    begun = wrapped_continuation(lm, fact.prompt, forms.begun, fact.target_new)
    assert lm.tokenizer.decode(asked.ids).endswith("[assistant]\nParis")
    assert lm.tokenizer.decode(begun.ids).endswith("Rome =Paris")


def test_prompts_that_cannot_be_put_into_a_template(lm):
    lm.tokenizer.chat_template = SHORT
    form = lm.chat_forms().asked
    for prompt in (lm.chat_prompt("Where is Rome?"), "<s>Rome is in"):
        with pytest.raises(InvalidRequestError, match="is in a chat template already"):
            wrapped_continuation(lm, prompt, form)
    long = "Rome is" + " in" * (lm.context_length - len(lm.encode("Rome is")))
    assert lm.encode(long)
    with pytest.raises(TokenizationError, match=r"'Rome is in in .* too long in the chat template"):
        wrapped_continuation(lm, long, form)


def test_generating_in_the_template(lm):
    lm.tokenizer.chat_template = SHORT
    forms = lm.chat_forms()
    begun, asked = "Rome is in the", "Where is Rome?"
    texts = lm.generate_batch([begun, asked], 6, chat=True, return_full_text=False)
    plain = [lm.generate(forms.of(p).around(p), 6, return_full_text=False) for p in (begun, asked)]
    assert texts == [plain[0], f" {plain[1].lstrip()}"]
    assert lm.generate(begun, 6, chat=True) == begun + plain[0]
    assert lm.generate(begun, 6, chat=True) != lm.generate(begun, 6)


def test_contexts_are_kept_as_json():
    forms = fl.models.ChatForms(Wrapping("<", ">"), Wrapping("<a>"))
    for context in ("Hello. ", Wrapping("<", ">"), forms):
        assert context_of_json(context_to_json(context), "'run.json'") == context
    for damaged in (3, ["a"], ["a", 1], ["a", "b", "c"], {"a": "b"}, {"asked": [], "begun": []}):
        with pytest.raises(StorageError, match=r"'run.json' is damaged: .* around a prompt"):
            context_of_json(damaged, "'run.json'")
