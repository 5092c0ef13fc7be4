"""The configuration: what is shipped composes, what is mistaken is refused in one line that helps."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from gpuspike.cli.train import folders_of, refuse_dashes, searching
from gpuspike.cli.tune import read
from gpuspike.config.evaluate import evaluations
from gpuspike.config.files import latest_within
from gpuspike.config.fitting import chip_label
from gpuspike.config.schema import Config, Job, conf_folder, jobs, read_config, read_substrate, to_yaml
from gpuspike.datasets import Dataset, Split, images, samples
from gpuspike.datasets.files import Source
from gpuspike.errors import ConfigError, GpuspikeError, ValueRangeError
from gpuspike.runs.encoding import inputs_of_value
from gpuspike.runs.experiment import build
from gpuspike.runs.tune import check, corners
from gpuspike.training.losses import TimeMSE, TTFSCrossEntropy
from gpuspike.training.optimizers import OPTIMIZERS, SGD, Adam

EXPERIMENTS = sorted(file.stem for file in (conf_folder() / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    f"{file.parent.name}={file.stem}"
    for file in conf_folder().glob("*/*.yaml")
    if file.parent.name not in ("experiment", "prices", "published", "evaluate", "exchange", "need", "tune")
    and file.stem != "npz"
)
SPLITS = ("train", "validation", "test")
SEARCHES = sorted(file.stem for file in (conf_folder() / "tune").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _images_without_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Image data sets of a single black image, so that every experiment can be built without data."""

    def load(source: Source, size: int, *_: int) -> Dataset:
        split = Split(np.zeros((1, size * size), np.uint8), np.zeros(1, np.int64))
        return Dataset(source.name, split, split, split, source.class_names, (size, size))

    monkeypatch.setattr(images, "load_images", load)
    samples._kept.cache_clear()
    yield
    samples._kept.cache_clear()


def one(*overrides: str) -> Config:
    """The configuration of a single run."""
    (job,) = jobs(overrides, multirun=False)
    return job.config


def several(*overrides: str) -> list[Job]:
    """The jobs of a sweep."""
    return jobs(overrides, multirun=True)


def refusal(*overrides: str, multirun: bool = False) -> str:
    """The one line with which a command line is refused."""
    with pytest.raises(ConfigError) as caught:
        jobs(overrides, multirun=multirun)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert "\t" not in message
    return message


def test_the_shipped_groups_are_those_that_users_know() -> None:
    groups = {option.split("=")[0] for option in OPTIONS}
    assert groups >= {"dataset", "model", "optimizer", "training", "substrate"}
    assert "yin_yang" in EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_builds(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **{f"{s}_values": np.ones((50, 3)) for s in SPLITS},
             **{f"{s}_labels": np.arange(50) % 2 for s in SPLITS})  # fmt: skip
    own = [f"dataset.path={tmp_path / 'own.npz'}"] if name == "own" else []
    (job,) = jobs([f"experiment={name}", "backend=cpu", *own], multirun=False)
    assert job.experiment == name
    parts = build(job.config)
    assert parts.seeds == [0]
    assert parts.network.layers[0].n_in == parts.dataset.n_features * inputs_of_value(job.config)
    assert parts.network.layers[-1].n_out == len(parts.dataset.class_names)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("replicas=1000000000", ["replicas", "100000"]),
        ("model.hidden=[4000000000000]", ["model.hidden", "1000000"]),
        ("seed=range(1000000000)", ["10000 jobs"]),
    ],
)
def test_numbers_that_would_fill_the_memory_are_refused_at_once(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        jobs([override], multirun=override.startswith("seed"))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_is_one_and_its_corners_build(name: str) -> None:
    search, _ = read([f"tune={name}"])
    check(search)
    for corner in corners(search):
        (job,) = jobs([*search.overrides, "backend=cpu", *corner], multirun=False)
        build(job.config)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_composes_and_builds(option: str) -> None:
    few = ["model.hidden=[60]"] if option == "substrate=dynapse" else []  # which has no room for more
    build(one(option, "backend=cpu", *few))


def test_the_defaults_are_the_paper_s_yin_yang_numbers() -> None:
    config = one()
    data, model, training, optimizer = config.dataset, config.model, config.training, config.optimizer
    assert (data.name, data.n_train, data.n_validation, data.n_test) == ("yin_yang", 5000, 1000, 1000)
    assert (data.t_early, data.t_late) == (0.15, 2.0)

    assert model.hidden == [120]
    assert model.bias_times == [[0.9], [0.9]]
    assert model.weight_mean == [1.5, 0.5]
    assert model.weight_std == [0.8, 0.8]
    assert (model.tau_mem, model.tau_syn, model.threshold, model.leak) == (1.0, 1.0, 1.0, 0.0)
    assert model.capacitance / model.tau_mem == 1.0  # leak conductance

    assert (training.epochs, training.batch_size) == (300, 150)
    assert training.loss == "ttfs_cross_entropy"
    assert (training.xi, training.alpha, training.beta) == (0.2, 0.005, 1.0)
    assert training.max_silent == [0.3, 0.0]
    assert training.bump_value == 0.0005
    assert training.bump_exponential
    assert training.bump_targeted
    assert training.bump_replaces_step
    assert training.max_weight_grad == 0.2
    assert training.input_noise == 0.0

    assert optimizer.name == "adam"
    assert optimizer.learning_rate == 0.005
    assert (optimizer.schedule.value, optimizer.step_size, optimizer.gamma) == ("step", 20, 0.95)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.9, 0.999, 1e-8)

    assert config.substrate.name == "ideal"
    assert (config.seed, config.replicas, config.backend.value, config.dtype.value) == (
        0,
        1,
        "auto",
        "float64",
    )


