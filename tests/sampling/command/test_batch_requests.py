"""Requests of a batch from a folder of sketches and a file of prompts, and errors in these."""

import json

import pytest

from ragaf_jax.errors import UserError
from ragaf_jax.sampling.command.batch_requests import (
    FIELDS,
    BatchRequest,
    parse_regions,
    read_requests,
    sketch_files,
)


@pytest.fixture
def sketches(tmp_path):
    folder = tmp_path / "sketches"
    folder.mkdir()
    for name in ("b.png", "a.jpg", "c.PNG", "notes.md"):
        (folder / name).touch()
    return folder


def written(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def test_lines_belong_to_sketches_by_name(sketches, tmp_path):
    rows = read_requests(sketches, written(tmp_path, "prompts.txt", "one\n two \nthree\n"))
    assert [(row.name, row.sketch.name, row.prompt) for row in rows] == [
        ("a", "a.jpg", "one"),
        ("b", "b.png", "two"),
        ("c", "c.PNG", "three"),
    ]
    rows = read_requests(sketches, written(tmp_path, "prompts.txt", "for all"))
    assert [row.prompt for row in rows] == ["for all"] * 3
    with pytest.raises(UserError, match=r"has 2 lines and .*sketches 3 sketches"):
        read_requests(sketches, written(tmp_path, "prompts.txt", "one\ntwo\n"))


def test_prompts_may_lie_beside_the_sketches(sketches):
    for name in "abc":
        written(sketches, f"{name}.txt", f"a {name}\n")
    assert [row.prompt for row in read_requests(sketches, None)] == ["a a", "a b", "a c"]
    (sketches / "b.txt").unlink()
    with pytest.raises(
        UserError, match=r"b.png has no prompt: .*b.txt does not exist; .* --prompts"
    ):
        read_requests(sketches, None)


def test_tables_say_everything(sketches, tmp_path):
    table = (
        "sketch,prompt,negative_prompt,seed,regions,name,crop_top_left\n"
        'b.png,"a house, red",grey,7,"3=red brick wall; 5=oak door",home,"0,8"\n'
        "a.jpg,a tree,,,,,\n"
        "b.png,a hut,,,,,\n"
        "a.jpg,a bush,,,,,\n"
    )
    records = [
        {
            "sketch": "b.png",
            "prompt": "a house, red",
            "negative_prompt": "grey",
            "seed": 7,
            "regions": {"3": "red brick wall", "5": "oak door"},
            "name": "home",
            "crop_top_left": "0,8",
        },
        {"sketch": "a.jpg", "prompt": "a tree"},
        {"sketch": "b.png", "prompt": "a hut"},
        {"sketch": "a.jpg", "prompt": "a bush"},
    ]
    lines = "\n\n".join(map(json.dumps, records))
    for name, text in (("rows.csv", "\ufeff" + table), ("rows.jsonl", lines)):
        rows = read_requests(sketches, written(tmp_path, name, text))
        assert [row.name for row in rows] == ["home", "a", "b", "a-2"]
        first = rows[0]
        assert (first.prompt, first.negative_prompt, first.seed) == ("a house, red", "grey", 7)
        assert first.region_prompts == {3: "red brick wall", 5: "oak door"}
        assert first.sizes == {"crop_top_left": "0,8"} and rows[1].sizes == {}
        assert rows[1].seed is None and rows[1].region_prompts == {}


def test_images_of_controls_are_files_of_the_folder(sketches, tmp_path):
    table = "sketch,control_images\nb.png,;c.PNG\na.jpg,\n"
    lines = '{"sketch": "b.png", "control_images": ["", "c.PNG"]}\n{"sketch": "a.jpg"}'
    for name, text in (("rows.csv", table), ("rows.jsonl", lines)):
        rows = read_requests(sketches, written(tmp_path, name, text))
        assert [row.control_images for row in rows] == [(None, sketches / "c.PNG"), ()]


def test_loras_are_files_beside_their_table(sketches, tmp_path):
    """Unless their paths are absolute, wherever the command runs."""
    (tmp_path / "a=1").touch()
    lines = '{"sketch": "a.jpg", "loras": ["style.safetensors=0.5", "/b.safetensors", "a=1"]}'
    (row,) = read_requests(sketches, written(tmp_path, "rows.jsonl", lines))
    assert [(x.path, x.unet) for x in row.loras] == [
        (str(tmp_path / "style.safetensors"), 0.5),
        ("/b.safetensors", 1.0),
        (str(tmp_path / "a=1"), 1.0),
    ]


def test_null_is_as_good_as_absent(sketches, tmp_path):
    for table in ({"sketch": "a.jpg"}, {**dict.fromkeys(FIELDS), "sketch": "a.jpg"}):
        (row,) = read_requests(sketches, written(tmp_path, "rows.jsonl", json.dumps(table)))
        assert row == BatchRequest("a", sketches / "a.jpg", "")


def test_no_two_rows_have_one_name(sketches, tmp_path):
    names = ["a", "a", "a-2", "a", "a-2"]
    lines = "\n".join(json.dumps({"sketch": "a.jpg", "name": name}) for name in names)
    rows = read_requests(sketches, written(tmp_path, "rows.jsonl", lines))
    assert len({row.name for row in rows}) == 5
    assert [rows[0].name, rows[2].name] == ["a", "a-2"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", r"rows.jsonl:1 is not JSON"),
        ("[]", "is not a JSON object"),
        (
            '{"sketch": "a.jpg"}\n{"prompt": "a"}',
            "rows.jsonl:2: the sketch is None; name a file in",
        ),
        ('{"sketch": "a.jpg", "promt": "a"}', "a field 'promt'; did you mean 'prompt'. The fields"),
        ('{"sketch": "a.jpg", "control_images": 3}', "rows.jsonl:1: control_images is 3; write"),
        ('{"sketch": "a.jpg", "xyzzy": "a"}', "a field 'xyzzy'; the fields are sketch, prompt"),
        ('{"sketch": "a.jpg", "seed": -1}', "the seed is -1"),
        ('{"sketch": "a.jpg", "seed": "x"}', "the seed is 'x'"),
        (f'{{"sketch": "a.jpg", "seed": "{"9" * 5000}"}}', "the seed is '99999"),
        ('{"sketch": "a.jpg", "width": 1.5}', "the width is 1.5; give a whole number"),
        ('{"sketch": "a.jpg", "target_size": [8]}', r"rows.jsonl:1: target_size is \[8\]; write"),
        ('{"sketch": "a.jpg", "prompt": 5}', "the prompt is 5; give a text"),
        ('{"sketch": "a.jpg", "negative_prompt": []}', r"the negative_prompt is \[\]; give a text"),
        ('{"sketch": "a.jpg", "regions": {"3": null}}', "regions is {'3': None}; write it like"),
        ('{"sketch": "a.jpg", "regions": [1]}', r"regions is \[1\]"),
        ('{"sketch": "a.jpg", "regions": {"x": "red"}}', "prompt 'x=red' is not <number>="),
        ('{"sketch": "a.jpg", "name": "../a"}', "'../a' cannot name a folder"),
        ('{"sketch": "a.jpg", "name": ".."}', "cannot name a folder"),
        ("", "There are no sketches"),
    ],
)
def test_rows_that_say_nothing_of_use(sketches, tmp_path, text, error):
    with pytest.raises(UserError, match=error):
        read_requests(sketches, written(tmp_path, "rows.jsonl", text))


