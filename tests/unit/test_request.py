"""What is wished for, checked before it is loaded; the Hub, asked once; code that is never run."""

import io
import json
import logging
import subprocess
import sys
import threading
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

import factlab as fl
from factlab.errors import InvalidRequestError, ModelLoadError, UnsupportedModelError
from factlab.models import loading as load_module
from factlab.models.hub import ask_hub
from factlab.models.loading import check_request, load
from factlab.models.quiet import quiet_transformers


def test_what_is_asked_for():
    assert check_request().kind == "bundled"
    asked = check_request("tiny:gpt2", "auto", torch.bfloat16)
    assert (asked.kind, asked.placement, asked.dtype) == ("tiny", "auto", "bfloat16")
    assert check_request("owner/model", "cpu").kind == "hub"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "name is empty"),
        ("tiny:gtp2", "Did you mean 'gpt2'"),
        ("no/such/folder", "There is no folder 'no/such/folder'"),
        ("./nothing", "There is no folder './nothing'"),
        ("gpt2 xl", r"neither a folder here nor a Hub id.*Did you mean 'gpt2-xl'"),
        ("x" * 300, "neither a folder here nor a Hub id"),
        ("model.gguf", "There is no file 'model.gguf'"),
    ],
)
def test_names_that_cannot_be_a_model(name, message):
    with pytest.raises((InvalidRequestError, ModelLoadError), match=message):
        check_request(name)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", torch.float8_e4m3fn, torch.int8, "half"])
def test_dtypes_that_no_model_is_loaded_in(dtype):
    with pytest.raises(InvalidRequestError, match="Choose from float32, bfloat16"):
        check_request("tiny:gpt2", dtype=dtype)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("adapter_config.json", "is a PEFT adapter, not a model.*from_peft.*merge_and_unload"),
        ("edit.json", "a saved edit"),
        ("editor.json", "a trained editor"),
        ("model.gguf", "name that file"),
    ],
)
def test_folders_that_hold_something_else(tmp_path, file, message):
    (tmp_path / file).write_text("{}")
    with pytest.raises(ModelLoadError, match=message):
        check_request(tmp_path)


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelLoadError, match="is a file"):
        check_request(tmp_path / "model.bin")


