"""The command line on tiny models: every command, every kind of bad input."""

import json

import pytest
import safetensors.torch

import factlab as fl

TINY = ["--model", "tiny:gpt2"]
TEMPLATE, SUBJECT = "{} is located in", "The Space Needle"
PROMPT = "The Space Needle is located in"


@pytest.fixture
def saved(run, tmp_path):
    folder = tmp_path / "saved-edit"
    code, _, err = run(
        "edit",
        TEMPLATE,
        "--subject",
        SUBJECT,
        "--target",
        "Rome",
        "--layer",
        "1",
        "--out",
        folder,
        *TINY,
    )
    assert code == 0, err
    return folder


def test_ask(run):
    code, out, _ = run("ask", PROMPT, "--top", "3", "--generate", "4", "--json", *TINY)
    document = json.loads(out)
    assert code == 0
    assert len(document["top"]) == 3
    assert set(document["top"][0]) == {"token", "prob"}
    assert document["text"].startswith(PROMPT)
    assert "text" not in json.loads(run("ask", PROMPT, "--json", *TINY)[1])
    code, out, _ = run("ask", PROMPT, *TINY)
    assert code == 0
    assert "probability" in out


def test_trace(run, tmp_path):
    picture, numbers = tmp_path / "t.png", tmp_path / "t.safetensors"
    args = ["trace", PROMPT, "--subject", SUBJECT, "--samples", "2", "--window", "2", *TINY]
    code, out, _ = run(*args, "--json", "--out", picture, "--save", numbers, "--noise", "0.5")
    document = json.loads(out)
    assert code == 0
    assert document["noise_level"] == 0.5
    assert len(document["effects"]["block"]) == len(document["tokens"])
    assert picture.stat().st_size > 5000
    assert numbers.exists()
    code, out, _ = run(*args)
    assert code == 0
    assert "attention, 2 layers at a time" in out


def test_trace_takes_what_the_library_takes(run):
    args = ["trace", PROMPT, "--subject", SUBJECT, "--samples", "2", "--json", *TINY]
    code, out, _ = run(*args, "--severed", "mlp", "--tokens", "0,2-3", "--layers", "1")
    document = json.loads(out)
    assert code == 0
    assert list(document["effects"]) == ["block", "mlp_severed"]
    traced = [
        (i, j)
        for i, row in enumerate(document["effects"]["block"])
        for j, value in enumerate(row)
        if value is not None
    ]
    assert traced == [(0, 1), (2, 1), (3, 1)]
    code, out, _ = run(*args, "--method", "gradient", "--noise", "subject:Rome", "--kind", "mlp")
    document = json.loads(out)
    assert code == 0
    assert document["config"]["corruption"]["subjects"] == ["Rome"]
    assert document["config"]["method"] == "gradient"
    code, out, _ = run(*args, "--target", "New York", "--answer-rule", "product")
    assert code == 0
    assert json.loads(out)["answer"].strip() == "New York"


def test_a_repeated_subject_is_said_or_chosen(run):
    args = ["trace", "Rome, see Rome is in", "--subject", "Rome", "--samples", "1", "--json", *TINY]
    code, out, err = run(*args)
    assert code == 0
    assert "occurs 2 times" in err
    first = json.loads(out)["subject_span"]
    code, out, err = run(*args, "--occurrence", "2")
    assert code == 0
    assert "occurs" not in err
    assert json.loads(out)["subject_span"][0] > first[0]


@pytest.fixture
def known(run, tmp_path):
    """A file of facts that the tiny model knows: whatever it says."""
    rows = []
    facts = (("The Kremlin has the", "The Kremlin"), ("Paris lies", "Paris"), ("Rome is", "Rome"))
    for number, (prompt, subject) in enumerate(facts):
        top = json.loads(run("ask", prompt, "--top", "1", "--json", *TINY)[1])["top"][0]["token"]
        rows.append(
            {"known_id": number, "subject": subject, "attribute": top.strip(), "prompt": prompt}
        )
    path = tmp_path / "known.json"
    path.write_text(json.dumps(rows))
    return path