def test_the_default_network_has_the_paper_s_layers() -> None:
    parts = build(one("backend=cpu"))
    assert [(layer.n_in, layer.n_out, layer.bias_times) for layer in parts.network.layers] == [
        (4, 120, (0.9,)),
        (120, 3, (0.9,)),
    ]
    assert parts.loss == TTFSCrossEntropy(tau_syn=1.0, xi=0.2, alpha=0.005, beta=1.0)
    assert [parts.recipe.make_schedule().at(epoch) for epoch in (0, 19, 20)] == [0.005, 0.005, 0.005 * 0.95]


@pytest.mark.parametrize(
    ("name", "sizes", "means", "stds", "batch", "epochs", "rate", "steps", "silent"),
    [
        ("mnist", (784, 350, 10), [0.05, 0.15], [0.8, 0.8], 80, 150, 0.005, 15, [0.15, 0.05]),
        ("mnist16_small", (256, 128, 10), [0.1, 0.6], [0.4, 0.8], 50, 200, 0.003, 10, [0.5, 0.5]),
        ("mnist16", (256, 246, 10), [0.1, 0.6], [0.4, 0.8], 50, 200, 0.003, 10, [0.5, 0.5]),
    ],
)
def test_the_experiments_on_mnist_have_the_paper_s_numbers(
    name: str,
    sizes: tuple[int, ...],
    means: list[float],
    stds: list[float],
    batch: int,
    epochs: int,
    rate: float,
    steps: int,
    silent: list[float],
) -> None:
    config = one(f"experiment={name}", "backend=cpu")
    data, model, training, optimizer = config.dataset, config.model, config.training, config.optimizer
    small = name != "mnist"
    assert (data.name, data.n_train, data.n_validation, data.n_test) == ("mnist", 50000, 10000, 10000)
    assert (data.t_early, data.t_late) == (0.15, 2.0)
    assert (data.image_size, data.full_scale, data.silent_black) == (
        (16, 255.0, True) if small else (28, 256.0, False)
    )
    assert (model.hidden, model.bias_times) == ([sizes[1]], [[], []])
    assert (model.weight_mean, model.weight_std) == (means, stds)
    assert (model.tau_mem, model.tau_syn, model.threshold, model.leak) == (1.0, 1.0, 1.0, 0.0)
    assert (training.epochs, training.batch_size) == (epochs, batch)
    assert (training.xi, training.alpha, training.beta) == (0.2, 0.005, 1.0)
    assert (training.max_silent, training.bump_value) == (silent, 0.0005)
    assert training.bump_exponential
    assert training.bump_targeted
    assert training.bump_replaces_step
    assert (training.max_weight_grad, training.input_noise) == (0.2, 0.3)
    assert (optimizer.name, optimizer.learning_rate) == ("adam", rate)
    assert (optimizer.schedule.value, optimizer.step_size, optimizer.gamma) == ("step", steps, 0.9)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.9, 0.999, 1e-8)
    assert config.dtype.value == "float32"
    assert [(layer.n_in, layer.n_out) for layer in build(config).network.layers] == [sizes[:2], sizes[1:]]


def test_the_deep_and_the_fashion_experiment_share_the_rule_of_mnist() -> None:
    shallow, deep, fashion = (one(f"experiment={name}") for name in ("mnist", "mnist_deep", "fashion_mnist"))
    assert deep.model.hidden == [400, 400, 400, 400]
    assert deep.dataset == shallow.dataset
    assert deep.optimizer == shallow.optimizer
    assert fashion.dataset.name == "fashion_mnist"
    assert (fashion.model, fashion.training, fashion.optimizer) == (
        shallow.model,
        shallow.training,
        shallow.optimizer,
    )


