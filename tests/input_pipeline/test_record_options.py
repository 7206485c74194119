"""Records, batches and sampling have the selected graph; a mismatch is an error."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from commands import run_here
from fakes import random_stage
from ml_collections import ConfigDict
from pages import random_page
from photo_trees import save

from input_pipeline.configured import open_split, shapes
from input_pipeline.loader import train_iterator
from input_pipeline.options import Options, flags_of, suffix_of
from input_pipeline.preparation.preparing import prepare
from input_pipeline.record_format import config_name
from ragaf_jax.checkpoints.meta import with_later_fields
from ragaf_jax.errors import UserError
from ragaf_jax.graph.build import GraphConfig
from ragaf_jax.graph.features import EDGE_KINDS
from ragaf_jax.images import read_grey
from ragaf_jax.sampling.pipeline import Pipeline
from ragaf_jax.sketch_input import to_page

SIZE, EDGES = 32, 40  # px; fewer edges than each kind finds in the sketches
GRAPHS = {
    "adjacency": GraphConfig("adjacency"),
    "containment": GraphConfig("containment"),
    "knn_k6": GraphConfig("knn", k=6),
    "radius_r0.5": GraphConfig("radius", radius=0.5),
    "hybrid_k1": GraphConfig("hybrid", k=1),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Five pictures with captions, and sketches of sixteen cells."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(5):
        save(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8), folder / "image" / f"{i}.png")
        page = np.full((256, 256), 255, np.uint8)
        for line in np.linspace(20, 180 + 10 * i, 5).astype(int):
            page[20:, line : line + 5] = page[line : line + 5, 20:] = 0
        page[:, 190 + 10 * i :] = page[190 + 10 * i :] = 255
        save(page, folder / "sketch" / f"{i}.png")
        (folder / "image" / f"{i}.txt").write_text("a house")
    return folder


@pytest.fixture(scope="module")
def stage():
    return random_stage(
        2,
        **{
            "data.image_size": SIZE,
            "data.max_regions": 33,
            "data.max_edges": EDGES,
            "data.dataset": "folder",
        },
    )


def with_data(stage, folder, graph):
    config = stage.config.copy_and_resolve_references()
    config.data.dir = str(folder)
    config.data.graph.update(dataclasses.asdict(graph))
    return dataclasses.replace(stage, config=config)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_model_samples_with_the_graphs_that_it_was_trained_with(root, stage, tmp_path, name):
    stage = with_data(stage, tmp_path, GRAPHS[name])
    (folder,) = prepare("folder", tmp_path, Options(SIZE, root=root, graph=GRAPHS[name]))
    assert folder.parent.name == f"{SIZE}px_{name}"
    source = open_split(stage.config.data, "train")
    batches = train_iterator(source, 1, 0, **shapes(stage.config.data))
    trained = next(batches).graph
    pipeline = Pipeline(stage2=stage)
    sketch = root / "sketch" / f"{batches.keys(0)[0].removeprefix('image/')}.png"
    page = pipeline.page(to_page(read_grey(sketch), (pipeline.page_size,) * 2))
    sampled = pipeline.request(page, "a house").batch.graph
    jax.tree.map(np.testing.assert_array_equal, sampled, trained)
    count = trained.n_edge[0, 0]
    assert trained.n_node[0, 0] == 17 and EDGES - 1 <= count <= EDGES
    assert all(len(source[i]["senders"]) > EDGES for i in range(len(source)))
    marked = {EDGE_KINDS[i] for i in np.flatnonzero(trained.edges[0, :count, :5].any(0))}
    kind = GRAPHS[name].kind
    assert marked == {"self", kind} or (kind == "hybrid" and len(marked) > 2)


def test_records_of_another_graph_are_never_taken(root, stage, tmp_path):
    knn, usual = GRAPHS["knn_k6"], GraphConfig()
    data = with_data(stage, tmp_path, knn).config.data
    command = "run: python -m input_pipeline.prepare --dataset=folder .*"
    with pytest.raises(UserError, match=f"no data in .*; {command} --graph_kind=knn --graph_k=6$"):
        open_split(data, "train")
    (folder,) = prepare("folder", tmp_path, Options(SIZE, root=root, graph=knn))
    for graph in (usual, GRAPHS["adjacency"]):
        data = with_data(stage, tmp_path, graph).config.data
        said = f"{SIZE}px_knn_k6 has data with another graph; choose that graph, or {command}"
        with pytest.raises(UserError, match=f"{said}{flags_of(graph)}$"):
            open_split(data, "train")
    folder.parent.rename(folder.parents[1] / f"{SIZE}px")
    data = with_data(stage, tmp_path, usual).config.data
    with pytest.raises(UserError, match=rf"prepared with graph = .*'knn'.* and {command}"):
        open_split(data, "train")


def test_the_usual_graph_has_the_names_that_it_had(root, stage, tmp_path):
    """Older configurations, which lack the field, open its records and sample with it."""
    (folder,) = prepare("folder", tmp_path, Options(SIZE, root=root))
    assert folder.parent.name == f"{SIZE}px"
    stage = with_data(stage, tmp_path, GraphConfig())
    page = random_page(np.random.default_rng(1))

    def request(stage):
        pipeline = Pipeline(stage2=stage)
        return pipeline.request(pipeline.page(page), "a house").graph

    usual = request(stage)
    with stage.config.unlocked():
        del stage.config.data["graph"]
        older = with_later_fields({"config": stage.config.to_dict()})["config"]
        stage.config.data = ConfigDict(older["data"])
    assert len(open_split(stage.config.data, "train")) > 0
    jax.tree.map(np.testing.assert_array_equal, request(stage), usual)


def test_each_graph_has_a_name_of_its_own():
    graphs = [GraphConfig(), *GRAPHS.values(), GraphConfig("hybrid", radius=0.5)]
    names = {config_name("openmoji/recolor", Options(64, graph=graph)) for graph in graphs}
    assert len(names) == len(graphs) and "recolor_64px_x16" in names
    assert suffix_of(GraphConfig(radius=0.5)) == "_hybrid_r0.5"
    assert flags_of(GraphConfig()) == "" and flags_of(GraphConfig(k=2)) == " --graph_k=2"


def test_the_commands_take_the_graph(root, tmp_path):
    flags = ["--dataset=folder", f"--size={SIZE}", f"--data_dir={tmp_path}", "--graph_kind=knn"]
    done = run_here("input_pipeline.inspect", *flags)
    assert done.status == 1 and done.stderr.rstrip().endswith(" --graph_kind=knn")
    done = run_here("input_pipeline.prepare", *flags, f"--root={root}", "--graph_radius=0.1")
    assert done.status == 1 and "(--graph_radius) is 0.1, which has no effect" in done.stderr
    done = run_here("input_pipeline.prepare", *flags, f"--root={root}", "--workers=1")
    assert done.status == 0, done.stderr
    done = run_here("input_pipeline.inspect", *flags, "--examples=1")
    assert done.status == 0, done.stderr
    assert "Graph: knn (k = 3, radius = 0.25)." in done.stdout
    found = tmp_path / "inspect" / f"folder_{SIZE}px_knn" / "statistics.json"
    assert json.loads(found.read_text())["graph"] == {"kind": "knn", "k": 3, "radius": 0.25}