def test_files_that_are_not_there(sketches, tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        read_requests(tmp_path / "none", None)
    with pytest.raises(UserError, match=r"none.csv cannot be read: No such file"):
        read_requests(sketches, tmp_path / "none.csv")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="it is not UTF-8"):
        read_requests(sketches, tmp_path / "latin.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="There are no sketches"):
        read_requests(tmp_path / "empty", None)


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_line_ends_where_the_file_says(sketches, tmp_path, character):
    """`str.splitlines` takes these characters for the end of a line."""
    prompt = f"a house{character}by the sea"
    lines = f"{prompt}\r\ntwo\rthree"
    found = read_requests(sketches, written(tmp_path, "prompts.txt", lines))
    assert [row.prompt for row in found] == [prompt, "two", "three"]
    rows = json.dumps({"sketch": "a.jpg", "prompt": prompt}, ensure_ascii=False) + "\n"
    found = read_requests(sketches, written(tmp_path, "rows.jsonl", rows))
    assert [row.prompt for row in found] == [prompt]
    rows = f'sketch,prompt\r\na.jpg,"{prompt}\nand the trees"\r\nb.png,two\r\n'
    found = read_requests(sketches, written(tmp_path, "rows.csv", rows))
    assert [row.prompt for row in found] == [f"{prompt}\nand the trees", "two"]


def test_numbers_in_names_count_as_numbers(tmp_path):
    names = ["1.png", "2.png", "10.png", "a2b1.png", "a2b10.png", "a10b1.png", "b.png"]
    for name in reversed(names):
        (tmp_path / name).touch()
    prompts = written(tmp_path, "prompts.txt", "\n".join(names))
    rows = read_requests(tmp_path, prompts)
    assert [(row.sketch.name, row.prompt) for row in rows] == [(name, name) for name in names]


def test_what_is_no_sketch_is_left_out_with_its_reason(sketches):
    for name in ("._a.jpg", ".hidden.png", "d.jfif", "e.AVIF", "f.heic", "g.txt"):
        (sketches / name).touch()
    (sketches / "out.png").mkdir()  # such as an output
    found, skipped = sketch_files(sketches)
    assert [file.name for file in found] == ["a.jpg", "b.png", "c.PNG", "d.jfif", "e.AVIF"]
    assert set(skipped) == {"f.heic", "notes.md", "out.png"}
    assert skipped["out.png"].startswith("is a folder, and subfolders are not")
    assert "a .heic file, which is not read; save it as PNG" in skipped["f.heic"]


def test_names_are_found_in_both_unicode_forms(tmp_path):
    """macOS lists é as two characters; tables hold it as one."""
    (tmp_path / "cafe\u0301.png").touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "ma\u0308n.png").touch()
    lines = '{"sketch": "caf\u00e9.png"}\n{"sketch": "deep\\\\m\u00e4n.png"}'
    rows = read_requests(tmp_path, written(tmp_path, "rows.jsonl", lines))
    assert [row.sketch.is_file() for row in rows] == [True, True]


