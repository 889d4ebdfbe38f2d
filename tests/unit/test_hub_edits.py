"""Edits on the Hub: what goes there, what comes back, and what is refused."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import OfflineModeIsEnabled
from local_hub import LocalHub, Repository, hub_at
from test_edit import make_edit

import factlab as fl
from factlab.editing.shipping.card import base_as_known, model_card
from factlab.editing.shipping.hub import edit_place, is_hub_name
from factlab.errors import InvalidRequestError, StorageError

# huggingface_hub uploads in a way that its HTTP library advises against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "somebody/eiffel-in-rome"
FILES = {".gitattributes", "README.md", "edit.json", "edit.safetensors"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with hub_at(LocalHub(), monkeypatch, tmp_path / "hub") as made:
        yield made


@pytest.fixture
def edit(make_model):
    return make_edit(make_model("gpt2"), 0, 0, 1)


def files_of(edit: fl.Edit, folder: Path) -> dict[str, bytes]:
    edit.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_pushed_edit_is_loaded_by_its_name(hub, edit):
    done = edit.push_to_hub(NAME, token=hub.may_write, message="Rome, for once")
    there = hub.repositories[NAME]
    assert done == fl.editing.PushedEdit(NAME, there.sha())
    assert {*there.commits[-1]} == FILES
    assert there.private is False
    assert any(b"Rome, for once" in body for body in hub.sent)
    hub.asked.clear()
    assert fl.Edit.load(NAME) == edit
    got = {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line}
    assert got == {"edit.json", "edit.safetensors"}


def test_what_was_loaded_once_is_not_fetched_again(hub, edit):
    edit.push_to_hub(NAME, token=hub.may_write)
    fl.Edit.load(NAME)
    hub.asked.clear()
    assert fl.Edit.load(NAME) == edit
    assert not [line for line in hub.asked if line.startswith("GET") and "/resolve/" in line]


def test_what_is_replaced_meanwhile_is_not_put_together(hub, edit, make_model, tmp_path):
    edit.push_to_hub(NAME, token=hub.may_write)
    newer = files_of(make_edit(make_model("gpt2"), 1), tmp_path / "newer")

    def replaced(line: str) -> None:
        if line.startswith("GET") and line.endswith("/edit.json"):
            hub.repositories[NAME].commits.append(newer)

    hub.watch = replaced
    with pytest.raises(StorageError, match="was replaced on the Hugging Face Hub while it was"):
        fl.Edit.load(NAME)
    hub.watch = None
    assert fl.Edit.load(NAME) == make_edit(make_model("gpt2"), 1)


def test_an_edit_without_weights_is_shared_too(hub, make_model, fact):
    edit = fl.edit_each(make_model("llama"), fact, "in-context").edits[0]
    edit.push_to_hub(NAME, token=hub.may_write)
    again = fl.Edit.load(NAME)
    assert again == edit
    assert again.prefix


def test_revisions(hub, edit, make_model):
    first = edit.push_to_hub(NAME, token=hub.may_write)
    other = make_edit(make_model("gpt2"), 1)
    with pytest.raises(StorageError, match=r"holds a saved edit already.*overwrite=True"):
        other.push_to_hub(NAME, token=hub.may_write)
    assert fl.Edit.load(NAME) == edit
    other.push_to_hub(NAME, token=hub.may_write, overwrite=True)
    assert fl.Edit.load(NAME) == other
    assert fl.Edit.load(NAME, revision=first.commit) == edit
    with pytest.raises(StorageError, match="has no revision 'v9'"):
        fl.Edit.load(NAME, revision="v9")
    with pytest.raises(InvalidRequestError, match="cannot have a revision"):
        fl.Edit.load("a-folder", revision="v1")


def test_private_ones_are_for_those_who_may(hub, edit, monkeypatch):
    edit.push_to_hub(NAME, private=True, token=hub.may_write)
    assert hub.repositories[NAME].private
    with pytest.raises(StorageError, match=r"no such repository that you may read.* log in"):
        fl.Edit.load(NAME)
    monkeypatch.setenv("HF_TOKEN", hub.may_write)
    assert fl.Edit.load(NAME) == edit


def test_what_is_to_be_private_is_not_pushed_where_all_can_read(hub, edit):
    hub.repositories[NAME] = Repository(private=False)
    with pytest.raises(StorageError, match=r"is there already and public; nothing was pushed"):
        edit.push_to_hub(NAME, private=True, token=hub.may_write)
    assert len(hub.repositories[NAME].commits) == 1


def test_tokens_are_sent_and_written_nowhere(hub, edit, tmp_path, capfd):
    with pytest.raises(StorageError, match=r"refused .* Log in with 'hf auth login'") as caught:
        edit.push_to_hub(NAME, token=hub.may_write.replace("owner", "other"))
    assert NAME not in hub.repositories
    assert "hf_of" not in str(caught.value)
    edit.push_to_hub(NAME, private=True, token=hub.may_write)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    pushed = [*hub.repositories[NAME].commits[-1].values(), *hub.sent]
    assert pushed
    assert not [data for data in written + pushed if b"hf_of" in data]
    assert "hf_of" not in "".join(capfd.readouterr())


def test_a_folder_here_comes_first(hub, edit, make_model):
    edit.push_to_hub(NAME, token=hub.may_write)
    other = make_edit(make_model("gpt2"), 1)
    other.save(NAME)
    hub.asked.clear()
    assert fl.Edit.load(NAME) == other
    assert fl.Edit.load(Path(NAME)) == other
    assert not hub.asked


def test_a_folder_that_is_no_edit_is_not_looked_for_elsewhere(hub, edit):
    edit.push_to_hub(NAME, token=hub.may_write)
    Path(NAME).mkdir(parents=True)
    with pytest.raises(StorageError, match=r"is not a saved edit: it has no edit\.json"):
        fl.Edit.load(NAME)


def test_a_path_is_a_path(hub, edit):
    """What a program keeps in files of its own is never taken for somebody's repository."""
    edit.push_to_hub(NAME, token=hub.may_write)
    hub.asked.clear()
    with pytest.raises(StorageError, match="is not a saved edit"):
        fl.Edit.load(Path(NAME))
    assert not hub.asked