def test_values_reach_the_parts_that_they_name() -> None:
    parts = build(
        one(
            "backend=reference",
            "optimizer=sgd",
            "optimizer.momentum=0.5",
            "training.loss=time_mse",
            "training.t_correct=0.7",
            "training.t_wrong=1.7",
            "model.tau_syn=2",
            "model.tau_mem=inf",
            "training.input_noise=0.1",
            "training.batch_size=20",
            "training.max_weight_grad=inf",
            "seed=7",
            "replicas=3",
        )
    )
    assert parts.backend.name == "reference"
    assert parts.loss == TimeMSE(tau_syn=2.0, t_correct=0.7, t_wrong=1.7)
    assert parts.seeds == [7, 8, 9]
    neuron = parts.network.layers[0].neuron
    assert (neuron.tau_syn, neuron.tau_mem) == (2.0, math.inf)
    assert parts.rule.input_noise == pytest.approx(0.2), "the option is in units of tau_syn"
    assert parts.rule.batch_size == 20
    assert parts.rule.max_weight_grad == math.inf
    assert parts.recipe.optimizer == SGD(momentum=0.5)
    assert build(one("backend=cpu")).recipe.optimizer == Adam()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "training.epoch=3",
            ["there is no key training.epoch;", "did you mean training.epochs?", "batch_size", "input_noise"],
        ),
        ("datast.n_train=3", ["datast", "dataset", "model", "optimizer", "replicas"]),
        ("sed=3", ["sed", "seed", "replicas", "backend", "dtype"]),
        ("model.tau=3", ["tau", "tau_mem", "tau_syn", "threshold"]),
        ("optimizer.lr=3", ["lr", "learning_rate", "momentum"]),
        ("substrate.nme=ideal", ["nme", "name"]),
    ],
)
def test_a_typo_in_a_key_is_refused_with_the_valid_keys(override: str, words: list[str]) -> None:
    message = refusal(override)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "override",
    ["+foo=1", "++foo=1", "+training.foo=1", "++training.foo=1", "+model.tau_memm=2", "++optimizer.lr=0.1"],
)
def test_a_key_that_nobody_reads_cannot_be_added(override: str) -> None:
    message = refusal(override)
    assert override.lstrip("+").split("=")[0].split(".")[-1] in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer=adm", ["adm", "adam", "sgd"]),
        ("experiment=yinyang", ["yinyang", "yin_yang"]),
        ("dataset=cifar", ["cifar", "yin_yang"]),
        ("substrate=brain", ["brain", "ideal"]),
        ("backend=gpu", ["gpu", "auto", "cuda", "cpu", "reference"]),
        ("dtype=float16", ["float16", "float32", "float64"]),
        ("optimizer.name=adma", ["adma", "adam", "sgd", "did you mean adam"]),
        ("optimizer.schedule=linear", ["linear", "constant", "step", "cosine"]),
        ("training.loss=mse", ["mse", "ttfs_cross_entropy", "time_mse"]),
        ("optimiser=sgd", ["optimiser"]),
    ],
)
def test_an_unknown_choice_is_refused_with_the_choices(override: str, words: list[str]) -> None:
    message = refusal(override)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epochs=many", ["training.epochs", "many", "an integer"]),
        ("training.epochs=1.5", ["training.epochs", "1.5", "an integer"]),
        ("replicas=true", ["replicas", "true", "an integer"]),
        ("seed=", ["seed must be an integer, got nothing"]),
        ("seed=null", ["seed"]),
        ("optimizer.learning_rate=fast", ["optimizer.learning_rate", "fast", "a number"]),
        ("training.bump_exponential=2.5", ["training.bump_exponential", "2.5", "true or false"]),
        (
            "dataset.t_late=10us",
            ["dataset.t_late must be a number, got 10us; times are plain numbers, of tau"],
        ),
        ("model.tau_syn=10us", ["model.tau_syn must be a number, got 10us"]),
        (f"training.xi={10**400}", ["training.xi must be a number below 1.8e308, got 1000"]),
        ("model.hidden=120", ["hidden", "120"]),
        ("model.hidden=[a]", ["model.hidden must be a list of integers, got [a]"]),
        ("model.bias_times=[0.9,0.9]", ["bias_times", "0.9"]),
        ("model=3", ["3"]),
    ],
)
def test_a_wrong_type_is_refused_with_what_was_expected_and_got(override: str, words: list[str]) -> None:
    message = refusal(override)
    assert all(word in message for word in words), message


def test_a_bias_time_that_no_float_holds_is_told_to_be_infinite() -> None:
    (job,) = jobs([f"model.bias_times=[[{10**400}],[1]]"], multirun=False)
    assert job.config.model.bias_times == [[math.inf], [1.0]]


