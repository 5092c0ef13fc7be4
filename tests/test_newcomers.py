"""Mistakes of a first hour at the command line: told with what was meant, by the key that one types."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuspike.cli.tune import read as read_search
from gpuspike.config.evaluate import evaluations
from gpuspike.config.need import question
from gpuspike.config.schema import jobs, read_config, read_substrate
from gpuspike.errors import ConfigError, GpuspikeError
from gpuspike.runs.values import check_values


def refusal(*given: str, multirun: bool = False) -> str:
    """The line with which gpuspike-train refuses a command line."""
    with pytest.raises(GpuspikeError) as caught:
        jobs(given, multirun, check_values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("training.epochs=|3", "training.epochs=3"),
        ("training.epochs|=|3", "training.epochs=3"),
        ("training.epochs|=3", "training.epochs=3"),
        ("training.epochs|3", "training.epochs=3"),
        ("training.epochs = 3", "training.epochs=3"),
        ("model.hidden=[10,|20]", "model.hidden=[10,20]"),
    ],
)
def test_a_space_too_many_is_told(given: str, meant: str) -> None:
    arguments = given.split("|")
    words = f"values are given as KEY=VALUE, without spaces, got {' '.join(arguments)}; did you mean {meant}?"
    assert refusal(*arguments) == words
    assert refusal(*arguments, "seed=-1") == f"2 mistakes: (1) {words}; (2) seed must be at least 0, got -1"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("model.hidden=7", "model.hidden must be a list of integers, got 7; did you mean model.hidden=[7]?"),
        ("model.hidden=abc", "model.hidden must be a list of integers, got abc"),
        ("model.hidden=7.5", "model.hidden must be a list of integers, got 7.5"),
        (
            "model.trained=threshold",
            "model.trained must be a list of texts, got threshold; did you mean model.trained=[threshold]?",
        ),
        (
            "substrate.weight_max=abc",
            "substrate.weight_max must be a number or a list of numbers, got 'abc'",
        ),
        (
            "substrate.weight_max=null",
            "substrate.weight_max must be a number or a list of numbers, got nothing",
        ),
        (
            "substrate.weight_max=1,2",
            "substrate.weight_max must be one value, got 1,2; did you mean substrate.weight_max=[1,2]?",
        ),
    ],
)
def test_a_list_is_suggested_of_what_it_takes(given: str, words: str) -> None:
    assert refusal(given) == words


def test_one_largest_weight_is_that_of_all_layers(tmp_path: Path) -> None:
    for given, values in (("2", [2.0]), ("[2]", [2.0]), ("[1,2.5]", [1.0, 2.5]), ("[]", [])):
        (job,) = jobs([f"substrate.weight_max={given}"], multirun=False)
        assert job.config.substrate.weight_max == values
        assert all(type(value) is float for value in values)
    own = tmp_path / "substrate" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("name: mine\nprices: loihi\nweight_max: 2\n")
    (job,) = jobs([f"hydra.searchpath=[file://{tmp_path}]", "substrate=mine"], multirun=False)
    assert job.config.substrate.weight_max == read_substrate(own).weight_max == [2.0]


def test_an_empty_value_before_another_pair_is_one() -> None:
    assert refusal("seed=", "replicas=2") == "seed must be an integer, got nothing"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("model.hidden=[10", "model.hidden must have a ] for each [, got model.hidden=[10"),
        ("name='a", "name must have its quotes in pairs, got name='a"),
        ("training..epochs=3", "a key as GROUP.NAME, got training..epochs=3"),
        ("resume=a=b", "resume must be plain text, a number or a list, other characters in quotes twice"),
        ("model.hidden=10,20", "did you mean model.hidden=[10,20]?"),
        ("seed=1,2", "seed must be one value, got 1,2; -m seed=1,2 is a sweep"),
        (
            "hydra.launcher=foo",
            "hydra.launcher is a group, given as hydra/launcher=foo, got hydra.launcher=foo",
        ),
    ],
)
def test_what_no_parser_can_read_is_told_in_words(given: str, words: str) -> None:
    message = refusal(given)
    assert words in message
    assert "Exception" not in message


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("experimnt=mnist", "experiment=mnist"),
        ("optimizr=sgd", "optimizer=sgd"),
        ("optimiser=sgd", "optimizer=sgd"),
        ("datset=mnist", "dataset=mnist"),
        ("datset=", "dataset=NAME"),
        ("trainig.epochs=3", "training.epochs"),
        ("sed=3", "seed"),
        ("optimizer.lr=3", "optimizer.learning_rate"),
    ],
)
def test_a_group_or_key_that_is_nearly_one_is_suggested(given: str, meant: str) -> None:
    assert refusal(given).endswith(f"; did you mean {meant}?")


@pytest.mark.parametrize(
    "given",
    [
        "dataset.name=abc",
        "dataset.t_late=-1",
        "dataset.full_scale=3",
        "model.hidden=[0]",
        "model.hidden=[10,10]",
        "model.weight_std=[[1],[1]]",
        "model.tau_mem=-1",
        "model.tau_syn=0",
        "model.threshold=-1",
        "model.leak=1e30",
        "model.capacitance=nan",
        "model.trained=[abc]",
        "model.trained=[threshold,threshold]",
        "model.trained=[[1]]",
        "model.delays=abc",
        "model.delays=axonal+axonal",
        "model.delay_shift=-1",
        "model.delay_scale=0",
        "model.delay_form=abc",
        "model.delay_spread=nan",
        "optimizer.name=abc",
        "optimizer.learning_rate=-1",
        "optimizer.schedule=abc",
        "optimizer.step_size=0",
        "optimizer.gamma=2",
        "optimizer.beta1=1",
        "optimizer.epsilon=0",
        "training.loss=abc",
        "training.xi=0",
        "training.alpha=-1",
        "training.bump_value=-1",
        "training.max_silent=[2,0]",
        "training.max_weight_grad=-1",
        "training.input_noise=-1",
        "substrate.prices=abc",
        "substrate.weight_bits=1",
    ],
)
def test_a_value_that_cannot_be_is_told_by_its_whole_key(given: str) -> None:
    key = given.partition("=")[0]
    message = refusal(given)
    assert key in message
    assert "mistakes" not in message


def test_mistakes_of_all_kinds_are_told_together() -> None:
    message = refusal(
        "training.epochs=x", "lr=3", "optimizer.learning_rate=-1", "model.tau_mem=-3", "replicas=0"
    )
    assert message.startswith("5 mistakes: ")
    for words in ("training.epochs must be an integer, got x", "no key lr", "replicas must be at least 1"):
        assert words in message
    for key in ("model.tau_mem", "optimizer.learning_rate"):
        assert f"{key} must be positive" in message


@pytest.mark.parametrize(
    "given",
    [
        ("model.hidden=[a]", "training.max_silent=[0.1,0.1,0.1]"),
        ("experimnt=mnist", "training.batch_size=20000"),
        ("datset=mnist", "dataset.t_early=3"),
    ],
)
def test_what_may_be_right_once_the_mistake_is_mended_is_no_mistake(given: tuple[str, ...]) -> None:
    assert "mistakes" not in refusal(*given)


def test_no_epochs_are_one_mistake() -> None:
    assert refusal("training.epochs=0") == "training.epochs must be at least 1, got 0"


def test_an_experiment_by_its_file_is_the_experiment() -> None:
    (plain,), (by_file,) = (jobs([f"experiment={name}"], False) for name in ("yin_yang", "yin_yang.yaml"))
    assert by_file.experiment == plain.experiment == "yin_yang"
    assert by_file.config == plain.config
    assert by_file.folder.parent == plain.folder.parent


def test_a_key_is_wrong_once() -> None:
    assert refusal("model.tau_syn=-1").count("must") == 1
    assert "mistakes" not in refusal("replicas=0")


def test_a_file_in_the_place_of_a_run_s_folder(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0")
    page = tmp_path / "report.html"
    page.write_text("")
    with pytest.raises(ConfigError, match=rf"which is a file; did you mean its folder, {tmp_path}\?"):
        read_config(page / "config.yaml")
    with pytest.raises(ConfigError, match=r"no run at nowhere, which does not exist$"):
        read_config(Path("nowhere/config.yaml"))


def test_questions_without_their_value() -> None:
    with pytest.raises(
        ConfigError, match=r"^accuracy must be given, a share: accuracy=0.95 for example, got"
    ):
        question(["distortion=weight_bits"])
    with pytest.raises(ConfigError, match=r"^chips must be 1 or more, or left out .*, got 0$"):
        evaluations(["run=x", "chips=0"], multirun=False)
    with pytest.raises(ConfigError, match=r"^2 mistakes: \(1\) run must be .*; \(2\) chip_seed must be"):
        evaluations(["chip_seed=-1"], multirun=False)
    assert evaluations(["run=x"], multirun=False)[0].chips == 0


SWEEP = """# @package _global_
defaults: [yin_yang, _self_]
hydra:
  mode: MULTIRUN
  sweeper:
    params: {seed: "0,1"}
