"""Price files: what is shipped is complete and named honestly, what is mistaken is refused in one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpuspike.accountant import PER_TERM, find, read_prices
from gpuspike.accountant.prices import GRADES
from gpuspike.accountant.units import UNITS, band, plain_band
from gpuspike.config.schema import conf_folder
from gpuspike.errors import ConfigError

FOLDER = conf_folder() / "prices"
SHIPPED = sorted(file.stem for file in FOLDER.glob("*.yaml"))
NUMBER = {"value": 1, "unit": "1", "source": "here", "grade": "measured"}
PRICE = {"per": "spike", "scope": "per_term", "includes": "all", **NUMBER, "unit": "pJ"}
ANALOG = {"tau_syn": NUMBER | {"unit": "us"}, "trial": NUMBER | {"unit": "tau_syn"}}
CLOCKED = {
    "step": NUMBER | {"unit": "ms"},
    "steps_per_tau_syn": NUMBER,
    "trial": NUMBER | {"unit": "tau_syn"},
}
CHIP = {"name": "chip", "setting": "lab", "time": ANALOG, "terms": {"spikes": PRICE}}


def write(folder: Path, content: Any) -> Path:
    path = folder / "chip.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def changed(path: str, value: Any, base: dict[str, Any] = CHIP) -> dict[str, Any]:
    """The chip with one entry set, or removed where the value is `...`."""
    chip = copy.deepcopy(base)
    *parents, last = path.split(".")
    part = chip
    for key in parents:
        part = part[key]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return chip


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_prices(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- what is shipped


def test_the_chips_of_the_comparison_are_shipped() -> None:
    assert set(SHIPPED) == {
        "brainscales2", "brainscales2_2022", "digital_45nm", "dynapse", "loihi", "loihi2", "odin",
        "spinnaker", "spinnaker2", "truenorth",
    }  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_every_number_that_is_shipped_has_unit_source_and_grade(name: str) -> None:
    prices = read_prices(FOLDER / f"{name}.yaml")
    assert prices.key == name
    told = prices.told()
    assert len(told) == len(prices.items) + len(prices.times) + len(prices.capacity)
    for number in told.values():
        assert number["unit"]
        assert number["source"]
        assert number["grade"] in GRADES
    assert all(item.number.includes for item in prices.items)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_was_never_checked_names_no_source(name: str) -> None:
    for key, number in read_prices(FOLDER / f"{name}.yaml").told().items():
        if number["grade"] == "reported, unchecked":
            assert not any(year in number["source"] for year in ("19", "20")), key
            assert "et al" not in number["source"], key


def test_the_paper_s_setting_gives_its_energy_and_throughput() -> None:
    prices = read_prices(FOLDER / "brainscales2.yaml")
    power, tau = prices.items[0].number.band, prices.times["tau_syn"].band
    assert power is not None
    assert tau is not None
    np.testing.assert_allclose(prices.trial * tau, 48e-6, rtol=1e-15)
    np.testing.assert_allclose(power * prices.trial * tau, 8.4e-6, rtol=1e-15)


def test_the_later_setting_gives_its_energy() -> None:
    prices = read_prices(FOLDER / "brainscales2_2022.yaml")
    power, tau = prices.items[0].number.band, prices.times["tau_syn"].band
    assert power is not None
    assert tau is not None
    np.testing.assert_allclose(prices.trial * tau, 11.8e-6, rtol=1e-15)
    np.testing.assert_allclose(power * 11.8e-6, 2.4e-6, rtol=1e-4)


def test_a_chip_is_found_by_its_name_or_by_a_path(tmp_path: Path) -> None:
    assert find("loihi", FOLDER) == FOLDER / "loihi.yaml"
    own = write(tmp_path, CHIP)
    assert find(str(own), FOLDER) == own
    assert read_prices(own).scope == PER_TERM


@pytest.mark.parametrize("name", ["lohi", "", "../prices/loihi", "/loihi"])
def test_an_unknown_chip_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"prices must be one of brainscales2, .*truenorth, or a path") as e:
        find(name, FOLDER)
    assert repr(name) in str(e.value)


def test_a_file_that_is_not_there_is_told_with_the_folder_that_it_is_seen_from() -> None:
    with pytest.raises(ConfigError, match=r"prices: there is no file nothing\.yaml, seen from /"):
        find("nothing.yaml", FOLDER)


# ---- units


@given(
    st.just(0.0) | st.floats(1e-30, 1e12),
    st.sampled_from(sorted(UNITS["energy"])),
    st.sampled_from(["J", "W", "s"]),
)
def test_rescaling_a_unit_changes_nothing(value: float, unit: str, base: str) -> None:
    dimension = {"J": "energy", "W": "power", "s": "time"}[base]
    unit = unit.replace("J", base)
    expected = value * UNITS[dimension][unit]  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(band("x", value, unit, dimension), expected, rtol=1e-15)  # pyright: ignore
    np.testing.assert_allclose(band("x", value, base, dimension), value)  # pyright: ignore


def test_a_price_is_the_nearest_float_of_its_decimal() -> None:
    assert plain_band(band("x", 175, "mW", "power")) == 0.175
    assert plain_band(band("x", [7.5, 9.6], "nJ", "energy")) == [7.5e-9, 9.6e-9]
    assert plain_band(band("x", 23.6, "pJ", "energy")) == 23.6e-12


@pytest.mark.parametrize("value", [-1, [2, 1], [1, 2, 3], [], "1", True, float("nan"), float("inf"), {}])
def test_a_value_that_is_none_is_refused(value: Any, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, changed("terms.spikes.value", value)))
    assert message.startswith(
        "prices chip, terms.spikes: the value must be a number of 0 or more, [low, high]"
    )


def test_numbers_may_be_written_as_in_the_files_of_a_chip(tmp_path: Path) -> None:
    text = yaml.safe_dump(changed("capacity", {"neurons": NUMBER | {"value": 512}}))
    text = text.replace("unit: '1'", "unit: 1").replace(
        "unit: pJ\n    value: 1\n", "unit: pJ\n    value: 1e-3\n"
    )
    assert "unit: 1\n" in text
    assert "value: 1e-3\n" in text
    prices = read_prices(write(tmp_path, text))
    assert prices.number_of("neurons") == 512
    assert plain_band(prices.items[0].number.band) == 1e-15
    low_high = read_prices(write(tmp_path, text.replace("value: 1e-3", "value: [1e-3, 2E-3]")))
    assert plain_band(low_high.items[0].number.band) == [1e-15, 2e-15]


# ---- what is refused


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("terms.spikes.unit", "mW", ["terms.spikes", "pJ", "energy", "'mW'"]),
        ("terms.spikes.unit", "pj", ["terms.spikes", "energy", "'pj'"]),
        ("terms.spikes.unit", None, ["terms.spikes", "energy", "None"]),
        ("terms.spikes.unit", ..., ["terms.spikes", "unit is missing"]),
        ("terms.spikes.source", ..., ["terms.spikes", "source is missing"]),
        ("terms.spikes.source", " ", ["terms.spikes", "source must be a text"]),
        ("terms.spikes.grade", "sure", ["grade", "measured", "reported, unchecked", "'sure'"]),
        ("terms.spikes.includes", ..., ["terms.spikes", "includes is missing"]),
        ("terms.spikes.scope", "all_in", ["terms.spikes", "scope must be per_term", "'all_in'"]),
        ("terms.spikes.scope", ..., ["terms.spikes", "scope must be per_term", "None"]),
        ("terms.spikes.per", "wish", ["per must be one of", "synaptic_event", "'wish'"]),
        ("terms.spikes.per", "chip", ["terms.spikes", "power", "'pJ'"]),
        ("terms.spikes.per", "neuron_update", ["neuron_update needs time.steps_per_tau_syn"]),
        ("terms.spikes.per", "hop", ["hop needs capacity.core_neurons"]),
        ("terms.spikes.cost", 1, ["unknown key 'cost'", "value", "unit"]),
        ("terms", {}, ["terms: must have at least one term, got none"]),
        ("terms", 3, ["terms", "must be a mapping, got 3"]),
        ("time.trial.value", "1e-3x", ["time.trial: the value must be a number", "got '1e-3x'"]),
        ("capacity", {"neurons": NUMBER | {"unit": 2}}, ["capacity.neurons: the unit must be one of 1", "2"]),
        ("terms", ..., ["needs either all_in or terms", "neither"]),
        ("all_in", PRICE, ["needs either all_in or terms, which are never added", "both"]),
        ("name", 3, ["name must be a text"]),
        ("name", ..., ["name is missing"]),
        ("colour", "red", ["unknown key 'colour'", "all_in"]),
        ("time.trial", ..., ["time: trial is missing"]),
        ("time.tau_syn", ..., ["needs either tau_syn, or step and steps_per_tau_syn, got trial"]),
        ("time.step", NUMBER, ["needs either tau_syn, or step"]),
        ("time.trial.value", [1, 2], ["time.trial: must be one positive number", "[1, 2]"]),
        ("time.trial.value", 0, ["time.trial: must be one positive number"]),
        ("time.trial.unit", "W", ["time.trial", "tau_syn", "'W'"]),
        ("time.tau_syn.value", 0, ["time.tau_syn: must be positive"]),
        ("time.tau_syn.unit", "J", ["time.tau_syn", "us", "'J'"]),
        ("capacity", {"neurons": NUMBER | {"value": 1.5}}, ["capacity.neurons", "whole number", "1.5"]),
        ("capacity", {"rows": NUMBER}, ["unknown key 'rows'", "neurons"]),
        ("capacity", {"merges": 1}, ["merges must be true or false", "1"]),
        ("terms.spikes", 3, ["terms.spikes", "must be a mapping", "3"]),
    ],
)
def test_a_mistake_in_a_file_is_refused_where_it_stands(
    path: str, value: Any, words: list[str], tmp_path: Path
) -> None:
    message = refusal(write(tmp_path, changed(path, value)))
    assert message.startswith("prices chip")
    assert all(word in message for word in words), message


def test_a_trial_in_seconds_needs_one_known_tau_syn(tmp_path: Path) -> None:
    chip = changed("time.trial.unit", "us")
    assert read_prices(write(tmp_path, chip)).trial == 1.0
    for value in (None, [1, 2]):
        message = refusal(write(tmp_path, changed("time.tau_syn.value", value, chip)))
        assert "time.tau_syn: must be one positive number" in message
    clocked = changed("time", copy.deepcopy(CLOCKED))
    message = refusal(write(tmp_path, changed("time.trial.unit", "us", clocked)))
    assert "tau_syn (model time), got 'us'" in message


@pytest.mark.parametrize("text", ["", "[1, 2", "- a\n- b", "3", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, text))
    assert "chip" in message


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "chip.yaml").mkdir()
    assert "cannot read the prices" in refusal(tmp_path / "chip.yaml")