@pytest.mark.parametrize(
    "override",
    ["seed", "seed=[1", "=3", "seed=0 1 2", "seed=0,1", "-seed=3", "~training.epochs", "~optimizer"],
)
def test_a_command_line_that_cannot_be_read_is_refused_in_one_line(override: str) -> None:
    refusal(override)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["replicas=0"], ["replicas", "at least 1", "got 0"]),
        (["seed=-1"], ["seed", "at least 0", "got -1"]),
        ([f"seed={2**63}"], ["seed", str(2**63)]),
        (["training.epochs=0"], ["training.epochs", "at least 1", "got 0"]),
        (["training.batch_size=0"], ["training.batch_size", "at least 1", "got 0"]),
        (["training.batch_size=5001"], ["training.batch_size", "5000", "5001"]),
        (["training.evaluation_batch_size=0"], ["training.evaluation_batch_size", "at least 1", "got 0"]),
        (["dataset.n_train=0"], ["dataset.n_train", "at least 1", "got 0"]),
        (["dataset.n_validation=0"], ["dataset.n_validation", "at least 1", "got 0"]),
        (["dataset.n_test=-3"], ["dataset.n_test", "at least 1", "got -3"]),
        (["model.hidden=[]"], ["model.bias_times", "1 layers", "got 2"]),
        (["model.hidden=[120,60]"], ["model.bias_times", "3 layers", "got 2"]),
        (["model.weight_mean=[1,2,3]"], ["model.weight_mean", "2 layers", "got 3"]),
        (["model.weight_std=[1,1,1]"], ["model.weight_std", "2 layers", "got 3"]),
        (["training.max_silent=[0.3,0,0]"], ["training.max_silent", "2 layers", "got 3"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
def test_a_value_out_of_range_is_refused_with_what_was_expected_and_got(
    overrides: list[str], words: list[str]
) -> None:
    message = refusal(*overrides)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("model.tau_syn=0", "tau_syn"),
        ("model.tau_syn=inf", "tau_syn"),
        ("model.tau_mem=-1", "tau_mem"),
        ("model.tau_mem=nan", "tau_mem"),
        ("model.threshold=0", "threshold"),
        ("model.leak=1", "threshold"),
        ("model.capacitance=0", "capacitance"),
        ("model.weight_mean=[nan,0]", "weight_mean"),
        ("model.weight_std=[-1,0]", "weight_std"),
        ("model.weight_std=[inf,0]", "weight_std"),
        ("model.bias_times=[[inf],[]]", "bias_times"),
        ("model.bias_times=[[0.9],[-0.1]]", "0 or later, when a trial begins, got"),
        ("dataset.t_early=2.0", "t_early"),
        ("dataset.t_late=inf", "t_late"),
        ("dataset.full_scale=254", "full_scale"),
        ("dataset.full_scale=inf", "full_scale"),
        ("optimizer.learning_rate=0", "learning_rate"),
        ("optimizer.gamma=0", "gamma"),
        ("optimizer.step_size=0", "step_size"),
        ("optimizer.beta1=1", "beta1"),
        ("optimizer.beta2=-0.1", "beta2"),
        ("optimizer.epsilon=0", "epsilon"),
        ("optimizer={name: sgd, momentum: 1.0, learning_rate: 0.1, schedule: constant}", "momentum"),
        ("training.xi=0", "xi"),
        ("training.alpha=-1", "alpha"),
        ("training.beta=0", "beta"),
        ("training.max_silent=[0.3,1.1]", "max_silent"),
        ("training.bump_value=0", "bump"),
        ("training.bump_value=inf", "bump"),
        ("training.max_weight_grad=0", "max_weight_grad"),
        ("training.input_noise=-0.1", "input_noise"),
    ],
)
def test_a_value_that_a_part_cannot_use_is_refused_when_the_run_is_built(override: str, word: str) -> None:
    with pytest.raises((ConfigError, ValueRangeError)) as caught:
        build(one(override, "backend=cpu"))
    message = str(caught.value)
    assert word in message
    assert "got" in message
    assert "\n" not in message


def test_a_sweep_has_a_job_for_every_combination_the_last_key_running_fastest() -> None:
    found = [
        (job.config.seed, job.config.optimizer.name) for job in several("seed=0,1", "optimizer=adam,sgd")
    ]
    assert found == [(0, "adam"), (0, "sgd"), (1, "adam"), (1, "sgd")]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["seed=range(0,3)"], [0, 1, 2]),
        (["seed=4"], [4]),
        ([], [0]),
        (["seed=choice(3,5)"], [3, 5]),
        (["replicas=2", "seed=0,10"], [0, 10]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_a_sweep_expands_as_hydra_would(overrides: list[str], expected: list[int]) -> None:
    assert [job.config.seed for job in several(*overrides)] == expected


def test_a_sweep_may_run_over_lists_and_over_experiments() -> None:
    shallow = [name for name in EXPERIMENTS if "deep" not in name and "conv" not in name]
    found = several("model.hidden=[10],[20]", "experiment=" + ",".join(shallow))
    assert [job.config.model.hidden for job in found][:: len(shallow)] == [[10], [20]]
    assert {job.experiment for job in found} == set(shallow)


def test_a_sweep_over_all_options_of_a_group_is_expanded_or_refused_in_one_line() -> None:
    message, found = "", []
    try:
        found = several("optimizer=glob(*)")
    except GpuspikeError as error:
        message = str(error)
    assert "\n" not in message
    assert message or {job.config.optimizer.name for job in found} == set(OPTIMIZERS)


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=0,1,-1"],
        ["training.epochs=1,many"],
        ["optimizer=adam,adm"],
        ["training.batch_size=100,99999", "seed=0,1"],
        ["training.epoch=1,2"],
        ["optimizer.learning_rate=interval(0,1)"],
    ],
    ids=" ".join,
)
def test_one_bad_job_among_good_ones_refuses_the_whole_sweep(overrides: list[str]) -> None:
    refusal(*overrides, multirun=True)


def test_a_folder_belongs_to_the_run_or_to_the_whole_sweep() -> None:
    (run,) = jobs(["hydra.run.dir=here"], multirun=False)
    assert run.folder == Path("here")
    assert {job.folder for job in several("hydra.sweep.dir=there", "seed=0,1")} == {Path("there")}
    (default,) = jobs([], multirun=False)
    assert default.folder.parts[:2] == ("outputs", "yin_yang")


def test_composing_leaves_no_trace_in_the_next_one() -> None:
    assert one("seed=5", "model.hidden=[7]").seed == 5
    assert one() == one()
    assert one().seed == 0


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model.tau_mem=inf", "training.max_weight_grad=inf", "optimizer.learning_rate=1e-30"],
        [
            "model.hidden=[]",
            "model.bias_times=[[]]",
            "model.weight_mean=[1]",
            "model.weight_std=[0]",
            "training.max_silent=[0.123456789012345678]",
        ],
        ["optimizer=sgd", "training.loss=time_mse", "dtype=float32", "backend=reference", f"seed={2**62}"],
    ],
    ids=lambda value: " ".join(value)[:30] or "defaults",
)
def test_yaml_gives_the_configuration_back(overrides: list[str]) -> None:
    config = one(*overrides)
    text = to_yaml(config)
    again = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(text)))
    assert again == config
    assert to_yaml(one(*overrides)) == text


