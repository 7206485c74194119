"""Weights are found in folders, in the hub's cache, and on the hub, of which parts are fetched."""

import http.server
import json
import threading

import pytest
from huggingface_hub import constants
from written import random_trees, write

from ragaf_jax.errors import UserError
from ragaf_jax.weights.locate import choose_weights, files_below, locate
from ragaf_jax.weights.pretrained import check_pretrained, open_control, open_pretrained

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STEM = "diffusion_pytorch_model"


def chosen(names, variant="", folder="unet", stem=STEM):
    names = [f"{folder}/{name}" if folder else name for name in names]
    found = choose_weights(names, folder, stem, variant, "source")
    return [name.removeprefix(f"{folder}/") for name in found]


PLAIN, HALF, RAW = (f"{STEM}{infix}.safetensors" for infix in ("", ".fp16", ".non_ema"))
SHARDS = [f"{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)]
HALVES = [f"{STEM}.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
INDEX, HALF_INDEX = f"{STEM}.safetensors.index.json", f"{STEM}.fp16.safetensors.index.json"
OLD_INDEX = f"{STEM}.safetensors.index.fp16.json"
FLAX = "diffusion_flax_model.msgpack"


@pytest.mark.parametrize(
    ("names", "variant", "expected"),
    [
        ([RAW, HALF, PLAIN, FLAX, f"{STEM}.bin"], "", [PLAIN]),
        ([RAW, HALF, PLAIN], "fp16", [HALF]),
        ([RAW, HALF, PLAIN], "non_ema", [RAW]),
        ([RAW, HALF], "", [HALF]),
        ([RAW, FLAX], "", [RAW]),
        ([FLAX, f"{STEM}.bin"], "", [FLAX]),
        ([*SHARDS, INDEX, HALF], "", [INDEX, *SHARDS]),
        ([*SHARDS, INDEX, *HALVES, OLD_INDEX], "fp16", [OLD_INDEX, *HALVES]),
        ([*HALVES, OLD_INDEX, f"{STEM}.bin"], "", [OLD_INDEX, *HALVES]),
    ],
)
def test_the_file_that_is_chosen(names, variant, expected):
    assert chosen(names, variant) == expected


def test_files_of_the_folder_alone():
    names = [f"unet/{HALF}", f"vae/{PLAIN}", f"unet/old/{PLAIN}", PLAIN]
    assert choose_weights(names, "unet", STEM, "", "source") == [f"unet/{HALF}"]
    assert choose_weights(names, "", STEM, "", "source") == [PLAIN]
    # A variant that this network does not have.
    assert chosen([PLAIN, FLAX], "fp16") == [PLAIN]
    assert chosen(["flax_model.msgpack", "config.json"], stem="model") == ["flax_model.msgpack"]


@pytest.mark.parametrize(
    ("names", "variant", "said"),
    [
        ([], "", f"source/unet holds no files, expected {PLAIN} or {FLAX}"),
        (["config.json"], "", f"source/unet holds config.json, expected {PLAIN}"),
        ([f"{STEM}.bin", "config.json"], "", f"source/unet/{STEM}.bin is a pickle"),
    ],
)
def test_nothing_to_choose(names, variant, said):
    with pytest.raises(UserError, match=said):
        chosen(names, variant)


def everything(names):
    return list(names)


def test_what_is_here(tmp_path, monkeypatch):
    """A folder or a file; a relative one goes before a repository of that name."""
    (tmp_path / "owner/name").mkdir(parents=True)
    (tmp_path / "file.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for where in ("owner/name", str(tmp_path), "file.safetensors"):
        assert str(locate(where, everything)) == where
    assert locate("~/owner", everything) == tmp_path / "owner"
    for where in ("", "nowhere", "/no/where", "a b/c", "../x", "https://huggingface.co/a/b"):
        with pytest.raises(UserError, match=f"no folder or file '{where}', and it is no hub id"):
            locate(where, everything)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The library's settings: an empty cache, and offline. Returns a function to change them."""

    def change(**values):
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)

    cache = str(tmp_path / "cache")
    change(HF_HUB_CACHE=cache, HF_HUB_OFFLINE=True, HF_HUB_DISABLE_PROGRESS_BARS=True)
    return change


def test_what_was_fetched_before(tmp_path, hub):
    repository = tmp_path / "cache" / "models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "unet" / PLAIN).touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert locate("owner/name", everything) == snapshot
    assert locate("owner/name/unet", everything) == snapshot / "unet"
    assert locate(f"owner/name/unet/{PLAIN}", everything) == snapshot / "unet" / PLAIN
    with pytest.raises(UserError, match="no owner/name/vae on the hub"):
        locate("owner/name/vae", everything)


def assert_cannot_be_fetched(where, reason):
    with pytest.raises(UserError) as error:
        locate(where, everything)
    said = str(error.value)
    assert (
        f"{where} is no local folder or file and cannot be downloaded from the hub ({reason}"
        in said
    )
    assert "outgoing traffic" not in said and "\n" not in said


def test_neither_here_nor_there(hub):
    assert_cannot_be_fetched("owner/name", "OfflineModeIsEnabled: Cannot reach https")
    assert_cannot_be_fetched("a--b/c..d", "HFValidationError: ")
    hub(HF_HUB_OFFLINE=False, ENDPOINT="http://127.0.0.1:9")  # where nothing listens
    assert_cannot_be_fetched("owner/name", "ConnectError: ")


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's API as is asked for, over the files of `server.repositories`."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path}")
        api = self.path.startswith("/api/models/")
        owner, name, *rest = self.path.partition("?")[0].removeprefix("/api/models").split("/")[1:]
        files = self.server.repositories.get(f"{owner}/{name}")
        if self.server.broken:
            self.answer(503, b"")
        elif files is None:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif not api:
            self.answer(200, files["/".join(rest[2:])], {"ETag": f'"{abs(hash(self.path))}"'})
        elif rest[:1] == ["tree"]:
            sizes = {path: len(content) for path, content in files.items()}
            tree = [{"type": "file", "path": p, "size": n, "oid": p} for p, n in sizes.items()]
            self.answer(200, json.dumps(tree).encode())
        else:
            siblings = [{"rfilename": path} for path in files]
            info = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}
            self.answer(200, json.dumps(info).encode())

    def answer(self, status, content, headers=()):
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def server(hub):
    """A hub without repositories that huggingface_hub takes for the real one."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories, server.asked, server.broken = {}, [], False
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    hub(HF_HUB_OFFLINE=False, ENDPOINT=url, HUGGINGFACE_CO_URL_TEMPLATE=template)
    yield server
    server.shutdown()
    server.server_close()


def test_parts_of_a_repository_are_fetched(tmp_path, rng, hub, server):
    folder = write(tmp_path / "sd", random_trees(rng))
    files = {name: (folder / name).read_bytes() for name in files_below(folder)}
    wanted = {name for name in files if not name.startswith("controlnet/")} | {"tokenizer/a.json"}
    duplicates = [f"unet/{name}" for name in (HALF, RAW, f"{STEM}.bin", FLAX)]
    others = ["v1-5.ckpt", "v1-5.safetensors", "safety_checker/model.safetensors", "README.md"]
    surplus = dict.fromkeys(["tokenizer/a.json", *duplicates, *others], b"{}")
    server.repositories["owner/name"] = files | surplus

    found = open_pretrained("owner/name")
    assert set(files_below(tmp_path / "cache/models--owner--name/snapshots" / COMMIT)) == wanted
    assert found.tokenizer.is_dir()
    assert open_control("owner/name/controlnet").config.unet.block_out_channels == (8, 16)
    here = set(files_below(found.tokenizer.parent)) - wanted
    assert here == {"controlnet/config.json", f"controlnet/{STEM}.safetensors"}
    assert locate("owner/name/v1-5.safetensors", everything).read_bytes() == b"{}"

    # From now on it does without the hub, whether that is broken, silent or not to be asked.
    server.broken = True
    assert open_pretrained("owner/name").source == found.source
    server.broken = False
    hub(HF_HUB_OFFLINE=True)
    assert open_pretrained("owner/name").source == found.source
    asked = len(server.asked)
    assert open_control("owner/name/controlnet").config.conditioning_channels == (4, 6, 8, 10)
    assert len(server.asked) == asked


def test_another_model_is_refused_before_its_weights_are_fetched(tmp_path, rng, server):
    folder = write(tmp_path / "sd", random_trees(rng))
    files = {name: (folder / name).read_bytes() for name in files_below(folder)}
    del files["vae/config.json"]
    server.repositories["owner/part"] = files
    pipeline = b'{"_class_name": "StableDiffusion3Pipeline"}'
    server.repositories["owner/sd3"] = files | {"model_index.json": pipeline}
    unet = json.loads(files["unet/config.json"]) | {"in_channels": 9}
    changed = {"unet/config.json": json.dumps(unet).encode()}
    server.repositories["owner/inpaint"] = files | changed
    noise = b'{"_class_name": "ScoreSdeVeScheduler"}'
    server.repositories["owner/sde"] = files | {"scheduler/scheduler_config.json": noise}
    for where, said in (
        ("owner/sde", "scheduler_config.json has the class 'ScoreSdeVeScheduler'"),
        ("owner/part", "owner/part/vae/config.json is missing"),
        ("owner/part/unet", "owner/part/unet is a UNet alone"),
        ("owner/sd3", "owner/sd3 is a StableDiffusion3Pipeline"),
        ("owner/inpaint", "owner/inpaint is 9, expected the 4 of a latent: it is for inpainting"),
    ):
        for open_it in (check_pretrained, open_pretrained):
            with pytest.raises(UserError, match=said):
                open_it(where)
    with pytest.raises(UserError, match="owner/part is no ControlNet but holds one; give owner/pa"):
        open_control("owner/part")
    assert not any("resolve" in x and x.endswith(".safetensors") for x in server.asked)


def test_what_the_hub_has_not(server):
    server.repositories["owner/name"] = {"unet/model.ckpt": b"", "a.txt": b""}
    assert_cannot_be_fetched("no/body", "RepositoryNotFoundError: 404 Client Error")
    with pytest.raises(UserError, match="no owner/name/b.safetensors on the hub"):
        locate("owner/name/b.safetensors", everything)
    with pytest.raises(UserError, match="it has no supported file"):
        locate("owner/name", lambda names: [])
    with pytest.raises(UserError, match="unet/model.ckpt is a pickle"):
        open_pretrained("owner/name")
    assert not any("resolve" in request for request in server.asked)
    server.broken = True
    assert_cannot_be_fetched("owner/name", "HfHubHTTPError: Server error '503")
