"""`gpuspike-export`, `-import` and `-price`: what they write and say, and bad input refused in a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuspike as gs
from gpuspike.cli.exchange import export, import_
from gpuspike.cli.price import price
from gpuspike.cli.train import evaluate, train
from gpuspike.config.files import conf_folder
from gpuspike.store import checkpoint

COMMANDS: dict[str, Callable[[], object]] = {
    "export": export, "import": import_, "price": price, "evaluate": evaluate, "train": train,
}  # fmt: skip
SMALL = ["dataset.n_train=60", "dataset.n_validation=20", "dataset.n_test=20", "training.batch_size=20",
         "training.epochs=1", "backend=cpu"]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, and a screen wide enough for every line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path


def run(name: str, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"gpuspike-{name}", *arguments])
        COMMANDS[name]()


def refused(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> str:
    """The one line of a refusal."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(name, *arguments)
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"gpuspike-{name}: error: ")
    return told


def make(**change: Any) -> gs.Network:
    given: dict[str, Any] = {"bias_times": [[0.9], []], "seed": 1, "backend": "cpu"} | change
    return gs.Network([4, 8, 3], **given)


# ---- NIR


def test_a_network_goes_through_a_file_and_becomes_a_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nir", reason="needs the nir package")
    net = make()
    net.save("own net.npz")
    run("export", "own net.npz", "a b.nir", "time_unit=s", "model_unit=1e-5")
    told = capsys.readouterr().out
    assert "file     a b.nir" in told
    assert "silence each neuron after its first spike" in told
    run("import", "a b.nir", "back.npz", "time_unit=s", "model_unit=1e-5")
    assert "written  back.npz" in capsys.readouterr().out
    weights = net.parameters.weights
    assert all(
        np.array_equal(a, b) for a, b in zip(weights, gs.load("back.npz").parameters.weights, strict=True)
    )
    run("import", "a b.nir", "imported", "time_unit=s", "model_unit=1e-5", *SMALL)
    again = gs.load("imported")
    assert again.epoch == 0
    assert all(np.array_equal(a, b) for a, b in zip(weights, again.parameters.weights, strict=True))
    assert again.architecture.layers[0].bias_times == (pytest.approx(0.9),)
    run("evaluate", "run=imported", "prices=loihi", "backend=cpu")
    assert json.loads((here / "imported" / "evaluations" / "test_loihi.json").read_text())["epoch"] == 0
    run("train", "resume=imported")
    assert gs.load("imported").epoch == 1
    run("export", "imported", "trained.nir", "time_unit=ms", "dialect=hxtorch")
    assert "an output folder" not in capsys.readouterr().out
    assert "which holds a run" in refused(
        capsys, "import", "a b.nir", "imported", "time_unit=s", "model_unit=1e-5", *SMALL
    )