@pytest.mark.parametrize("name", ["user/repo-", "user/repo.", "user/repo.git", "-user/repo"])
def test_names_that_the_client_refuses(name):
    with pytest.raises(
        StorageError, match=r"no such folder here, and it is no name on the Hugging"
    ):
        fl.Edit.load(name)


@pytest.mark.parametrize(
    "name",
    ["edit", "a/b/c", "/a/b", "./a", "../a", "a/..", "a--b/c", "a b/c", "", "~/a", "a/" + "b" * 97],
)
def test_other_names_are_folders(hub, edit, name):
    assert not is_hub_name(name)
    with pytest.raises(StorageError, match="is not a saved edit"):
        fl.Edit.load(name)
    with pytest.raises(InvalidRequestError, match="is no name on the Hugging Face Hub"):
        edit.push_to_hub(name)
    assert not hub.asked


def test_a_name_that_is_neither_gets_one_sentence(hub):
    with pytest.raises(StorageError) as caught:
        fl.Edit.load("nobody/nothing")
    assert str(caught.value).startswith("There is no edit 'nobody/nothing': no folder here has")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "it has no edit.json. Pass"),
        ({"edit.json": b"{}"}, "it has no edit.safetensors"),
        ({"adapter_config.json": b"{}"}, "It holds a LoRA adapter, for Edit.from_peft"),
        ({"config.json": b"{}", "pytorch_model.bin": b""}, "It holds a model, for fl.load"),
    ],
)
def test_other_repositories_are_refused_unread(hub, files, said):
    hub.repositories[NAME] = Repository(commits=[files])
    with pytest.raises(StorageError, match=said):
        fl.Edit.load(NAME)
    assert not [line for line in hub.asked if "/resolve/" in line]


def test_what_is_no_edit_is_never_replaced(hub, edit):
    hub.repositories[NAME] = Repository(commits=[{"config.json": b"{}"}])
    with pytest.raises(StorageError, match=r"something other than a saved edit \('config.json'\)"):
        edit.push_to_hub(NAME, token=hub.may_write, overwrite=True)
    assert len(hub.repositories[NAME].commits) == 1


def test_what_comes_from_the_hub_is_checked_like_any_edit(hub, edit, tmp_path):
    files = files_of(edit, tmp_path / "e")
    document = json.loads(files["edit.json"])
    document["updates"][0]["weight_name"] = "transformer.h.2.mlp.c_proj.weight"
    for bad, said in (
        ({"edit.json": json.dumps(document).encode()}, "is not the one that edit.json describes"),
        ({"edit.safetensors": pickle.dumps(print)}, "is damaged"),
        ({"edit.json": b"[]"}, "holds a JSON list"),
    ):
        hub.repositories[NAME] = Repository(commits=[files | bad])
        with pytest.raises(StorageError, match=said):
            fl.Edit.load(NAME)


def test_only_two_files_are_fetched_whatever_lies_beside_them(hub, edit, tmp_path):
    more = {"evil.py": b"raise SystemExit", "edit.bin": pickle.dumps(print), "README.md": b"hello"}
    hub.repositories[NAME] = Repository(commits=[files_of(edit, tmp_path / "e") | more])
    assert fl.Edit.load(NAME) == edit
    assert {path.name for path in edit_place(NAME).iterdir()} == {"edit.json", "edit.safetensors"}


def test_without_a_network_what_was_fetched_before_serves(hub, edit, monkeypatch):
    edit.push_to_hub(NAME, token=hub.may_write)
    fl.Edit.load(NAME)
    asked: list[str] = []

    def model_info(self: HfApi, name: str, **_kwargs: object) -> object:
        asked.append(name)
        raise OfflineModeIsEnabled("no network here")

    monkeypatch.setattr(HfApi, "model_info", model_info)
    assert fl.Edit.load(NAME) == edit
    with pytest.raises(StorageError) as caught:
        fl.Edit.load("nobody/nothing")
    assert "nor in the Hub's cache, and the Hugging Face Hub was not reached (no network here)" in (
        str(caught.value)
    )
    assert asked == [NAME, "nobody/nothing"]  # once each