def test_trace_average_resume_shard_merge(run, known, tmp_path):
    args = ["trace-average", known, "--samples", "2", "--json", *TINY]
    code, out, err = run(*args, "--out", tmp_path / "all")
    assert code == 0, err
    whole = json.loads(out)
    assert whole["n_facts"] + whole["n_wrong"] == 3
    assert (tmp_path / "all" / "heatmaps.png").stat().st_size > 5000
    code, _, err = run(*args, "--out", tmp_path / "all")
    assert code == 2
    assert "Resume it" in err
    assert run(*args, "--out", tmp_path / "all", "--resume")[1] == out
    for k in "12":
        assert run(*args, "--out", tmp_path / k, "--shard", f"{k}/2")[0] == 0
    code, out, err = run("merge", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "m", "--json")
    assert code == 0, err
    assert json.loads(out) == whole
    code, out, _ = run(*args[:-3], *TINY, "--severed", "mlp", "--out", tmp_path / "s")
    assert code == 0
    assert "MLP severed" in out
    assert (tmp_path / "s" / "severed.png").exists()


def test_averages_by_token_and_beside_each_other(run, known, tmp_path):
    args = ["trace-average", known, "--samples", "1", "--noise", "0.5", "--kind", "mlp", *TINY]
    code, _, err = run(*args, "--limit", "1", "--out", tmp_path / "one")
    assert code == 0, err
    code, out, err = run(*args, "--pooling", "tokens", "--out", tmp_path / "all")
    assert code == 0, err
    assert "every token counts once" in out
    merge = ["merge", tmp_path / "all", "--out", tmp_path / "copy"]
    code, out, err = run(*merge, "--pooling", "tokens", "--json")
    assert code == 0, err
    assert json.loads(out)["pooling"] == "tokens"
    compare = ["trace-compare", tmp_path / "one", tmp_path / "all"]
    code, out, err = run(*compare, "--out", tmp_path / "both", "--json")
    assert code == 0, err
    assert {row["name"] for row in json.loads(out)["rows"]} == {"one", "all"}
    assert {p.name for p in (tmp_path / "both").iterdir()} == {"comparison.md", "comparison.png"}
    assert "±" in run(*compare, "--out", tmp_path / "said")[1]
    code, _, err = run(*compare, tmp_path / "one", "--out", tmp_path / "twice")
    assert (code, "the same name" in err) == (2, True)


def test_noise_drawn_anew_is_said(run):
    args = ["trace", PROMPT, "--subject", SUBJECT, "--samples", "1", "--severed", "mlp", *TINY]
    said = run(*args, "--severed-noise", "anew")[1]
    assert "MLP severed, noise drawn anew" in said
    assert "anew" not in run(*args)[1]


def test_knowns_build_from_what_comes_with_factlab(run, tmp_path):
    build = ["knowns", "build", "--data", "builtin-reasoning", "--relation", "spatial", *TINY]
    code, _, err = run(*build, "--out", tmp_path / "k.json")
    assert (code, "knows none of 24" in err) == (2, True)
    code, _, err = run("knowns", "build", "--out", tmp_path / "k.json", *TINY)
    assert (code, "--facts and --templates, or --data" in err) == (2, True)


def test_knowns_build(run, known, tmp_path):
    said = json.loads(known.read_text())
    facts, templates = tmp_path / "f.tsv", tmp_path / "t.tsv"
    lines = [f"R{k['known_id']}\t{k['subject']}\t{k['attribute']}" for k in said]
    facts.write_text("relation\tsubject\tobject\n" + "\n".join(lines))
    lines = [f"R{k['known_id']}\t[X]{k['prompt'][len(k['subject']) :]} [Y]." for k in said]
    templates.write_text("relation\tpattern\n" + "\n".join(lines))
    out = tmp_path / "built.json"
    args = ["knowns", "build", "--facts", facts, "--templates", templates, "--out", out, *TINY]
    code, _, err = run(*args, "--shuffle", "1")
    assert code == 0, err
    built = json.loads(out.read_text())
    assert {k["attribute"] for k in built} <= {k["attribute"] for k in said}
    assert built


def test_layers(run, known):
    code, out, err = run("layers", "--facts", known, "--json", *TINY)
    document = json.loads(out)
    assert code == 0, err
    assert document["layer"] == max(range(2), key=lambda i: document["effects"][i])
    code, out, _ = run("layers", "--facts", known, *TINY)
    assert f"Edit layer {document['layer']} (ROME)" in out
    assert "few to choose a layer by" in out
    assert "There is no preset for this model" in out