def test_a_request_is_checked_without_transformers():
    code = (
        "import sys; from factlab.models.request import check_request\n"
        "try: check_request('gpt2', 'cpu', 'flaot32')\n"
        "except ValueError: print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_missing_device_is_seen_before_the_model_is_read(monkeypatch):
    monkeypatch.setattr(load_module, "read_pretrained", None)
    with pytest.raises(InvalidRequestError, match="is not available"):
        load("owner/model", device="cuda:99")


def test_a_single_device_for_auto(monkeypatch):
    """A model that is not spread goes where one goes for which no device was chosen."""
    assert load_module._one_device("auto").type == check_request(device=None).placement
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert load_module._one_device("auto").type == "cuda"


# -- the Hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """A Hub whose answer a test chooses, and the questions it was asked."""
    asked: list[str] = []

    def answer(result: object, cached: bool = False) -> list[str]:
        def model_info(name: str, **_kwargs: object) -> object:
            asked.append(name)
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(huggingface_hub, "model_info", model_info)
        monkeypatch.setattr(
            huggingface_hub,
            "try_to_load_from_cache",
            lambda *_args, **_kwargs: "snapshot/config.json" if cached else None,
        )
        return asked

    return answer


def unreachable(*_args, **_kwargs):
    raise AssertionError("the client was let loose on a network that is not there")


def test_without_a_network_one_question_is_asked(hub, monkeypatch):
    asked = hub(OfflineModeIsEnabled("no network here"))
    monkeypatch.setattr("factlab.models.pretrained.AutoConfig.from_pretrained", unreachable)
    with pytest.raises(ModelLoadError, match=r"was not reached \(no network here\).*'gpt2-xl'"):
        load("gtp2-xl")
    assert asked == ["gtp2-xl"]


@pytest.mark.parametrize("name", ["gpt2-", "owner/model.", "owner/model.git"])
def test_a_name_that_the_client_refuses(name):
    with pytest.raises(ModelLoadError, match="it is no name on the Hugging Face Hub"):
        ask_hub(name, None)


def test_a_name_is_not_suggested_for_itself(hub):
    hub(OfflineModeIsEnabled("no network here"))
    with pytest.raises(ModelLoadError) as caught:
        load("gpt2-xl")
    assert "Did you mean" not in str(caught.value)


def test_what_the_cache_holds_is_loaded_without_a_network(hub, monkeypatch):
    hub(ConnectionError("no network here"), cached=True)
    seen = {}

    def from_pretrained(place, **kwargs):
        seen.update(kwargs, place=place)
        raise OSError("no file named model.safetensors")

    monkeypatch.setattr("factlab.models.pretrained.AutoConfig.from_pretrained", from_pretrained)
    with pytest.raises(ModelLoadError, match=r"was not reached .* holds only a part of the model"):
        load("owner/model")
    assert seen["local_files_only"] is True
    assert seen["place"] == "snapshot"  # the folder, for which no file is looked up elsewhere


def test_a_model_that_the_hub_does_not_have(hub, monkeypatch):
    response = SimpleNamespace(headers={}, request=None)
    hub(RepositoryNotFoundError("404: Repository Not Found", response=response))

    def from_pretrained(_place, **_kwargs):
        raise OSError("gtp2-xl is not a valid model identifier")

    monkeypatch.setattr("factlab.models.pretrained.AutoConfig.from_pretrained", from_pretrained)
    with pytest.raises(ModelLoadError, match=r"does not give it.*Did you mean 'gpt2-xl'.*404"):
        load("gtp2-xl")


def test_an_adapter_on_the_hub_is_no_model(hub):
    hub(SimpleNamespace(siblings=[SimpleNamespace(rfilename="adapter_config.json")]))
    with pytest.raises(ModelLoadError, match="'owner/adapter' is a PEFT adapter"):
        ask_hub("owner/adapter", None)


# -- foreign files ---------------------------------------------------------------------------------

PROOF = "open({!r}, 'w').write('run')\n"


@pytest.fixture
def folder(model_folder):
    return model_folder


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("part", ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"])
def test_code_of_a_checkpoint_is_never_run(folder, tmp_path, monkeypatch, part):
    proof = tmp_path / "run"
    monkeypatch.setattr("builtins.input", unreachable)
    (folder / "extra.py").write_text(PROOF.format(str(proof)) + "class Extra:\n    pass\n")
    config = folder / "config.json"
    match part:
        case "AutoConfig":
            edited(config, model_type="extra", auto_map={part: "extra.Extra"})
        case "AutoModelForCausalLM":  # a config that is known, a model that is not
            edited(config, model_type="clip_text_model", auto_map={part: "extra.Extra"})
        case "AutoTokenizer":
            edited(
                folder / "tokenizer_config.json",
                tokenizer_class="Extra",
                auto_map={part: ["extra.Extra", None]},
            )
    try:
        load(folder)
    except ModelLoadError as error:
        assert "trust_remote_code" not in str(error)
    assert not proof.exists()


def test_a_checkpoint_that_needs_its_own_code_is_refused_in_a_sentence(folder):
    edited(folder / "config.json", model_type="x", auto_map={"AutoConfig": "extra.Extra"})
    with pytest.raises(ModelLoadError, match="code that comes with it, which factlab never runs"):
        load(folder)


def test_a_model_of_another_kind_is_refused_for_that(folder):
    edited(folder / "config.json", model_type="clip_text_model")
    with pytest.raises(UnsupportedModelError, match="'clip_text_model' is not a decoder-only"):
        load(folder)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"rms_norm_eps": "1"}),
        ("config.json", {"hidden_size": "x"}),
        ("config.json", {"hidden_size": -24}),
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"dtype": "float33"}),
        ("config.json", {"model_type": []}),
        ("config.json", {"vocab_size": 10}),
        ("config.json", {"architectures": 3}),
        ("config.json", {"rope_parameters": "none"}),
        ("config.json", {"eos_token_id": "</s>"}),
        ("tokenizer_config.json", {"bos_token": 1.5}),
        ("tokenizer_config.json", {"tokenizer_class": 3}),
        ("tokenizer.json", {"model": None}),
        ("tokenizer.json", {"added_tokens": 7}),
        ("generation_config.json", {"eos_token_id": "</s>"}),
    ],
)
def test_a_folder_with_values_of_a_wrong_type(folder, file, changes):
    edited(folder / file, **changes)
    try:
        fl.load(folder, device="cpu")
    except fl.FactlabError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["2", "[]", "", '{"a": ', "\ufeff{}"])
def test_a_folder_with_a_file_that_is_something_else(folder, file, text):
    (folder / file).write_text(text)
    try:
        fl.load(folder, device="cpu")
    except fl.FactlabError as error:
        assert "\n" not in str(error)


# -- quiet -----------------------------------------------------------------------------------------


def test_quiet_is_for_one_thread_only(monkeypatch):
    monkeypatch.setattr(sys, "stderr", real := io.StringIO())
    log = logging.getLogger("transformers")
    handler = logging.StreamHandler(real)
    log.addHandler(handler)
    try:
        with quiet_transformers():
            sys.stderr.write("bar of this thread\n")
            log.warning("notice of this thread")

            def other():
                sys.stderr.write("line of another\n")
                log.warning("notice of another")
                with quiet_transformers():
                    sys.stderr.write("bar of another\n")

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            sys.stderr.write("still quiet\n")
        assert sys.stderr is real
        log.warning("loud again")
    finally:
        log.removeHandler(handler)
    assert real.getvalue() == "line of another\nnotice of another\nloud again\n"