def test_a_missing_sketch_is_left_to_its_row(sketches, tmp_path):
    lines = '{"sketch": "a.jpg"}\n{"sketch": "none.png"}'
    rows = read_requests(sketches, written(tmp_path, "rows.jsonl", lines))
    assert [row.sketch for row in rows] == [sketches / "a.jpg", sketches / "none.png"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("prompts.txt", "a\n".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (
            "prompts.csv",
            b"sketch;prompt\na.jpg;a\n",
            "separates its columns by ';'; save it with commas",
        ),
        ("prompts.csv", b"sketch,prompt\na.jpg,a,red\n", "csv:2 has more fields than the header"),
        ("prompts.csv", b'sketch,prompt\na.jpg,"a\n', "csv:2 is not CSV"),
        ("prompts.csv", b"file,prompt\na.jpg,a\n", "a field 'file'; the fields are sketch"),
        ("prompts.json", b"[]", "are a .json file; give a .txt with a line for each sketch, or a"),
    ],
)
def test_files_of_prompts_that_cannot_be_read(sketches, tmp_path, name, content, error):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=error):
        read_requests(sketches, tmp_path / name)


def test_words_of_regions():
    assert parse_regions(["3=red = brick ", " 5 =oak"]) == {3: "red = brick", 5: "oak"}
    for entry in ("red", "=red", "-1=red", "3:red", "a=b"):
        with pytest.raises(UserError, match="is not <number>=<text>"):
            parse_regions([entry])
    with pytest.raises(UserError, match="Region 3 has two region prompts"):
        parse_regions(["3=a", "03=b"])
    with pytest.raises(UserError, match="negative region prompt 'b' .* like --negative_region 3="):
        parse_regions(["b"], "negative_region")