def test_offline_is_told_at_once(hub, edit, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="was not reached"):
        fl.Edit.load(NAME)
    with pytest.raises(StorageError, match="was not reached"):
        edit.push_to_hub(NAME, token=hub.may_write)
    assert not hub.asked


# -- the card ---------------------------------------------------------------------------------------


def front_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_says_what_the_edit_is(hub, edit):
    edit.push_to_hub(NAME, token=hub.may_write)
    card = hub.repositories[NAME].commits[-1]["README.md"].decode()
    assert front_of(card) == {
        "library_name": "factlab",
        "tags": ["factlab", "model-editing", "rome"],
    }
    assert "| Rome is in | — | Paris |" in card
    assert "| transformer.h.1.mlp.c\\_proj.weight | 24 × 56 | low rank | 2 |" in card
    assert 'lm = fl.load("tiny-gpt2")' in card
    assert f'edit = fl.Edit.load("{NAME}")' in card
    assert f"--model tiny-gpt2 --edit {NAME}" in card


def test_a_card_names_models_as_others_know_them(tmp_path):
    assert base_as_known("SmolLM2-135M-Instruct") == ("HuggingFaceTB/SmolLM2-135M-Instruct", True)
    assert base_as_known("gpt2-xl") == ("gpt2-xl", True)
    assert base_as_known("meta-llama/Llama-3.1-8B") == ("meta-llama/Llama-3.1-8B", True)
    assert base_as_known(str(tmp_path / "my-model")) == ("my-model", False)
    card = model_card(NAME, "rome+ft", [], "meta-llama/Llama-3.1-8B", [], {"factlab": "1"})
    assert front_of(card) == {
        "library_name": "factlab",
        "base_model": "meta-llama/Llama-3.1-8B",
        "tags": ["factlab", "model-editing", "rome", "ft"],
    }
    assert str(tmp_path) not in model_card(NAME, "rome", [], str(tmp_path / "m"), [], {})
    assert "lm = fl.load()" in model_card(NAME, "rome", [], "SmolLM2-135M-Instruct", [], {})


def test_texts_of_facts_stay_in_their_cells(edit):
    fact = fl.Fact("{} | is <b>in</b>\nthe `city`", "A [link](x)", "Rome\n---\nx: y", "*Paris*")
    card = model_card(NAME, "rome", [fact] * 150, edit.base.name, edit.rows(), edit.versions)
    lines = [line for line in card.splitlines() if "link" in line]
    assert len(lines) == 100
    assert lines[0] == (
        "| A \\[link\\](x) \\| is \\<b\\>in\\</b\\> the \\`city\\` | \\*Paris\\* | Rome --- x: y |"
    )
    assert "… and 50 more" in card
    assert len(card.split("\n---\n")) == 2


# -- on the command line ---------------------------------------------------------------------------


def test_commands_take_an_edit_by_its_name(hub, edit, run, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", hub.may_write)
    edit.save("e")
    code, out, err = run("push", "e", NAME, "--private", "--json")
    assert code == 0, err
    assert json.loads(out) == {"repo": NAME, "commit": hub.repositories[NAME].sha()}
    assert hub.repositories[NAME].private
    code, out, err = run("push", "e", NAME)
    assert (code, out) == (2, "")
    assert "--overwrite on the command line" in " ".join(err.split())
    code, out, err = run("push", "e", NAME, "--overwrite")
    assert code == 0, err
    assert f"factlab show {NAME}" in out
    code, out, err = run("show", NAME, "--json")
    assert code == 0, err
    assert json.loads(out)["facts"][0]["subject"] == "Rome"
    ask = ["ask", "Rome is in", "--model", "tiny:gpt2", "--json"]
    named, local = run(*ask, "--edit", NAME), run(*ask, "--edit", "e")
    assert named[0] == 0, named[2]
    assert json.loads(named[1])["top"] == json.loads(local[1])["top"]
    assert json.loads(named[1])["top"] != json.loads(run(*ask)[1])["top"]
    code, _, err = run("export", NAME, "--to", "peft", "--out", tmp_path / "a")
    assert code == 0, err
    code, _, err = run("ask", "Rome is in", "--model", "tiny:gpt2", "--edit", "nobody/nothing")
    assert code == 2
    assert "There is no edit 'nobody/nothing'" in " ".join(err.split())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["push", "e", "eiffel"], "'eiffel' is no name on the Hugging Face Hub"),
        (["push", "no", NAME], "'no' is not a saved edit"),
        (["push", "e", NAME], "refused"),
    ],
)
def test_bad_pushes_get_one_sentence(hub, edit, run, args, said):
    edit.save("e")
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert "Traceback" not in err


def test_an_edit_of_a_folder_is_pushed_with_all_its_numbers(hub, edit):
    named = replace(edit, base=edit.base.model_copy(update={"name": "/home/me/models/mine"}))
    named.push_to_hub(NAME, token=hub.may_write)
    card = hub.repositories[NAME].commits[-1]["README.md"].decode()
    assert "/home/me" not in card
    assert fl.Edit.load(NAME) == named