def test_yaml_shows_plain_values_not_python_s() -> None:
    text = to_yaml(one())
    assert "!!" not in text
    plain: Any = OmegaConf.to_container(OmegaConf.create(text))
    assert plain.keys() == asdict(one()).keys()
    assert plain["optimizer"]["name"] == "adam"
    assert plain["backend"] == "auto"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lr=0.1", "did you mean optimizer.learning_rate?"),
        ("epochs=10", "did you mean training.epochs?"),
        ("batchsize=10", "did you mean training.batch_size?"),
        ("training.epoch=10", "did you mean training.epochs?"),
        ("training.lr=10", "did you mean optimizer.learning_rate?"),
        ("optimizer.lr=10", "did you mean optimizer.learning_rate?"),
        ("+training.epoch=10", "did you mean training.epochs?"),
        ("dataset=mnst", "did you mean dataset=mnist?"),
        ("experiment=mnist_bst", "did you mean experiment=mnist_best?"),
        ("substrate=brainscales2", "did you mean substrate=bss2, which is priced as brainscales2?"),
        (
            "substrate=mine.yaml",
            "a file of yours is FOLDER/substrate/mine.yaml: --config-dir FOLDER substrate=mine",
        ),
        ("model.hidden=120", "did you mean model.hidden=[120]?"),
        ("nothing", "values are given as KEY=VALUE, got nothing"),
        ("some/folder", "values are given as KEY=VALUE, got some/folder; did you mean resume=some/folder?"),
        ("zebra=1", "resume, start, plugin"),
        ("dataset=own", "did you mean experiment=own?"),
        ("experiment=robustness", "robustness/weight_bits, robustness/weight_range"),
        ("experiment=robustness/weight_bit", "did you mean experiment=robustness/weight_bits?"),
        ("experiment=spike_jiter", "did you mean experiment=robustness/spike_jitter?"),
        ("training.loss=mse", "did you mean time_mse?"),
        ("model.tau_mem=infty", "did you mean model.tau_mem=inf?"),
        ("training.max_weight_grad=.inf", "did you mean training.max_weight_grad=inf?"),
        ("model.tau_mem=long", "model.tau_mem must be a number, got long"),
    ],
)
def test_a_slip_is_told_with_what_was_meant_perhaps(override: str, words: str) -> None:
    assert refusal(override).endswith(words)


def test_a_folder_alone_is_meant_to_go_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outputs" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert refusal("outputs/x").endswith("did you mean resume=outputs/x?")


def test_a_key_and_its_value_apart_are_told_together() -> None:
    words = (
        "values are given as KEY=VALUE, without spaces, got resume outputs/x; did you mean resume=outputs/x?"
    )
    assert refusal("resume", "outputs/x") == words


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["training.xi=0.1,", "0.2"], "training.xi=0.1,0.2"),
        (["training.xi=0.1", ",", "0.2", ",0.3", "seed=1"], "training.xi=0.1,0.2,0.3"),
        (["experiment=mnist,", "yin_yang"], "experiment=mnist,yin_yang"),
    ],
)
def test_spaces_between_values_of_a_sweep_are_told(given: list[str], meant: str) -> None:
    assert refusal(*given).endswith(f"did you mean {meant}?")


def test_mistakes_of_all_jobs_of_a_sweep_are_told_once_each() -> None:
    assert refusal("training.epochs=1,abc,-2", "seed=0,1", multirun=True) == (
        "2 mistakes: (1) training.epochs must be an integer, got abc; "
        "(2) training.epochs must be at least 1, got -2"
    )
    many = refusal(f"seed={','.join(map(str, range(-20, 0)))}", multirun=True)
    assert many.startswith("10 mistakes: (1) seed must be at least 0, got -20; ")


def test_a_folder_of_files_that_is_no_group_is_told_its_key() -> None:
    assert refusal("prices=loihi").endswith("did you mean substrate.prices?")
    words = "substrate.weight_bits=3 changes a value, which substrate=NAME has no room for here"
    with pytest.raises(ConfigError, match=re.escape(words)):
        evaluations(["run=x", "substrate.weight_bits=3"], multirun=False)


@pytest.mark.parametrize(
    ("given", "noted"),
    [
        (["chip_seed=4"], 1),
        (["chip_seed=4", "substrate=bss2"], 0),
        (["chip_seed=4", "substrate.gain_std=0.1"], 0),
    ],
)
def test_a_chip_s_seed_without_a_chip_is_noted(given: list[str], noted: int) -> None:
    (job,) = jobs(given, multirun=False)
    assert len([note for note in job.notes if note.startswith("chip_seed=4 is of a chip")]) == noted