def test_edit_show_and_use(run, saved):
    code, out, _ = run("show", saved, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["method"] == "rome"
    assert document["updates"][0]["rank"] == 1
    assert document["facts"][0]["target_new"] == "Rome"
    assert run("show", saved)[0] == 0
    plain = json.loads(run("ask", PROMPT, "--json", *TINY)[1])
    edited = json.loads(run("ask", PROMPT, "--json", "--edit", saved, *TINY)[1])
    assert plain["top"] != edited["top"]


def test_edit_says_when_the_model_said_so_already(run):
    # A toy whose answer ends with a word's end.
    said = fl.editing.said_before(
        fl.models.tiny_model("nemotron"), fl.Fact(TEMPLATE, SUBJECT)
    ).target_new
    args = ["edit", TEMPLATE, "--subject", SUBJECT, "--layer", "1", "--json"]
    args += ["--model", "tiny:nemotron"]
    for target, already in ((said, True), ("Rome", False)):
        code, out, err = run(*args, "--target", target)
        assert code == 0, err
        assert json.loads(out)["already_said"] == already


def test_stats_and_their_file(run, tmp_path):
    file = tmp_path / "c.safetensors"
    code, out, _ = run("stats", "--layer", "1", "--out", file, "--json", *TINY)
    assert code == 0
    assert json.loads(out)["layers"][0]["layer"] == 1
    args = ["edit", TEMPLATE, "--subject", SUBJECT, "--target", "Rome", "--layer", "1", "--json"]
    assert run(*args, "--stats", file, *TINY)[0] == 0
    code, _, err = run(*args, "--stats", file, "--model", "tiny:llama")
    assert code == 2
    assert "Collect them again" in err


def test_brackets_are_text(run):
    code, out, _ = run(
        "edit",
        "[INST] {} is in [/INST] the [bold]",
        "--subject",
        SUBJECT,
        "--target",
        "Rome",
        "--layer",
        "1",
        *TINY,
    )
    assert code == 0
    assert "[INST] The Space Needle is in [/INST] the [bold]" in out


def test_more_tokens_than_there_are(run):
    code, out, _ = run("ask", PROMPT, "--top", "100000", "--json", *TINY)
    assert code == 0
    assert len(json.loads(out)["top"]) > 300


def test_models(run):
    code, out, _ = run("models", "--json")
    document = json.loads(out)
    assert code == 0
    assert {"gpt2", "llama", "gemma3_text"} <= {f["family"] for f in document["families"]}
    assert run("models")[0] == 0


BAD = {
    "subject not in the prompt": (["trace", PROMPT, "--subject", "Big Ben"], "does not occur in prompt"),
    "template without slot": (["edit", "x is", "--subject", "a", "--target", "b"], "holds 0 '{}'"),
    "template with two slots": (["edit", "{} {}", "--subject", "a", "--target", "b"], "holds 2 '{}'"),
    "empty prompt": (["ask", "  "], "The prompt is empty"),
    "empty subject": (["trace", PROMPT, "--subject", " "], "subject is empty"),
    "empty target": (["edit", "{} is", "--subject", "a", "--target", ""], "target_new is empty"),
    "unknown family": (["ask", "hi", "--model", "tiny:gtp2"], "Did you mean 'gpt2'"),
    "unknown method": (["edit", "{} is", "--subject", "a", "--target", "b", "--method", "rmoe"], "Did you mean 'rome'"),
    "unknown dtype": (["ask", "hi", "--dtype", "float23"], "Did you mean 'float32'"),
    "unknown device": (["ask", "hi", "--device", "cup"], "Did you mean 'cpu'"),
    "unknown command": (["aks", "hi"], "Did you mean 'ask'"),
    "unknown option": (["ask", "hi", "--tpo", "3"], "--top"),
    "option out of range": (["trace", PROMPT, "--subject", SUBJECT, "--samples", "0"], "--samples cannot be 0"),
    "bad noise": (["trace", PROMPT, "--subject", SUBJECT, "--noise", "loud"], "Noise 'loud'"),
    "too long a prompt": (["ask", "Rome " * 400], "takes at most 256"),
    "layer out of range": (["edit", "{} is", "--subject", "a", "--target", "b", "--layer", "7"], "layers 0 to 2"),
    "negative layer": (["edit", "{} is", "--subject", "a", "--target", "b", "--layer", "-1"], "--layer cannot be -1"),
    "foreign edit folder": (["ask", "hi", "--edit", "/"], "is not a saved edit"),
    "unwritable picture": (["trace", PROMPT, "--subject", SUBJECT, "--out", "/dev/null/t.png"], "is not writable"),
    "unwritable edit": (["edit", "{} is", "--subject", "a", "--target", "b", "--out", "/dev/null/e"], "is not writable"),
    "picture of no format": (["trace", PROMPT, "--subject", SUBJECT, "--out", "t.pgn"], "Did you mean"),
    "infinite noise": (["trace", PROMPT, "--subject", SUBJECT, "--noise", "inf"], "Noise 'inf'"),
    "huge seed": (["ask", PROMPT, "--generate", "2", "--seed", "99999999999999999999"], "below 2**32"),
    "endless budget": (["stats", "--layer", "1", "--tokens-per-dim", "inf"], "--tokens-per-dim cannot be inf"),
    "a folder for a file": (["trace", PROMPT, "--subject", SUBJECT, "--save", "/dev"], "it is a folder"),
    "two corpora": (["stats", "--text", "a", "--dataset", "b"], "not both"),
    "a window too wide": (["trace", PROMPT, "--subject", SUBJECT, "--window", "4"], "wider than the model, which has 3"),
    "a layer too high": (["trace", PROMPT, "--subject", SUBJECT, "--layers", "0-3"], "Layer 3 is out of range"),
    "layers that are none": (["trace", PROMPT, "--subject", SUBJECT, "--layers", "5-3"], "names nothing"),
    "a token too far": (["trace", PROMPT, "--subject", SUBJECT, "--tokens", "99"], "Token 99 is out of range"),
    "severed mlp windows": (["trace", PROMPT, "--subject", SUBJECT, "--severed", "mlp", "--kind", "mlp"], "not with --kind mlp"),
    "severed gradient": (["trace", PROMPT, "--subject", SUBJECT, "--severed", "mlp", "--method", "gradient"], "do not go together"),
    "third of two subjects": (["trace", "Rome is Rome", "--subject", "Rome", "--occurrence", "3"], "occurs 2 times"),
    "no fact file": (["trace-average", "/no/such.json", "--out", "o"], "Cannot read '/no/such.json'"),
    "noise anew for no path": (["trace", PROMPT, "--subject", SUBJECT, "--severed-noise", "anew"], "no kind severs one"),
    "a pooling of sentences": (["trace-average", "builtin", "--out", "o", "--pooling", "token"], "Did you mean 'tokens'"),
    "no such kind": (["trace-average", "builtin-reasoning", "--relation", "poetic", "--out", "o"], "no facts of the relation 'poetic'"),
    "a shard out of range": (["trace-average", "/dev/null", "--out", "o", "--shard", "3/2"], "out of range"),
    "an empty fact file": (["trace-average", "/dev/null", "--out", "o"], "holds no facts"),
    "nothing to merge": (["merge", "/no/such", "--out", "o"], "holds no run"),
    "templates that are none": (["knowns", "build", "--facts", "/dev/null", "--templates", "/dev/null", "--out", "o"], "no column 'relation'"),
    "no such text": (["stats", "--layer", "1", "--text", "/no/such.txt"], "There is no file or folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_code_2(run, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, message = BAD[name]
    takes_no_model = "--model" in args or args[0] == "merge"
    code, out, err = run(*args, *([] if takes_no_model else TINY))
    assert code == 2
    assert out == ""
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == []


def test_a_corrupt_edit_and_a_corrupt_cache(run, saved, tmp_path):
    (saved / "edit.safetensors").write_bytes(b"x")
    code, _, err = run("ask", PROMPT, "--edit", saved, *TINY)
    assert code == 2
    assert "is damaged" in err
    for path in (tmp_path / "cache" / "second-moments").iterdir():
        path.write_bytes(b"x")
    args = ["edit", TEMPLATE, "--subject", SUBJECT, "--target", "Rome", "--layer", "1", *TINY]
    code, _, err = run(*args)
    assert code == 2
    assert "stats --recompute" in err


def test_an_edit_for_another_model(run, saved):
    code, _, err = run("ask", PROMPT, "--edit", saved, "--model", "tiny:llama")
    assert code == 2
    assert "This edit was made for tiny-gpt2" in err


def test_a_full_disk(run, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    args = ["edit", TEMPLATE, "--subject", SUBJECT, "--target", "Rome", "--layer", "1", *TINY]
    assert run(*args)[0] == 0  # fills the cache
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    code, _, err = run(*args, "--out", tmp_path / "edit")
    assert code == 2
    assert "No space left on device" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache"]


def test_a_former_name_of_an_option_still_works(run):
    args = ["trace", PROMPT, "--subject", SUBJECT, "--samples", "1", "--layers", "1", "--json"]
    documents = [
        json.loads(run(*args, option, "Rome", *TINY)[1]) for option in ("--target", "--answer")
    ]
    assert documents[0] == documents[1]
    assert documents[0]["answer"].strip() == "Rome"


def test_debug_shows_the_traceback(run):
    with pytest.raises(ValueError, match="Did you mean"):
        run("ask", "hi", "--model", "tiny:gtp2", "--debug")