"""


@pytest.mark.parametrize("mode", ["  mode: MULTIRUN\n", ""])
@pytest.mark.parametrize(
    ("given", "seeds"),
    [((), [0, 1]), (("replicas=1,2",), [0, 1, 0, 1]), (("seed=5",), [5]), (("seed=5,6,7",), [5, 6, 7])],
)
def test_an_experiment_that_sweeps_counts_with_m_too(
    tmp_path: Path, mode: str, given: tuple[str, ...], seeds: list[int]
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "both.yaml").write_text(SWEEP.replace("  mode: MULTIRUN\n", mode))
    asked = jobs([f"hydra.searchpath=[file://{tmp_path}]", "experiment=both", *given], multirun=True)
    assert [job.config.seed for job in asked] == seeds


def test_files_and_searches_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match=r"describes no chip: name must be given, got none$"):
        read_substrate(tmp_path / "empty.yaml")
    assert refusal(f"substrate.prices={tmp_path / 'list.yaml'}").startswith("prices list: must be a mapping")
    with pytest.raises(ConfigError, match=r"^tune\.trials must be an integer, got a$"):
        read_search(["tune.trials=a"])
    with pytest.raises(
        ConfigError, match=r"^cannot use tune=yin_yang: there is no key trial; .*mean tune\.trials\?$"
    ):
        read_search(["tune.trial=1"])