def test_folders_of_one_s_own_are_part_of_the_command(tmp_path: Path) -> None:
    assert folders_of(["--config-dir", str(tmp_path), "seed=3"]) == [str(tmp_path)]
    assert folders_of([f"--config-dir={tmp_path}"]) == [str(tmp_path)]
    assert folders_of(["seed=3"]) == []


def test_keys_of_a_run_begin_with_the_experiment() -> None:
    assert "there is no key zebra; valid keys: experiment, dataset, model," in refusal("zebra=1")


def test_a_folder_of_runs_is_told_its_latest(tmp_path: Path) -> None:
    assert latest_within(tmp_path) == ""
    for name in ("a", "b"):
        (tmp_path / "sweep" / name).mkdir(parents=True)
        (tmp_path / "sweep" / name / "config.yaml").touch()
    os.utime(tmp_path / "sweep" / "a", (2e9, 2e9))
    with pytest.raises(ConfigError, match=re.escape(f"the latest run in it, {tmp_path}/sweep/a?")):
        read_config(tmp_path / "config.yaml")


def test_a_folder_alone_is_meant_to_be_evaluated() -> None:
    with pytest.raises(ConfigError, match=r"got outputs/x; did you mean run=outputs/x\?"):
        evaluations(["outputs/x"], multirun=False)


def test_prices_by_the_name_of_the_emulation_are_told_their_own() -> None:
    with pytest.raises(ConfigError, match=r"got 'bss2'; did you mean brainscales2\?"):
        build(one("substrate.prices=bss2"))


def test_all_lists_of_a_wrong_length_are_told_at_once() -> None:
    assert refusal("model.hidden=[120,60]") == (
        "lists need one entry for each of the 3 layers after the inputs, got 2 for model.bias_times, "
        "2 for model.weight_mean, 2 for model.weight_std, 2 for training.max_silent, and "
        "model.hidden=[120, 60]; one entry stands for all layers, and null for what suits them: "
        "model.bias_times=[[0.9]] "
        "model.weight_mean=null model.weight_std=null training.max_silent=null"
    )


def test_what_the_refusal_of_lists_says_trains() -> None:
    words = refusal("model.hidden=[120,60]").rpartition("them: ")[2].split()
    parts = build(one("model.hidden=[120,60]", "backend=cpu", *words))
    assert parts.network.sizes == "4-120-60-3"
    assert [layer.bias_times for layer in parts.network.layers] == [(0.9,)] * 3


def test_one_entry_of_a_list_stands_for_all_layers() -> None:
    model = one("model.weight_mean=[1.0]", "model.weight_std=[0.5]", "model.bias_times=[[]]").model
    assert (model.weight_mean, model.weight_std, model.bias_times) == ([1.0, 1.0], [0.5, 0.5], [[], []])
    assert one("training.max_silent=[0.2]").training.max_silent == [0.2, 0.2]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["lr=1", "epochs=2"], ["(1) there is no key lr;", "(2) there is no key epochs;"]),
        (
            ["training.epochs=many", "replicas=0"],
            ["(1) training.epochs must be an integer, got many", "(2) replicas must be at least 1"],
        ),
        (
            ["replicas=0", "seed=-1", "training.epochs=0"],
            ["3 mistakes", "replicas", "seed", "training.epochs"],
        ),
        (
            ["dataset=mnst", "model=mnst"],
            ["(1) there is no dataset=mnst;", "(2) there is no model=mnst;"],
        ),
        (["nothing", "seed=0", "none"], ["2 mistakes", "got nothing", "got none"]),
        (
            ["training.loss=mse", "optimizer.name=adma"],
            ["there is no optimizer 'adma'", "there is no loss 'mse'"],
        ),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] or "no" in value[0] else "",
)
def test_all_mistakes_of_a_command_line_are_told_at_once(overrides: list[str], words: list[str]) -> None:
    for several_jobs in (False, True):
        message = refusal(*overrides, multirun=several_jobs)
        assert all(word in message for word in words), message


def test_all_values_that_parts_cannot_use_are_told_at_once() -> None:
    wrong = ["model.tau_mem=-1", "dataset.t_early=5", "training.xi=0", "substrate.weight_bits=1"]
    with pytest.raises(ConfigError) as caught:
        build(one(*wrong))
    assert all(
        word in str(caught.value) for word in ("4 mistakes", "tau_mem", "t_early", "xi", "weight_bits")
    )


def test_a_list_of_a_wrong_length_is_no_reason_to_fail() -> None:
    assert refusal("training.max_silent=[]").startswith("lists need one entry for each of the 2 layers")


def test_a_typo_in_a_file_of_one_s_own_is_told_with_the_valid_keys(tmp_path: Path) -> None:
    (tmp_path / "substrate").mkdir()
    file = tmp_path / "substrate" / "mine.yaml"
    file.write_text("name: mine\nweight_bit: 5\n")
    folder = searching(["--config-dir", str(tmp_path)])
    message = refusal(*folder, "substrate=mine")
    assert "valid keys: name, prices" in message
    assert message.endswith("did you mean substrate.weight_bits?")
    assert refusal(f"substrate={file}").endswith(f"did you mean --config-dir {tmp_path} substrate=mine?")
    file.write_text("name: mine\nweight_bits: 5\nweight_max: [1.0]\n")
    assert one(*folder, "substrate=mine").substrate.name == "mine"