def test_a_network_of_more_layers_gets_their_limits(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nir", reason="needs the nir package")
    gs.export_nir(gs.Network([4, 6, 5, 3], backend="cpu", dtype="float32"), "deep.nir", time_unit="ms")
    run("import", "deep.nir", "deep", "time_unit=ms", *SMALL)
    assert checkpoint.load(Path("deep/checkpoint.npz"))[1]["config"]["training"]["max_silent"] is None
    recipe = gs.load("deep").recipe
    assert recipe is not None
    assert list(recipe.suited(gs.LIF()).make_bumping(3, 1).max_silent) == [0.3, 0.3, 0.05]
    assert gs.load("deep").dtype == np.float32
    assert "Network(4-6-5-3" in capsys.readouterr().out


def test_bad_input_of_the_nir_commands_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nir", reason="needs the nir package")
    make().save("net.npz")
    gs.export_nir(make(), "net.nir", time_unit="ms")
    mixed = make(neuron=[gs.LIF(), gs.LIF(tau_mem=2.0)])
    gs.export_nir(mixed, "mixed.nir", time_unit="ms")
    gs.export_nir(gs.Network([5, 8, 3], backend="cpu"), "five.nir", time_unit="ms")
    Path("text.nir").write_text("text")
    for name, arguments, message in (
        ("export", ["net.npz", "x.nir"], "time_unit must be given, s, ms, us, ns or a number of seconds"),
        ("export", ["net.npz"], "file must be given, gpuspike-export RUN FILE, got none"),
        (
            "export",
            ["net.npz", "x.nir", "y.nir"],
            "run and file are given as words, the rest as KEY=VALUE, got y.nir",
        ),
        (
            "export",
            ["net.npz", "x.nir", "time_unit=h"],
            "time_unit must be s, ms, us, ns or a number of seconds, got 'h'",
        ),
        ("export", ["net.npz", "x.nir", "time_unit=ms", "dialect=norse"], "dialect must be one of strict"),
        ("export", ["net.npz", "x.nir", "time_unit=ms", "dialct=strict"], "dialct"),
        ("export", ["none.npz", "x.nir", "time_unit=ms"], "got none.npz, which does not exist"),
        ("export", ["net.npz", "no/x.nir", "time_unit=ms"], "cannot write no/x.nir"),
        ("export", ["net.npz", "x.nir", "--time_unit=ms"], "values are given without dashes: time_unit=ms"),
        ("import", ["net.nir", "x.npz", "time_unit=s"], "net.nir was written with time_unit=ms, got s"),
        ("import", ["text.nir", "x.npz", "time_unit=s"], "text.nir is not a readable NIR file"),
        (
            "import",
            ["net.nir", "x.npz", "time_unit=ms", "experiment=yin_yang"],
            "values of gpuspike-train are for a run's folder",
        ),
        ("import", ["net.nir", "x", "time_unit=ms", "experment=yin_yang"], "experment"),
        ("import", ["mixed.nir", "x", "time_unit=ms", *SMALL], "write it to an .npz file instead"),
        (
            "import",
            ["net.nir", "x", "time_unit=ms", "replicas=2", *SMALL],
            "replicas must be 1, a file has one network, got 2",
        ),
        (
            "import",
            ["five.nir", "x", "time_unit=ms", *SMALL],
            "the network must have 4 inputs and 3 outputs, for yin_yang, got 5-8-3",
        ),
        ("import", ["net.nir", "x.npz", "time_unit=ms", "bias_times={input:[0.1]}"], "bias_times"),
    ):
        assert message in refused(capsys, name, *arguments), arguments
    assert not Path("x").exists()
    assert not Path("x.npz").exists()


def test_an_import_writes_over_networks_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nir", reason="needs the nir package")
    gs.export_nir(make(), "net.nir", time_unit="ms")
    np.savez("data.npz", train_times=np.ones((2, 3)))
    gs.Network([4, 8, 3], backend="cpu").on(gs.Chip(gain_std=0.1)).chip.save("chip.npz")  # type: ignore[union-attr]
    Path("text.npz").write_text("text")
    trained = gs.Network([4, 8, 3], backend="cpu")
    gs.fit(trained, np.ones((4, 4)), [0, 1, 2, 0], epochs=1)
    trained.save("trained.npz")
    for name in ("data.npz", "chip.npz", "text.npz", "trained.npz"):
        before = Path(name).read_bytes()
        told = refused(capsys, "import", "net.nir", name, "time_unit=ms")
        assert (
            f"{name} is there already and is no untrained network's file: it would be lost; take another name"
            in told
        )
        assert Path(name).read_bytes() == before
    Path("own.npz").touch()
    for _ in range(2):
        run("import", "net.nir", "own.npz", "time_unit=ms")
    assert gs.load("own.npz").sizes == (4, 8, 3)


def test_values_that_the_file_of_a_network_has_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nir", reason="needs the nir package")
    gs.export_nir(make(), "net.nir", time_unit="ms")
    given = ["net.nir", "x", "time_unit=ms", *SMALL, "model.threshold=3", "model.hidden=[7]"]
    told = refused(capsys, "import", *given)
    assert "the network's file says model.hidden=[8] itself, got [7]" in told
    assert "the network's file says model.threshold=1.0 itself, got 3.0" in told
    assert not Path("x").exists()
    run("import", "net.nir", "x", "time_unit=ms", *SMALL, "model.threshold=1", "model.hidden=[8]")


def test_what_an_import_does_not_read_is_noted_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nir", reason="needs the nir package")
    gs.export_nir(make(), "net.nir", time_unit="ms")
    given = ["net.nir", "x", "time_unit=ms", *SMALL]
    run("import", *given, "model=mnist", "training.waking=2", "model.delay_scale=2", "seed=1", "seed=2")
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note ")]
    rest = "alone: the network's file says the rest"
    assert f"note     model=mnist is read for model.input_repeats=1 and model.frozen=false {rest}" in told
    assert "note     training.waking is read with training.silence=waking, got bumping" in told
    assert "note     model.delay_scale=2.0 is of delays, and model.delays=none has none" in told
    given[1] = "y"
    run("import", *given)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("note ")] == [
        "note     its neurons speak once, whatever the file says of a reset"
    ]
    given[1] = "z"
    told = refused(capsys, "import", *given, "start=x", "hydra.run.dir=elsewhere")
    assert "start is of a run that begins with other networks than the file's, got start=x" in told
    assert (
        "the run's folder is given as a word, after the network's file, got hydra.run.dir=elsewhere" in told
    )
    assert "resume is of a run that begins with other" in refused(capsys, "import", *given, "resume=x")
    assert not Path("z").exists()