def test_a_group_of_one_s_own_that_has_no_such_file_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "first.yaml").write_text("seed: 3\n")
    message = refusal(*searching(["--config-dir", str(tmp_path)]), "+mine=second")
    assert "there is no mine=second; there are first" in message


@pytest.mark.parametrize("given", [["--config-dir", "none"], ["--config-dir=none"], ["-cd", "none"]])
def test_a_folder_of_values_that_is_not_there_is_refused(given: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"must be a folder, got none, which is none"):
        searching(given)


def test_a_chip_that_names_no_prices_is_said_to_have_others_and_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "substrate").mkdir()
    (tmp_path / "substrate" / "mine.yaml").write_text("name: mine\nspike_jitter: 0.01\n")
    (job,) = jobs([*searching([f"--config-dir={tmp_path}"]), "substrate=mine"], multirun=False)
    (note,) = job.notes
    assert note.startswith(
        "substrate=mine names no prices: time and energy are told as if it were brainscales2"
    )
    assert job.config.substrate.prices == "brainscales2"
    assert read_substrate(tmp_path / "substrate" / "mine.yaml").prices == "brainscales2"
    (job,) = jobs(
        [*searching([f"--config-dir={tmp_path}"]), "substrate=mine", "substrate.prices=odin"], False
    )
    assert (job.notes, job.config.substrate.prices) == ([], "odin")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_s_groups_fit_each_other(name: str) -> None:
    (job,) = jobs([f"experiment={name}"], multirun=False)
    assert job.notes == []


@pytest.mark.parametrize(
    ("overrides", "made"),
    [
        (
            ["experiment=mnist16", "substrate=bss2"],
            "experiment=mnist16_bss2 or experiment=mnist16_unseen were",
        ),
        (
            ["substrate=bss2"],
            "experiment=yin_yang_bss2 or experiment=yin_yang_bss2_delays or experiment=yin_yang_unseen were",
        ),
        (["experiment=yin_yang_bss2"], ""),
        (["experiment=own", "dataset=patterns", "substrate=bss2"], ""),
        (["substrate=loihi", "training.match_noise=true"], ""),
    ],
)
def test_a_chip_that_has_experiments_of_its_own_is_told_with_them(overrides: list[str], made: str) -> None:
    (job,) = jobs(overrides, multirun=False)
    told = [note.partition("; ")[2] for note in job.notes if "was not made for substrate=" in note]
    assert told == [made] * bool(made)


@pytest.mark.parametrize(
    ("overrides", "strange", "better"),
    [
        (["dataset=mnist"], "model=yin_yang and training=yin_yang", "experiment=mnist"),
        (["dataset=mnist16"], "model=yin_yang and training=yin_yang", "experiment=mnist16"),
        (["dataset=fashion_mnist"], "model=yin_yang and training=yin_yang", "experiment=fashion_mnist"),
        (["dataset=npz", "dataset.path=x.npz"], "model=yin_yang and training=yin_yang", "experiment=own"),
        (["dataset=patterns"], "model=yin_yang and training=yin_yang", "experiment=own dataset=patterns"),
        (["dataset=patterns", "model=own"], "training=yin_yang", "experiment=own dataset=patterns"),
        (
            ["dataset=patterns", "model.weight_mean=null"],
            "training=yin_yang",
            "experiment=own dataset=patterns",
        ),
        (["model=mnist"], "model=mnist", "experiment=yin_yang"),
        (["experiment=mnist", "dataset=yin_yang"], "model=mnist and training=mnist", "experiment=yin_yang"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_groups_that_were_made_for_other_data_are_told_with_an_experiment_that_fits(
    overrides: list[str], strange: str, better: str
) -> None:
    (job,) = jobs(overrides, multirun=False)
    (note,) = job.notes
    assert f"is trained with {strange}, made for other data; {better} has a network" in note
    again = [text for text in overrides if text.startswith("dataset.")]
    (fitting,) = jobs([*better.split(), *again], multirun=False)
    assert fitting.notes == []
    assert fitting.config.dataset.name == job.config.dataset.name


@pytest.mark.parametrize(
    ("overrides", "title"),
    [
        ([], "yin_yang"),
        (["experiment=mnist_best"], "mnist_best"),
        (["experiment=mnist", "dataset=fashion_mnist"], "fashion_mnist"),
        (["experiment=own", "dataset.path=my/flowers.npz"], "flowers"),
        (["dataset=npz", "dataset.path=flowers.npz"], "flowers"),
        (["experiment=own", "dataset=patterns"], "patterns"),
        (["dataset=patterns"], "patterns"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_run_is_called_by_its_experiment_or_by_its_data(overrides: list[str], title: str) -> None:
    (job,) = jobs(overrides, multirun=False)
    assert job.experiment == title


def test_sizes_that_a_data_set_cannot_know_are_asked_for() -> None:
    words = "dataset.n_train must be given: the data set patterns has as many samples as are asked for"
    assert refusal("dataset=patterns", "dataset.n_train=null") == words


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--resume=outputs/x", "values are given without dashes: resume=outputs/x, got --resume=outputs/x"),
        ("--resume outputs/x", "values are given without dashes: resume=outputs/x, got --resume outputs/x"),
        ("--experiment=mnist", "values are given without dashes: experiment=mnist, got --experiment=mnist"),
        ("--replicas -m", "values are given without dashes: replicas=VALUE, got --replicas"),
        (
            "--training.epochs",
            "values are given without dashes: training.epochs=VALUE, got --training.epochs",
        ),
        ("--epochs=3", "there is no flag --epochs; did you mean training.epochs=3?"),
        ("--epoch 3", "there is no flag --epoch; did you mean training.epochs=3?"),
        ("--confg job", "there is no flag --confg; did you mean --cfg?"),
        ("--conf job", "there is no flag --conf"),
    ],
)
def test_values_with_dashes_are_refused(argument: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        refuse_dashes(argument.split(), Config)
    refuse_dashes(["--multirun", "--cfg", "job", "-m", "resume=x", "--help", "--multi"], Config)


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (["dataset.path=x.npz"], "dataset.path is read by npz, not by the data set yin_yang; experiment=own"),
        (
            ["training.match_noise=true"],
            "training.match_noise=true has no noise to match: substrate=ideal neith",
        ),
        (["training.match_noise=true", "substrate.spike_jitter=0.1"], None),
        (["training.match_noise=true", "substrate.time_grid=0.1"], None),
        (
            ["training.match_noise=true", "substrate=bss2", "substrate.gradient=ideal"],
            "training.match_noise=true has no noise to match: with substrate.gradient=ideal training is",
        ),
        (["training.waking=3"], "training.waking is read with training.silence=waking, got bumping"),
        (
            ["training.silence=none", "training.bump_value=3"],
            "training.bump_value is read with training.silence=bumping",
        ),
        (
            ["training.silence=none", "training.max_silent=[1,1]"],
            "training.max_silent is read with training.silence=b",
        ),
        (
            ["optimizer.schedule=cosine", "optimizer.gamma=0.5"],
            "optimizer.gamma is read with optimizer.schedule=step, g",
        ),
        (
            ["training.xi_per_noise=9"],
            "training.xi_per_noise is read with training.match_noise=true, got false",
        ),
        (
            ["start=there", "model.weight_mean=[9,9]"],
            "model.weight_mean is of networks that are drawn, and start=",
        ),
        (["start=there", "model.fires=null"], "model.fires is of networks that are drawn, and start="),
        (
            ["substrate=bss2", "substrate.gradient=ideal", "substrate.new_chip=step"],
            "substrate.new_chip=step is of a training on chips, and with substrate.gradient=ideal tr",
        ),
        (["optimizer=sgd", "optimizer.beta1=0.5"], "optimizer.beta1 is read by adam, adamw, not by the"),
        (["training.loss=time_mse", "training.xi=0.3"], "training.xi is read by ttfs_cross_entropy, not by"),
        (["training.xi=0.3", "dataset.n_train=500", "training.max_silent=[1,1]"], None),
    ],
)
def test_a_value_that_nothing_reads_is_noted(overrides: list[str], note: str | None) -> None:
    (job,) = jobs(overrides, multirun=False)
    found = [text for text in job.notes if "was not made for substrate=" not in text]
    assert [text.startswith(str(note)) for text in found] == ([] if note is None else [True])


@pytest.mark.parametrize(
    ("overrides", "noted"),
    [
        (["training.trials=3"], True),
        (["training.trials=3", "training.input_noise=0.1"], False),
        (["training.trials=3", "substrate=bss2"], False),
        (["training.trials=3", "substrate.spike_jitter=0.1"], False),
        (["training.trials=3", "substrate.weight_max=[]"], True),
    ],
)
def test_trials_that_do_not_differ_are_noted(overrides: list[str], noted: bool) -> None:
    (job,) = jobs(overrides, multirun=False)
    assert any("training.trials=3 presents each sample 3 times alike" in note for note in job.notes) is noted


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ([], "ideal"),
        (["substrate=bss2"], "bss2"),
        (["substrate.threshold_std=0.1"], "ideal with threshold_std=0.1"),
        (["substrate.weight_max=[2.0,3.0]"], "ideal with weight_max=[2.0, 3.0]"),
    ],
)
def test_an_ideal_chip_that_is_distorted_is_called_by_its_distortions(
    overrides: list[str], label: str
) -> None:
    (job,) = jobs(overrides, multirun=False)
    assert chip_label(job.config.substrate) == label


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["substrate.time_grid=0.05"],
            "substrate.time_grid=0.05 is coarser than the times that training.xi=0.01",
        ),
        (
            ["substrate.spike_jitter=0.1", "substrate.time_grid=0.05"],
            "substrate.time_grid=0.05 and substrate.spike",
        ),
        (["substrate.time_grid=0.05", "training.match_noise=true"], ""),
        (["substrate.time_grid=0.05", "training.xi=0.05"], ""),
        (["substrate.time_grid=0.05", "substrate.gradient=ideal"], ""),
        (["substrate.time_grid=0.05", "training=yin_yang", "training.loss=time_mse"], ""),
    ],
)
def test_a_loss_that_is_sharper_than_the_chip_is_noted(given: list[str], words: str) -> None:
    (job,) = jobs(["experiment=yin_yang_best", *given], multirun=False)
    told = [note for note in job.notes if "coarser" in note]
    assert [note.startswith(words) for note in told] == [True] * bool(words)
    assert all("training.match_noise=true has xi=" in note for note in told)