def test_help_and_configurations_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("export", "import", "price"):
        run(name, "--help")
        assert capsys.readouterr().out.startswith(f"gpuspike-{name} ")
    run("price", "x.npz", "--cfg", "job")
    assert "spikes: x.npz" in capsys.readouterr().out


# ---- prices


def recording(**change: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arrays = {f"spikes_{k}": rng.random((20, 6, n)) < 0.2 for k, n in enumerate((8, 5, 3))}
    return arrays | {"labels": np.arange(6) % 3} | change


def test_spikes_of_a_file_are_priced(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = recording(weights_0=np.eye(8, 5), targets_1=np.full(5, 2))
    np.savez("spikes.npz", **arrays)
    run("price", "spikes.npz", "tau_syn=5", "prices=loihi,brainscales2", "answer=cost.json")
    told = capsys.readouterr().out
    assert "One classification by spikes.npz on a chip" in told
    assert "Loihi" in told
    assert "spikes a sample: input" in told
    answer = json.loads((here / "cost.json").read_text())
    spikes = [arrays[f"spikes_{k}"] for k in range(3)]
    expected = gs.price_spikes(
        spikes, [arrays["weights_0"], arrays["targets_1"]], "loihi", labels=arrays["labels"], tau_syn=5
    )
    assert answer["chips"]["loihi"]["energy_per_classification_J"] == expected.energy_per_classification_J
    assert answer["neurobench"] == expected.neurobench
    run("price", "spikes.npz", "prices=brainscales2")
    assert "tau_syn, in time steps, would tell it" in capsys.readouterr().out
    run("price", "-m", "spikes.npz", "prices=loihi", "decision=count,first")
    assert capsys.readouterr().out.count("One classification") == 2


def test_an_answer_writes_over_nothing_but_json(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("spikes.npz", **recording())
    Path("notes.txt").write_text("mine")
    Path("other.json").write_text('{"spikes": 3}')
    for name, words in (
        ("./spikes.npz", "answer must be another file than what is read, got spikes.npz"),
        ("notes.txt", "notes.txt is there already, and no answer of gpuspike-price: it would be lost"),
        ("other.json", "other.json is there already, and no answer of gpuspike-price: it would be lost"),
    ):
        before = Path(name).read_bytes()
        assert words in refused(capsys, "price", "spikes.npz", "prices=loihi", f"answer={name}")
        assert Path(name).read_bytes() == before
    for _ in range(2):
        run("price", "spikes.npz", "prices=loihi", "answer=cost.json")
    assert json.loads(Path("cost.json").read_text())["spikes"] == "spikes.npz"
    own = (conf_folder() / "prices" / "loihi.yaml").read_text()
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, "mine.yaml").write_text(own.replace("name: Loihi", f"name: {name}"))
    run("price", "spikes.npz", "prices=a/mine.yaml,b/mine.yaml,loihi", "answer=cost.json")
    answer = json.loads(Path("cost.json").read_text())
    assert list(answer["chips"]) == list(answer["anytime"]) == ["a/mine.yaml", "b/mine.yaml", "loihi"]
    assert [chip["name"] for chip in answer["chips"].values()] == ["a", "b", "Loihi"]
    assert "answer must be another file" in refused(
        capsys, "price", "spikes.npz", "prices=a/mine.yaml", "answer=a/mine.yaml"
    )


def test_lists_of_events_and_all_chips(capsys: pytest.CaptureFixture[str]) -> None:
    events = {}
    for k, n in enumerate((4, 2)):
        events |= {f"sample_{k}": [0, 1], f"neuron_{k}": [1, 0], f"time_{k}": [0.5, 7.0], f"n_neurons_{k}": n}
    np.savez("events.npz", **{name: np.asarray(value) for name, value in events.items()})
    run("price", "events.npz", "duration=10", "n_samples=2", "tau_syn=2")
    told = capsys.readouterr().out
    assert "BrainScaleS-2" in told
    assert "digital, 45 nm" in told
    assert " - " in told  # no labels, no accuracy


def test_a_nir_file_says_who_is_connected(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nir", reason="needs the nir package")
    gs.export_nir(gs.Network([8, 5, 3], backend="cpu"), "net.nir", time_unit="ms")
    arrays = recording()
    names = ("input", "lif_0", "lif_1")
    np.savez("named.npz", **{f"spikes_{name}": arrays[f"spikes_{k}"] for k, name in enumerate(names)})
    run("price", "named.npz", "synapses=net.nir", "prices=loihi")
    assert "Loihi" in capsys.readouterr().out
    np.savez("both.npz", **arrays, weights_0=np.ones((8, 5)))
    assert "must not have weights or targets beside a NIR file" in refused(
        capsys, "price", "both.npz", "synapses=net.nir"
    )


def test_bad_input_of_the_price_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("good.npz", **recording())
    np.save("single.npz.npy", np.ones(3))
    Path("single.npz.npy").rename("single.npz")
    Path("text.npz").write_text("text")
    np.savez("other.npz", **recording(images=np.ones(3)))
    np.savez("foreign.npz", images=np.ones(3), y=np.ones(3))
    np.savez("gap.npz", **{k: v for k, v in recording().items() if k != "spikes_1"})
    np.savez("some.npz", **recording(weights_0=np.ones((8, 5))))
    np.savez("twice.npz", **recording(time_0=np.ones(3)))
    np.savez("half.npz", **recording(spikes_2=np.full((20, 6, 3), 0.5)))
    for arguments, message in (
        ([], "spikes must be given, gpuspike-price SPIKES, got none"),
        (["none.npz"], "no file at none.npz"),
        (["text.npz"], "text.npz is not a readable .npz file"),
        (["single.npz"], "it holds a single array"),
        (["other.npz"], "arrays are spikes_0, weights_0 and so on, and labels, got images"),
        (["foreign.npz"], "got images, y; spikes_0 and spikes_1, at least, must be there"),
        (["foreign.npz", "synapses=x.nir"], "got images, y; spikes_NODE of each node must be there"),
        (["gap.npz"], "spikes must be those of populations 0, 1, 2 and so on, got 0, 2"),
        (["some.npz"], "must have weights or targets of all of 0, 1, got 0"),
        (["twice.npz"], "spikes_0 must be alone, got spikes, time"),
        (["half.npz"], "spikes[2] must hold numbers of spikes, whole and 0 or more, got 0.5"),
        (["good.npz", "prices=[]"], "prices must name at least one chip, got none"),
        (["good.npz", "prices=lohi"], "lohi"),
        (["good.npz", "decision=last"], "decision"),
        (["good.npz", "tau_syn=-1"], "tau_syn must be a positive number of time steps"),
        (["good.npz", "answer=no/x.json", "prices=loihi"], "cannot write no/x.json: its folder must exist"),
        (["gone.npz", "answer=no/x.json"], "cannot write no/x.json: its folder must exist"),
        (["gone.npz", "answer=."], "answer must be a file, got the folder ."),
    ):
        assert message in refused(capsys, "price", *arguments), arguments
